"""Four bands from end to end, through the command line: train, evaluate, detect, draw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import detrkit
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.parts import build_model
from tests.cli.conftest import Run
from tests.engine.tiny_data import write_coco, write_config

STEM = "backbone.stem.stem1.conv.weight"


def write_bands(root: Path) -> Path:
    """The tiny data set as uint16 arrays (4, H, W): red, green, blue and a fourth band."""
    write_coco(root)
    for path in sorted((root / "images").glob("*.png")):
        with Image.open(path) as picture:
            rgb = np.asarray(picture).astype(np.uint16) * 257
        near_infrared = 65535 - rgb[..., 0]
        np.save(path.with_suffix(".npy"), np.stack([*np.moveaxis(rgb, -1, 0), near_infrared]))
        path.unlink()
    for file in (root / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        for image in content["images"]:
            image["file_name"] = image["file_name"].replace(".png", ".npy")
        file.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bands(tmp_path_factory.mktemp("bands") / "data")


@pytest.fixture(scope="module")
def rgb_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three channels."""
    folder = tmp_path_factory.mktemp("rgb")
    cfg = detrkit.load_config(write_config(folder, Path(__file__).parents[2]))
    cfg = cfg.with_values({"num_classes": 2})
    path = folder / "rgb.pth"
    Checkpoint(model=build_model(cfg, seed=3).state_dict(), config=cfg.tree).save(path)
    return path


def test_four_bands_from_weights_of_three(
    run: Run, data: Path, rgb_weights: Path, tmp_path: Path, repository: Path
) -> None:
    config = write_config(tmp_path, repository)
    result = run(
        "tune", config, "-w", rgb_weights, "--data", data, "--epochs", 1, "-u", "in_channels=4",
        "-o", tmp_path / "run", "--device", "cpu", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    answer = json.loads(result.out)
    assert answer["loaded"]["folded"] == {STEM: 4}
    assert f"stem {STEM}: 3 channels folded into 4" in result.err
    assert "RandomPhotometricDistort changes brightness and contrast only" in result.err
    best = Path(answer["best"])
    checkpoint = Checkpoint.load(best)
    assert checkpoint.image_spec is not None
    assert checkpoint.image_spec.in_channels == 4
    before = Checkpoint.load(rgb_weights).weights[STEM]
    assert checkpoint.weights[STEM].shape == (before.shape[0], 4, 3, 3)
    for picture in (answer["picture"], *(tmp_path / "run" / "batches").iterdir()):
        with Image.open(picture) as shown:
            assert np.asarray(shown.convert("RGB")).std() > 20

    result = run("eval", "-w", best, "--data", data, "--device", "cpu", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["metrics"]["AP"] == pytest.approx(answer["metrics"]["AP"])

    result = run(
        "infer", data / "images", "-w", best, "--conf", 0, "--max-det", 3, "--device", "cpu",
        "-o", tmp_path / "found", "--json",
    )  # fmt: skip
    assert result.code == 0, result.err
    images = json.loads(result.out)["images"]
    assert len(images) == 12
    assert all(len(image["detections"]) == 3 for image in images)
    with Image.open(images[0]["picture"]) as shown:
        assert shown.size == (64, 64)
        assert np.asarray(shown).std() > 20

    detector = detrkit.load(best, device="cpu")
    name = data / "images" / "001.npy"
    from_file, from_array = detector.predict(name, conf=0), detector.predict(np.load(name), conf=0)
    np.testing.assert_array_equal(from_file.boxes_xyxy, from_array.boxes_xyxy)
    assert from_file.draw().size == (64, 64)

    write_coco(tmp_path / "rgb")
    result = run("eval", "-w", best, "--data", tmp_path / "rgb", "--device", "cpu")
    assert result.code == 4
    assert "has pixels of mode RGB, but the model takes 4 channels" in result.err

    result = run("infer", tmp_path / "rgb", "-w", best, "--device", "cpu")
    assert result.code == 4
    assert "12 images could not be read" in result.err

    result = run("info", best)
    assert "input 1 x 4 x 64 x 64" in result.out


def test_the_data_say_how_many_bands_they_have(
    run: Run, data: Path, tmp_path: Path, repository: Path
) -> None:
    config = write_config(tmp_path, repository)
    for channels, args in ((3, ()), (5, ("-u", "in_channels=5"))):
        result = run("train", config, "--data", data, "-o", tmp_path / "run", *args)
        assert result.code == 4
        assert f"has 4 bands, but the model takes {channels} channels" in result.err
        assert "in_channels" in result.err
    assert not (tmp_path / "run").exists()
