"""Weights by URL and from the hub: caches, checksums, and what is said without a connection."""

from __future__ import annotations

import hashlib
import http.server
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from detrkit.config.published import published
from detrkit.engine.download import fetch, is_url, locate
from detrkit.engine.weights import read_state
from detrkit.errors import MissingExtraError, WeightsError

STATE = {"layer.weight": torch.arange(4.0)}


class Server:
    """A web server over a folder that counts what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.folder = folder
        asked = self.asked

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args: object) -> None:
                super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

            def do_GET(self) -> None:
                asked.append(self.path)
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def offer(self, name: str) -> str:
        """Puts a file there and returns its SHA-256."""
        path = self.folder / name
        torch.save(STATE, path)
        return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "www").mkdir()
    server = Server(tmp_path / "www")
    yield server
    server.http.shutdown()
    server.http.server_close()
    server.thread.join()


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches; no proxy between us and the server."""
    monkeypatch.setenv("DETRKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.offer("best.pth")
    with caplog.at_level(logging.INFO, "detrkit"):
        first = fetch(f"{server.url}/best.pth")
    assert f"downloading {server.url}/best.pth" in caplog.text
    assert fetch(f"{server.url}/best.pth") == first
    assert server.asked == ["/best.pth"]
    assert torch.equal(read_state(f"{server.url}/best.pth")["layer.weight"], torch.arange(4.0))


def test_equal_names_of_different_places(server: Server) -> None:
    (server.folder / "a").mkdir()
    (server.folder / "b").mkdir()
    (server.folder / "a" / "best.pth").write_bytes(b"a")
    (server.folder / "b" / "best.pth").write_bytes(b"b")
    files = [fetch(f"{server.url}/{folder}/best.pth") for folder in "ab"]
    assert [file.read_bytes() for file in files] == [b"a", b"b"]


def test_the_digest_in_the_name(server: Server, caches: Path) -> None:
    """torch hub's convention, in its folder: `net-<digits>.pth`."""
    digest = server.offer("net.pth")
    name = f"net-{digest[:8]}.pth"
    (server.folder / "net.pth").rename(server.folder / name)
    place = fetch(f"{server.url}/{name}")
    assert place == caches / "hub" / "checkpoints" / name
    # another program's copy is used, and checked
    place.write_bytes(b"something else")
    with pytest.raises(WeightsError, match="not the expected file") as error:
        fetch(f"{server.url}/{name}")
    assert "remove it" in (error.value.hint or "")
    assert server.asked == [f"/{name}"]


def test_a_wrong_file_is_not_kept(server: Server, caches: Path) -> None:
    torch.save(STATE, server.folder / "net-00000000.pth")
    with pytest.raises(WeightsError, match=r"expected 00000000"):
        fetch(f"{server.url}/net-00000000.pth")
    assert not list((caches / "hub" / "checkpoints").iterdir())


def test_a_given_digest(server: Server) -> None:
    digest = server.offer("best.pth")
    url = f"{server.url}/best.pth"
    with pytest.raises(WeightsError, match="not the expected file"):
        fetch(f"{url}#sha256={'0' * 64}")
    assert fetch(f"{url}#sha256={digest.upper()}").is_file()
    assert fetch(url, sha256=digest[:10]).is_file()
    with pytest.raises(WeightsError, match="8 to 64"):
        fetch(f"{url}#sha256=xyz")


def test_names_that_mean_one_file(server: Server, caches: Path) -> None:
    server.offer("ResNet18_vd.pth")
    place = fetch(f"{server.url}/ResNet18_vd.pth", shared=True)
    assert place == caches / "hub" / "checkpoints" / "ResNet18_vd.pth"


def test_published_weights_have_names_of_their_own(
    caches: Path,
) -> None:
    urls = [weights.url for model in published().values() for weights in model.weights]
    files = [url for url in urls if url.endswith(".pth")]
    assert len(files) > 20
    assert len({url.rsplit("/", 1)[1] for url in files}) == len({*files})
    place = caches / "hub" / "checkpoints" / "dfine_n_coco.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"by hand")
    url = next(url for url in files if url.endswith("/dfine_n_coco.pth"))
    assert locate(url) == place


@pytest.mark.parametrize("address", ["/absent.pth", None])
def test_the_error_says_where_to_put_the_file(server: Server, address: str | None) -> None:
    url = f"{server.url}{address}" if address else "http://127.0.0.1:9/net-12345678.pth"
    with pytest.raises(WeightsError, match="cannot download") as error:
        fetch(url, timeout=5)
    hint = error.value.hint or ""
    place = Path(hint.split("put it at ")[1].split(", or")[0])
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"by hand")
    if address:  # no digest to hold it against
        assert fetch(url).read_bytes() == b"by hand"
    else:
        assert place.name == "net-12345678.pth"


def test_paths_are_left_alone(tmp_path: Path) -> None:
    assert locate(tmp_path / "w.pth") == tmp_path / "w.pth"
    assert not is_url("C:/weights/w.pth")
    assert not is_url("runs/best.pth")
    assert is_url("hf://a/b")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of huggingface-hub as it lies on the disk, and no connection."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="no huggingface-hub")
    cache = tmp_path / "hf"
    snapshot = cache / "models--people--detector" / "snapshots" / ("ab" * 20)
    snapshot.mkdir(parents=True)
    (cache / "models--people--detector" / "refs").mkdir()
    (cache / "models--people--detector" / "refs" / "main").write_text("ab" * 20)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub

    wanted = huggingface_hub.hf_hub_download

    def download(repository: str, name: str, revision: str | None = None) -> str:
        return wanted(repository, name, revision=revision, cache_dir=cache)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return snapshot


def test_a_file_of_the_hub(hub: Path) -> None:
    (hub / "weights").mkdir()
    torch.save(STATE, hub / "weights" / "w.pth")
    assert locate("hf://people/detector/weights/w.pth").resolve() == hub / "weights" / "w.pth"
    assert read_state("hf://people/detector@main/weights/w.pth").keys() == STATE.keys()


def test_a_model_of_the_hub(hub: Path) -> None:
    from safetensors.torch import save_file

    save_file(STATE, hub / "model.safetensors")
    (hub / "config.json").write_text("{}")
    assert locate("hf://people/detector") == hub
    assert read_state("hf://people/detector/").keys() == STATE.keys()


def test_what_the_hub_has_not(hub: Path) -> None:
    with pytest.raises(WeightsError, match=r"model.safetensors of people/detector") as error:
        locate("hf://people/detector")
    assert "models--people--detector" in (error.value.hint or "")
    assert "hf://people/detector/FILE" in (error.value.hint or "")
    with pytest.raises(WeightsError, match=r"cannot get w.pth of people/other"):
        locate("hf://people/other/w.pth")
    with pytest.raises(WeightsError, match="names no model"):
        locate("hf://people")


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError) as error:
        locate("hf://people/detector")
    assert error.value.hint == "pip install 'detrkit[hf]'"
