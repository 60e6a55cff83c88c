"""Whatever is uploaded: an answer below 500, one line, and a service that goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.fuzzing import damage_bytes
from tests.engine.bright import picture
from tests.serving.running import Answer, Client, encoded, form, running

KINDS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "TGA", "ICO", "JPEG2000")
FILES = {kind: encoded(picture((20, 30), (5, 5, 15, 15)), kind) for kind in KINDS}
FORM, FORM_TYPE = form(("a.png", FILES["PNG"]), ("b.jpg", FILES["JPEG"]))

many = settings(max_examples=60, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with running(max_bytes=100_000, timeout=20) as found:
        yield found


def check(answer: Answer) -> None:
    assert answer.status == 200 or 400 <= answer.status < 500, answer
    if answer.status != 200:
        assert answer.json["detail"]
        assert "\n" not in answer.json["detail"]


@many
@given(content=st.binary(max_size=2000), kind=st.sampled_from(["image/png", "", "image/tiff"]))
def test_random_bytes(client: Client, content: bytes, kind: str) -> None:
    check(client.post(content, Content_Type=kind))


@many
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32), cut=st.floats(0, 1))
def test_damaged_images(client: Client, kind: str, seed: int, cut: float) -> None:
    content = damage_bytes(random.Random(seed), FILES[kind])
    check(client.post(content))
    check(client.post(FILES[kind][: int(cut * len(FILES[kind]))]))


@many
@given(seed=st.integers(0, 2**32), path=st.sampled_from(["/detect", "/detect/batch"]))
def test_damaged_forms(client: Client, seed: int, path: str) -> None:
    check(client.post(damage_bytes(random.Random(seed), FORM), path, Content_Type=FORM_TYPE))


@many
@given(
    kind=st.one_of(
        st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=60),
        st.sampled_from(["idna", "punycode", "hex", "utf-16", "undefined", "unicode_escape"]).map(
            lambda charset: f"{FORM_TYPE}; charset={charset}"
        ),
        st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=90).map(
            lambda boundary: f"multipart/form-data; boundary={boundary}"
        ),
    )
)
def test_odd_content_types(client: Client, kind: str) -> None:
    check(client.post(FORM, Content_Type=kind))


@many
@given(
    query=st.dictionaries(
        st.sampled_from(["conf", "classes", "max_det", "format", "image_id", "x"]),
        st.one_of(st.text(max_size=20), st.floats().map(str), st.integers().map(str)),
        max_size=3,
    )
)
def test_odd_queries(client: Client, query: dict[str, str]) -> None:
    from urllib.parse import urlencode

    encoded_query = urlencode(query, errors="replace")
    check(client.post(FILES["PNG"], f"/detect?{encoded_query}"))


def test_it_still_works(client: Client) -> None:
    assert client.post(encoded()).json["detections"][0]["label"] == "cat"
    assert client.service.memory.used == 0
