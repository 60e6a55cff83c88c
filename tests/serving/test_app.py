"""Endpoints over real HTTP: answers, parameters, limits, token."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import refused_images
from tests.engine.bright import bright_runtime, picture
from tests.serving.running import Client, GatedRuntime, encoded, form, running, until
from tests.serving.test_metrics import samples

BOX = (48, 32, 120, 96)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with running(max_bytes=300_000, max_pixels=100_000, queue=8) as found:
        yield found


def three_colors() -> bytes:
    """A picture with a cat (0.95), a 猫 (0.88) and a dog (0.73)."""
    pixels = np.asarray(picture()).copy()
    pixels[5:25, 5:25, 1] = 255
    pixels[100:120, 130:180, 2] = 255
    return encoded(Image.fromarray(pixels))


class TestDetect:
    def test_what_the_api_says(self, client: Client) -> None:
        from detrkit.engine.predictor import Predictor

        answer = client.post(three_colors())
        assert answer.status == 200
        assert answer.json == Predictor(bright_runtime()).predict(three_colors()).to_dict()
        assert [d["label"] for d in answer.json["detections"]] == ["cat", "猫", "dog"]
        np.testing.assert_allclose(answer.json["detections"][0]["box_xyxy"], BOX, atol=2)

    @pytest.mark.parametrize(
        "kind",
        [
            "image/png",
            "image/x-anything",
            "application/octet-stream",
            "application/x-www-form-urlencoded",
            "IMAGE/JPEG; q=1",
        ],
    )
    def test_the_content_says_what_it_is(self, client: Client, kind: str) -> None:
        assert client.post(encoded(kind="WEBP"), Content_Type=kind).status == 200

    def test_a_form(self, client: Client) -> None:
        body, kind = form(("katze 猫.png", encoded()), field="anything")
        answer = client.post(body, Content_Type=kind)
        assert answer.json["image"] == "katze 猫.png"
        assert client.post(encoded()).json["image"] is None

    def test_filters(self, client: Client) -> None:
        def labels(query: str) -> list[str]:
            answer = client.post(three_colors(), f"/detect?{query}")
            return [d["label"] for d in answer.json["detections"]]

        assert labels("conf=0.9") == ["cat"]
        assert labels("classes=DOG,1") == ["猫", "dog"]
        assert labels("classes=dog&classes=cat") == ["cat", "dog"]
        assert labels("max_det=2") == ["cat", "猫"]
        assert len(labels("conf=0")) == 9

    def test_coco(self, client: Client) -> None:
        answer = client.post(encoded(), "/detect?format=coco&image_id=17")
        (entry,) = answer.json
        assert (entry["image_id"], entry["category_id"]) == (17, 4)
        np.testing.assert_allclose(entry["bbox"], [48, 32, 72, 64], atol=2)
        assert client.post(encoded(), "/detect?image_id=a1").json["image_id"] == "a1"

    def test_exif_turns_the_picture(self, client: Client) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        answer = client.post(encoded(kind="JPEG", exif=exif, quality=95)).json
        assert (answer["height"], answer["width"]) == (192, 128)


class TestBatch:
    def test_answers_in_order_and_broken_ones_said(self, client: Client) -> None:
        body, kind = form(
            ("a.png", encoded()),
            ("b.png", b"no image"),
            ("c.png", encoded(picture(channel=2))),
            ("huge.png", encoded(Image.new("1", (500, 500)))),
        )
        answer = client.post(body, "/detect/batch", Content_Type=kind)
        assert answer.status == 200
        a, b, c, huge = answer.json["images"]
        assert (a["image"], a["detections"][0]["label"]) == ("a.png", "cat")
        assert b == {
            "image": "b.png",
            "status": 422,
            "detail": "b.png: not an image, or damaged at its start",
        }
        assert c["detections"][0]["label"] == "dog"
        assert huge["status"] == 413

    def test_too_many(self, client: Client) -> None:
        body, kind = form(*[(f"{i}.png", encoded()) for i in range(9)])
        answer = client.post(body, "/detect/batch", Content_Type=kind)
        assert (answer.status, answer.json["detail"]) == (413, "more than 8 images")
        two, kind = form(("a", encoded()), ("b", encoded()))
        answer = client.post(two, Content_Type=kind)
        assert (answer.status, answer.json["hint"]) == (413, "POST /detect/batch takes several")


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "said"),
    [
        ("/detect", b"", "image/png", 400, "no body"),
        ("/detect", b"no image", "image/png", 422, "not an image"),
        ("/detect", encoded()[:200], "image/png", 422, "damaged"),
        ("/detect", encoded(kind="JPEG")[:-300], "image/jpeg", 422, "truncated"),
        ("/detect", b"{}", "application/json", 415, "application/json is not accepted"),
        ("/detect", b"x" * 300_001, "image/png", 413, "larger than 0.3 MB"),
        ("/detect", encoded(Image.new("1", (400, 251))), "image/png", 413, "100,000 pixels"),
        ("/detect", b"", "multipart/form-data; boundary=line", 400, "holds no file"),
        ("/detect", b"x", "multipart/form-data", 400, "boundary"),
        ("/detect", b"--line--", "multipart/form-data; boundary=line", 400, "holds no file"),
        ("/detect", b"nothing", "multipart/form-data; boundary=line", 400, "cannot be read"),
        ("/detect", form(("a.png", b"abc"))[0][:-4], form()[1], 400, "ends too early"),
        ("/detect", form(("", b""))[0], form()[1], 422, "the image: the file is empty"),
        ("/detect?classes=dgo", encoded(), "image/png", 422, "did you mean `dog`"),
        ("/detect?classes=7", encoded(), "image/png", 422, "outside 0 to 2"),
        ("/detect?conf=2", encoded(), "image/png", 422, "conf: "),
        ("/detect?conf=nan", encoded(), "image/png", 422, "conf: "),
        ("/detect?max_det=0", encoded(), "image/png", 422, "max_det: "),
        ("/detect?format=voc", encoded(), "image/png", 422, "format: "),
        ("/nothing", b"", "image/png", 404, "Not Found"),
        ("/info", b"", "image/png", 405, "Method Not Allowed"),
    ],
)  # fmt: skip
def test_mistakes(
    client: Client, path: str, body: bytes, kind: str, status: int, said: str
) -> None:
    answer = client.post(body, path, Content_Type=kind)
    assert answer.status == status
    assert said in answer.json["detail"]
    assert "\n" not in answer.json["detail"]
    assert set(answer.json) <= {"detail", "hint"}


def test_a_body_of_unsaid_length_is_bounded(client: Client) -> None:
    connection = client.connect()
    connection.request(
        "POST", "/detect", iter([b"x" * 100_000] * 4), {"Content-Type": "image/png"},
        encode_chunked=True,
    )  # fmt: skip
    assert connection.getresponse().status == 413
    connection.close()


def test_hostile_images(shared_data: Callable[[str], Path]) -> None:
    folder = shared_data("hostile_images")
    with running() as client:
        statuses = {
            path.name: client.post(path.read_bytes()).status
            for path in (folder / "files").iterdir()
        }
    refused = refused_images(folder)
    assert {name for name, status in statuses.items() if status != 200} == refused
    assert statuses["decompression_bomb.png"] == 413
    assert statuses["zero_bytes.jpg"] == 400
    assert all(400 <= statuses[name] < 500 for name in refused)


class TestInformation:
    def test_info(self, client: Client) -> None:
        info = client.get("/info").json
        assert info["model"] == "bright.pth"
        assert [c["name"] for c in info["classes"]] == ["cat", "猫", "dog"]
        assert info["classes"][0]["category_id"] == 4
        assert info["image_spec"]["size"] == [64, 96]
        assert info["max_bytes"] == 300_000

    def test_openapi(self, client: Client) -> None:
        described = client.get("/openapi.json").json
        detect = described["paths"]["/detect"]["post"]
        assert "multipart/form-data" in detect["requestBody"]["content"]
        assert set(detect["responses"]) >= {"200", "401", "413", "415", "422", "503", "504"}
        for path, method in (("/docs", "get"), ("/redoc", "get")):  # they would load from elsewhere
            assert client.ask(method.upper(), path).status == 404

    def test_metrics(self) -> None:
        with running() as client:
            body, kind = form(("a.png", encoded()), ("b.png", encoded()))
            client.post(body, "/detect/batch", Content_Type=kind)
            client.post(b"no image")
            client.get("/a/path/of/a/scanner")
            answer = client.get("/metrics")
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        found = samples(answer.body.decode().replace("+Inf", "inf"))
        assert found['detrkit_requests_total{path="/detect/batch",status="200"}'] == 1
        assert found['detrkit_requests_total{path="/detect",status="422"}'] == 1
        assert found['detrkit_requests_total{path="other",status="404"}'] == 1
        assert found["detrkit_request_seconds_count"] == 2
        assert found["detrkit_batch_images_sum"] == 2
        assert found["detrkit_queue_images"] == found["detrkit_held_bytes"] == 0
        assert found["detrkit_ready"] == 1
        assert not any("scanner" in name for name in found)

    def test_health_follows_the_model(self) -> None:
        runtime = GatedRuntime()
        runtime.gate.clear()
        with running(runtime) as client:
            assert client.get("/health").json == {"status": "starting"}
            assert client.get("/health").status == 503
            runtime.gate.set()
            client.wait_until_ready()
            runtime.failing = True
            assert client.post(encoded()).status == 500
            assert client.get("/health").json == {"status": "failing"}
            runtime.failing = False
            assert client.post(encoded()).status == 200
            assert client.ask("HEAD", "/health").status == 200


class TestToken:
    @pytest.fixture(scope="class")
    @staticmethod
    def locked() -> Iterator[Client]:
        with running(token="open sesame") as found:
            yield found

    @pytest.mark.parametrize("header", [None, "", "Bearer ", "Bearer wrong", "open sesame",
                                        "Bearer open sesamé", "bearer open sesame"])  # fmt: skip
    def test_wrong(self, locked: Client, header: str | None) -> None:
        headers = {} if header is None else {"Authorization": header}
        for method, path in (("POST", "/detect"), ("GET", "/info"), ("GET", "/metrics"),
                             ("GET", "/openapi.json"), ("GET", "/nothing")):  # fmt: skip
            answer = locked.ask(method, path, **headers)
            assert answer.status == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "open sesame" not in answer.body.decode()

    def test_right(self, locked: Client, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        assert locked.post(encoded(), Authorization="Bearer open sesame").status == 200
        assert locked.post(encoded(), Authorization="Bearer open sesam").status == 401
        assert "sesam" not in caplog.text

    def test_the_page_and_the_probe_are_open(self, locked: Client) -> None:
        for path in ("/", "/demo.js", "/demo.css", "/health"):
            assert locked.get(path).status == 200


def test_other_sites_are_kept_out(client: Client) -> None:
    answer = client.post(encoded(), Origin="https://example.org")
    assert not [name for name in answer.headers if name.startswith("access-control")]
    asked = {"Origin": "https://example.org", "Access_Control_Request_Method": "POST",
             "Access_Control_Request_Headers": "authorization"}  # fmt: skip
    with running(origins=("https://example.org",), token="t") as open_one:
        answer = open_one.ask("OPTIONS", "/detect", **asked)
        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        asked["Origin"] = "https://example.com"
        answer = open_one.ask("OPTIONS", "/detect", **asked)
        assert "access-control-allow-origin" not in answer.headers


def test_pages_are_self_contained(client: Client) -> None:
    """Nothing is loaded from elsewhere, and the browser is told so."""
    for path in ("/", "/demo.css", "/demo.js"):
        answer = client.get(path)
        assert answer.status == 200
        text = answer.body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "//" not in text.replace("// ", "")
    assert "default-src 'none'" in client.get("/").headers["content-security-policy"]


def test_many_at_once_get_what_they_would_get_alone() -> None:
    """Pictures of different sizes, some broken, with different filters, in shared batches."""
    from concurrent.futures import ThreadPoolExecutor

    runtime = GatedRuntime()
    rng = np.random.default_rng(0)
    bodies = []
    for number in range(40):
        if number % 7 == 3:
            bodies.append(b"no image")
            continue
        h, w = (int(n) for n in rng.integers(60, 150, 2))
        bodies.append(encoded(picture((h, w), (5, 5, w - 9, h - 12), number % 3)))
    with running(runtime, queue=100, batch_wait=0.02) as client:
        alone = [client.post(body) for body in bodies]
        runtime.batches.clear()
        with ThreadPoolExecutor(16) as threads:
            together = list(threads.map(client.post, bodies))
        until(lambda: client.service.memory.used == 0)
    for one, other in zip(alone, together, strict=True):
        assert one.status == other.status
        assert one.json == other.json
    assert max(runtime.batches) > 1
    assert json.loads(alone[0].body)["detections"][0]["label"] == "cat"
