"""Predictor: every kind of source, filters, order, broken files; runtimes and devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detrkit
from detrkit.engine.predictor import Predictor
from detrkit.engine.read_ahead import read_ahead
from detrkit.engine.runtime import Runtime, choose_device
from detrkit.engine.sources import expand, load_image
from detrkit.errors import DataError, UsageError, WeightsError
from tests.engine.bright import BrightBox, bright_runtime, picture, small_detector
from tests.engine.moving import write_video

BOX = (48, 32, 120, 96)


@pytest.fixture
def detector() -> Predictor:
    return Predictor(bright_runtime())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    picture(channel=1).save(tmp_path / "b.png")
    picture().save(tmp_path / "a [1]*.png")
    picture((64, 64), (8, 8, 40, 40), 2).save(tmp_path / "sub" / "猫.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


class TestSources:
    def test_file_picture_array_tensor_agree(self, detector: Predictor, folder: Path) -> None:
        image = picture()
        pixels = np.asarray(image)
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        found = [
            detector.predict(source)
            for source in (folder / "a [1]*.png", str(folder / "a [1]*.png"), image, pixels, tensor)
        ]
        for item in found:
            np.testing.assert_allclose(item.boxes_xyxy, [BOX], atol=2)
            assert item.names == ["cat"]
            assert item.orig_size == (128, 192)
        assert found[0].path == str(folder / "a [1]*.png")
        assert found[2].path is None

    def test_folder_pattern_and_list(self, detector: Predictor, folder: Path) -> None:
        assert [d.names for d in detector.predict(folder)] == [["cat"], ["猫"], ["dog"]]
        assert [d.names for d in detector.predict(str(folder / "*.png"))] == [["cat"], ["猫"]]
        both = detector.predict([folder / "b.png", picture(), folder / "b.png"])
        assert [d.names for d in both] == [["猫"], ["cat"]]  # a file given twice counts once

    def test_gray_arrays(self, detector: Predictor) -> None:
        gray = np.asarray(picture())[..., 0]
        assert sorted(detector.predict(gray).names) == ["cat", "dog", "猫"]

    @pytest.mark.parametrize(
        "bad", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), torch.zeros(3, 4, 4)]
    )
    def test_other_pixels_are_refused(self, bad: object) -> None:
        with pytest.raises(UsageError, match="must be uint8"):
            load_image(bad)  # type: ignore[arg-type]

    def test_pictures_in_memory_follow_the_rules_of_files(self) -> None:
        ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
        image = load_image(Image.fromarray(ramp))
        assert image.dtype == torch.uint8
        assert np.abs(image[0].flatten().numpy() - np.arange(256.0)).max() <= 1

    def test_other_channels(self, tmp_path: Path) -> None:
        array = np.arange(8 * 6 * 5, dtype=np.uint16).reshape(8, 6, 5)
        np.save(tmp_path / "x.npy", array)
        expected = load_image(tmp_path / "x.npy", 5)
        assert expected.shape == (5, 8, 6)
        tensor = torch.from_numpy(array.astype(np.float32) / 65535).permute(2, 0, 1)
        for source in (array, np.moveaxis(array, -1, 0), tensor):
            torch.testing.assert_close(load_image(source, 5), expected)
        gray = np.full((4, 6), 9, np.uint8)
        assert load_image(gray, 1).shape == (1, 4, 6)
        assert load_image(Image.fromarray(gray), 1).tolist() == [gray.tolist()]
        for source, message in (
            (array, "has 5 bands, but the model takes 4 channels"),
            (tensor[0], r"a tensor must be \(C, height, width\)"),
            (array.astype("c8"), "are no pixels"),
            (np.zeros(4), "is no picture"),
            (Image.fromarray(gray), "has pixels of mode L, but the model takes 4 channels"),
        ):
            with pytest.raises(UsageError, match=message):
                load_image(source, 4)

    def test_what_is_not_there(self, folder: Path) -> None:
        with pytest.raises(DataError, match="file not found"):
            list(expand(folder / "c.png"))
        with pytest.raises(DataError, match="no images match"):
            list(expand(str(folder / "*.gif")))
        with pytest.raises(DataError, match=r"x: |not found"):
            list(expand("x" * 5000))
        missing: list[str] = []
        items = expand(
            [str(folder / "c.png"), folder / "b.png"], lambda p, _: missing.append(p.name)
        )
        assert [item.name for item in items if isinstance(item, Path)] == ["b.png"]
        assert missing == ["c.png"]
        (folder / "empty").mkdir()
        with pytest.raises(DataError, match="no images in"):
            list(expand(folder / "empty"))


class TestFilters:
    def test_score_classes_and_count(self, detector: Predictor) -> None:
        pixels = np.asarray(picture()).copy()
        pixels[5:25, 5:25, 1] = 255
        pixels[100:120, 130:180, 2] = 255
        assert detector.predict(pixels).names == ["cat", "猫", "dog"]
        assert detector.predict(pixels, conf=0.9).names == ["cat"]
        assert detector.predict(pixels, classes=["DOG", 1]).names == ["猫", "dog"]
        assert detector.predict(pixels, classes=["0"]).names == ["cat"]
        assert detector.predict(pixels, max_det=2).names == ["cat", "猫"]
        assert len(detector.predict(pixels, conf=0)) == 9

    def test_mistakes_are_named(self, detector: Predictor) -> None:
        with pytest.raises(UsageError, match="no class `dgo`, did you mean `dog`"):
            detector.predict(picture(), classes=["dgo"])
        with pytest.raises(UsageError, match="outside 0 to 2"):
            detector.predict(picture(), classes=[3])
        with pytest.raises(UsageError, match="conf must lie"):
            detector.predict(picture(), conf=1.5)
        with pytest.raises(UsageError, match="at least 1"):
            detector.predict(picture(), batch=0)

    def test_nothing_found(self, detector: Predictor) -> None:
        assert len(detector.predict(np.zeros((32, 32, 3), np.uint8))) == 0


class TestStream:
    def test_batches_and_order(self, detector: Predictor) -> None:
        pictures = [picture(channel=i % 3) for i in range(7)]
        found = list(detector.stream(pictures, batch=3))
        assert [d.names[0] for d in found] == ["cat", "猫", "dog", "cat", "猫", "dog", "cat"]
        model = detector.runtime.model  # type: ignore[attr-defined]
        assert isinstance(model, BrightBox)
        assert model.batches == [3, 3, 1]

    def test_broken_files_are_passed_over_and_told(self, detector: Predictor, folder: Path) -> None:
        (folder / "c.png").write_bytes(b"nothing")
        broken: list[str] = []
        found = list(detector.stream(folder, on_broken=lambda path, _: broken.append(path.name)))
        assert [d.names for d in found] == [["cat"], ["猫"], ["dog"]]
        assert broken == ["c.png"]
        with pytest.raises(DataError, match=r"c\.png"):
            list(detector.stream(folder))

    def test_videos(self, detector: Predictor, tmp_path: Path) -> None:
        pytest.importorskip("av")
        path = write_video(tmp_path / "a.mp4")
        found = detector.predict(path, frame_step=4)
        assert [(d.frame, round(d.seconds or 0, 3)) for d in found] == [
            (0, 0.0),
            (4, 0.4),
            (8, 0.8),
        ]
        assert [d.names for d in found] == [["cat"]] * 3
        for number, item in zip((0, 4, 8), found, strict=True):
            left = 10 + 4 * number
            np.testing.assert_allclose(item.boxes_xyxy, [(left, 20, left + 40, 50)], atol=4)
        assert len(list(detector.predict(path, stream=True, limit=2))) == 2

    @pytest.mark.parametrize("source", ["0", "rtsp://10.0.0.1/x"])
    def test_what_has_no_end_is_not_collected(self, detector: Predictor, source: str) -> None:
        with pytest.raises(UsageError, match="may have no end"):
            detector.predict(source)

    def test_sources_are_taken_as_they_are_needed(self, detector: Predictor) -> None:
        taken = []

        def endless():  # type: ignore[no-untyped-def]
            while True:
                taken.append(1)
                yield picture()

        stream = detector.stream(endless(), batch=2)
        for _ in range(3):
            next(stream)
        stream.close()
        assert len(taken) <= 10

    def test_errors_of_the_reader_are_not_lost(self) -> None:
        def load(number: int) -> torch.Tensor:
            if number == 2:
                raise ZeroDivisionError
            return torch.full((1,), number)

        ahead = read_ahead(range(9), load, depth=4)
        assert [int(next(ahead)[1]) for _ in range(2)] == [0, 1]  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError):
            next(ahead)


def test_letterbox_boxes_come_back() -> None:
    from detrkit.structures import ImageSpec

    detector = Predictor(bright_runtime(ImageSpec((96, 96), resize="letterbox", pad_value=0)))
    np.testing.assert_allclose(detector.predict(picture()).boxes_xyxy, [BOX], atol=2.1)


class TestRuntime:
    def test_weights_alone_suffice(self, tmp_path: Path) -> None:
        detector = detrkit.load(small_detector(tmp_path / "best.pth"), device="cpu")
        found = detector.predict(picture(), conf=0)
        assert len(found) == 20
        assert found.class_map.names == ("cat", "猫", "dog")
        assert detector.image_spec.size == (64, 96)
        assert (np.diff(found.scores) <= 0).all()

    def test_deployed_model_says_what_the_trained_one_says(self, tmp_path: Path) -> None:
        from detrkit.engine.parts import build_postprocessor
        from detrkit.engine.sources import load_image
        from detrkit.engine.weights import open_detector

        path = small_detector(tmp_path / "best.pth")
        loaded = open_detector(path)
        image = load_image(picture())
        with torch.no_grad():
            outputs = loaded.model(loaded.image_spec.prepare(image)[None])
        (plain,) = build_postprocessor(loaded.config).postprocess(  # type: ignore[operator]
            outputs, [(128, 192)], loaded.image_spec, loaded.class_map
        )
        (deployed,) = Runtime.open(path, device="cpu").predict([image])
        np.testing.assert_allclose(deployed.scores, plain.scores, atol=1e-5)

    def test_other_artefacts_are_named(self) -> None:
        with pytest.raises(WeightsError, match="does not run Core ML files"):
            Runtime.open("model.mlpackage")
        with pytest.raises(WeightsError, match="not found"):
            Runtime.open("missing.pth")

    def test_devices(self) -> None:
        assert choose_device("cpu") == torch.device("cpu")
        with pytest.raises(UsageError, match="no device `quantum`"):
            choose_device("quantum")
        with pytest.raises(UsageError, match="no device `cuda:99`"):
            choose_device("cuda:99")
