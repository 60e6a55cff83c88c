"""`import detrkit` is light, and its names do what they say."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detrkit
from detrkit.engine.predictor import Predictor
from detrkit.errors import ConfigError
from detrkit.structures import Detections
from tests.engine.bright import bright_runtime, picture, small_detector
from tests.engine.test_onnx_runtime import write as write_onnx


def test_import_is_light() -> None:
    code = (
        "import sys, detrkit; assert detrkit.__version__;"
        "heavy = {'torch', 'numpy', 'yaml', 'typer'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names() -> None:
    assert set(dir(detrkit)) == set(detrkit.__all__)
    for name in detrkit.__all__:
        assert getattr(detrkit, name)
    with pytest.raises(AttributeError, match="no attribute `laod`"):
        detrkit.laod  # noqa: B018


def test_build_model_from_everything_that_names_one(tmp_path: Path) -> None:
    update = ["num_classes=5", "DFINETransformer.num_queries=20"]
    config = detrkit.load_config("dfine_n_coco", update=update)
    by_name = detrkit.build_model("dfine_n_coco", update=update, seed=3)
    by_config = detrkit.build_model(config, seed=3)
    (tmp_path / "mine.yml").write_text(config.dump(), encoding="utf-8")
    by_file = detrkit.build_model(tmp_path / "mine.yml", seed=3)
    states = [m.state_dict() for m in (by_name, by_config, by_file)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
        assert torch.equal(value, states[2][name]), name
    assert detrkit.build_model(config, update=["num_classes=7"]).num_classes == 7
    assert config.run.num_classes == 5


def test_create() -> None:
    block = detrkit.create("DFINEPostProcessor", num_classes=2)
    assert block.num_classes == 2
    with pytest.raises(ConfigError, match="did you mean `DFINEPostProcessor`"):
        detrkit.create("DFINEPostProcesor")


@pytest.fixture
def detector() -> Predictor:
    return Predictor(bright_runtime())


class TestPredict:
    """What the README promises of `load` and `predict`."""

    def test_sources(self, detector: Predictor, tmp_path: Path) -> None:
        image = picture()
        image.save(tmp_path / "a.png")
        rgb = np.asarray(image)
        content = io.BytesIO()
        image.save(content, "PNG")
        for source in (
            str(tmp_path / "a.png"),
            tmp_path / "a.png",
            content.getvalue(),
            image,
            rgb,
            torch.from_numpy(rgb.copy()).permute(2, 0, 1),
            rgb[..., ::-1][..., ::-1],  # views, as of OpenCV's BGR
        ):
            found = detector.predict(source)
            assert isinstance(found, Detections)
            assert found.names == ["cat"]
        assert detector.predict(rgb[..., ::-1]).names == ["dog"]  # arrays are RGB, never BGR

    def test_lists_and_generators_give_lists(self, detector: Predictor) -> None:
        pictures = [picture(channel=i) for i in range(3)]
        for source in (pictures, tuple(pictures), (p for p in pictures)):
            found = detector.predict(source)
            assert [d.names for d in found] == [["cat"], ["猫"], ["dog"]]
        assert detector.predict([]) == []

    def test_stream_is_lazy_and_bounded(self, detector: Predictor) -> None:
        """An endless camera: frames are read a little ahead, and let go."""
        taken = 0

        def camera() -> Iterator[np.ndarray]:
            nonlocal taken
            while True:
                taken += 1
                yield np.asarray(picture())

        frames = detector.predict(camera(), stream=True, batch=2)
        assert taken == 0
        for _ in range(20):
            assert next(frames).names == ["cat"]
            assert taken <= 20 + 6
        frames.close()  # type: ignore[attr-defined]

    def test_stream_of_one_image(self, detector: Predictor) -> None:
        assert [d.names for d in detector.predict(picture(), stream=True)] == [["cat"]]


def shots(count: int) -> list[np.ndarray]:
    """Pictures of many sizes."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 90, (count, 2))
    return [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes]


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_many_threads_share_one_detector(kind: str, tmp_path: Path) -> None:
    """Each gets what it would have got alone, to the last bit."""
    if kind == "torch":
        weights = small_detector(tmp_path / "best.pth")
    else:
        weights = write_onnx(tmp_path / "d.onnx")
    pictures = shots(24)
    expected = [detrkit.load(weights, device="cpu").predict(p, conf=0) for p in pictures[:2]]
    detector = detrkit.load(
        weights, device="cpu"
    )  # new: what it builds on first use, threads build
    together = threading.Barrier(6)

    def work(number: int) -> Detections:
        if number < 6:
            together.wait(30)
        return detector.predict(pictures[number], conf=0)

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(work, range(len(pictures))))
    expected += [detector.predict(p, conf=0) for p in pictures[2:]]
    for one, other in zip(found, expected, strict=True):
        assert len(one) > 0
        assert np.array_equal(one.boxes_xyxy, other.boxes_xyxy)
        assert np.array_equal(one.scores, other.scores)
        assert np.array_equal(one.labels, other.labels)


def test_threads_with_batches_of_different_sizes(tmp_path: Path) -> None:
    """What a layer keeps for one batch size is no use to a thread with another."""
    detector = detrkit.load(small_detector(tmp_path / "best.pth"), device="cpu")
    pictures = shots(5)
    alone = {n: detector.predict(pictures[:n], conf=0, batch=n) for n in (1, 2, 5)}

    def work(number: int) -> bool:
        n = (1, 2, 5)[number % 3]
        found = detector.predict(pictures[:n], conf=0, batch=n)
        return all(
            np.allclose(a.scores, b.scores, atol=1e-5) for a, b in zip(found, alone[n], strict=True)
        )

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(work, range(9)))


def test_drawing_takes_the_image_or_its_file(detector: Predictor, tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    drawn = detector.predict(tmp_path / "a.png").draw()
    assert isinstance(drawn, Image.Image)
    assert np.array_equal(drawn, detector.predict(picture()).draw(picture()))
