"""`detrkit export` through the real command line: files, their comparison, mistakes."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
import torch
from PIL import Image

import detrkit
from detrkit.cli.app import main
from detrkit.engine import exporting
from detrkit.engine.runtime import Runtime
from detrkit.export.metadata import KEY, Metadata
from tests.cli.conftest import Run
from tests.engine.bright import CLASSES, picture
from tests.engine.tiny_data import write_coco
from tests.export.families import SIZE, family, inputs, run_onnx, shapes

ALL = ["--onnx", "--torchscript", "--torch-export"]
if importlib.util.find_spec("openvino"):
    ALL.append("--openvino")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, pictures, and what one command made of the weights."""
    folder = tmp_path_factory.mktemp("export")
    family("dfine").save(folder / "best.pth")
    (folder / "pictures").mkdir()
    picture().save(folder / "pictures" / "a.png")
    picture((50, 90), (5, 5, 30, 30), channel=1).save(folder / "pictures" / "b.png")
    (folder / "pictures" / "broken.png").write_bytes(b"\x89PNG nothing")
    args = ["-w", folder / "best.pth", *ALL, "--images", folder / "pictures"]
    assert main(["export", *map(str, args)]) == 0
    return folder


@pytest.fixture
def made(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder, where nothing is traced again: the ONNX model is that of `best.onnx`."""

    def ready(*args: Any, **kwargs: Any) -> onnx.ModelProto:
        model = onnx.load(str(place / "best.onnx"))
        del model.metadata_props[:]
        return model

    before = set(place.iterdir())
    monkeypatch.setattr(exporting, "trace", lambda graph, shape: None)
    monkeypatch.setattr(exporting, "to_onnx", ready)
    yield place
    for path in set(place.iterdir()) - before:
        path.unlink()


def test_every_format_answers_like_the_checkpoint(place: Path) -> None:
    endings = {".onnx", ".torchscript", ".pt2"} | (
        {".xml", ".bin"} if "--openvino" in ALL else set()
    )
    assert {p.suffix for p in place.iterdir() if p.is_file()} == endings | {".pth"}
    image = torch.from_numpy(np.array(picture())).permute(2, 0, 1)
    (wanted,) = Runtime.open(place / "best.pth", device="cpu").predict([image])
    for ending in endings - {".bin"}:
        runtime = Runtime.open(place / f"best{ending}", device="cpu")
        assert runtime.class_map == CLASSES
        assert runtime.image_spec.size == (64, 96)
        for count in (1, 3):
            found = runtime.predict([image] * count)[-1]
            np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


def test_a_file_says_what_it_is(place: Path) -> None:
    (entry,) = onnx.load(str(place / "best.onnx")).metadata_props
    said = Metadata.from_json(entry.value, "best.onnx")
    assert entry.key == KEY
    assert said.class_map == CLASSES
    assert (said.precision, said.outputs, said.version) == (
        "fp32",
        "detections",
        detrkit.__version__,
    )
    assert said.config is not None
    assert said.config["num_classes"] == 3


def test_json(made: Path, run: Run) -> None:
    output, pictures = made / "json.onnx", made / "pictures"
    result = run("export", "-w", made / "best.pth", "--images", pictures, "-o", output, "--json")
    assert result.code == 0
    answer = json.loads(result.out)
    assert (answer["kind"], answer["not_built"]) == ("export", None)
    (file,) = answer["files"]
    assert Path(file["path"]) == output
    assert file["bytes"] == output.stat().st_size
    assert (file["format"], file["precision"], file["size"]) == ("onnx", "fp32", [64, 96])
    check = file["verification"]
    assert check["passed"]
    assert check["images"] == 2  # the broken one is left out, and said
    assert "broken.png" in result.err


def test_generated_pictures_and_no_comparison(made: Path, run: Run) -> None:
    result = run("export", "-w", made / "best.pth", "-o", made / "other.onnx")
    assert result.code == 0
    assert "generated textures" in result.out
    result = run("export", "-w", made / "best.pth", "-o", made / "other.onnx", "--no-verify")
    assert result.code == 0
    assert "not compared" in result.out


def test_ap_of_both(made: Path, run: Run, tmp_path: Path) -> None:
    write_coco(tmp_path / "data", train=4, val=3)
    annotations = tmp_path / "data/annotations/instances_val.json"
    content = json.loads(annotations.read_text())
    for category in content["categories"]:
        category["name"] = {3: "cat", 7: "dog"}[category["id"]]
    annotations.write_text(json.dumps(content))
    result = run("export", "-w", made / "best.pth", "--data", annotations, "-o", made / "ap.onnx")
    assert result.code == 0, result.err
    assert "3 images" in result.out
    assert "; AP 0" in result.out


def test_int8_is_calibrated_on_the_training_images(made: Path, run: Run, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data", train=4, val=2)
    result = run(
        "export", "-w", made / "best.pth", "--int8", "--data", data, "--no-verify",
        "--calibration-images", "4",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "calibrating on 4 images" in result.err
    kinds = {n.op_type for n in onnx.load(str(made / "best_int8.onnx")).graph.node}
    assert "QuantizeLinear" in kinds


def test_another_answer_is_no_export(made: Path, run: Run, monkeypatch: Any) -> None:
    """The file stays under a name that shows it, and an older one is not replaced."""
    older = (made / "best.onnx").read_bytes()
    bad = onnx.load(str(made / "best.onnx"))
    del bad.metadata_props[:]
    (bias,) = [t for t in bad.graph.initializer if t.name.endswith("dec_score_head.1.bias")]
    shifted = onnx.numpy_helper.to_array(bias) + np.float32(1)
    bias.CopyFrom(onnx.numpy_helper.from_array(shifted, bias.name))
    monkeypatch.setattr(exporting, "to_onnx", lambda *args, **kwargs: bad)
    result = run("export", "-w", made / "best.pth", "--onnx")
    assert result.code == 5
    assert "best.unverified.onnx does not answer like" in result.err
    assert (made / "best.unverified.onnx").is_file()
    assert (made / "best.onnx").read_bytes() == older


def test_without_tensorrt(made: Path, run: Run, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    result = run("export", "-w", made / "best.pth", "--trt", "--half", "--json", "--no-verify")
    assert result.code == 6
    assert (made / "best_fp16.onnx").is_file()
    command = f"trtexec --onnx={made / 'best_fp16.onnx'} --saveEngine={made / 'best_fp16.engine'}"
    assert command in result.err
    assert command in json.loads(result.out)["not_built"][1]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["-w", "absent.pth"], 5, "not found"),
        (["--size", "100"], 2, "multiples of 32"),
        (["--half", "--int8"], 2, "choose one precision"),
        (["--int8"], 2, "images to calibrate on"),
        (["--bf16"], 2, "--bf16 is for TensorRT"),
        (["--half", "--torchscript"], 2, "not for torchscript"),
        (["--torchscript", "--dynamic-size"], 2, "one size"),
        (["--int8", "--data", "d", "--dynamic-size"], 2, "calibrated for one size"),
        (["--opset", "11"], 2, "17 to 23"),
        (["--onnx", "--torchscript", "-o", "a.onnx"], 2, "does not fit the formats"),
        (["--onnx", "-o", "a.xml"], 2, "does not fit the formats"),
        (["--tolerance", "2"], 2, "tolerance"),
        (["--batch", "0"], 2, "batch"),
        (["--images", "nowhere"], 4, "nowhere"),
    ],
)
def test_mistakes(place: Path, run: Run, args: list[str], code: int, message: str) -> None:
    given = args if "-w" in args else ["-w", str(place / "best.pth"), *args]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(exporting, "trace", lambda graph, shape: None)
        if "--opset" not in args:
            patch.setattr(exporting, "to_onnx", lambda *a, **k: onnx.load(str(place / "best.onnx")))
        result = run("export", *given)
    assert result.code == code, result.err
    assert message in result.err


def test_a_place_that_cannot_be_written(made: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = run("export", "-w", made / "best.pth", "-o", tmp_path / "file" / "below")
    assert result.code == 1
    assert "cannot write" in result.err


def test_a_missing_extra_is_named_before_the_work(
    place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    result = run("export", "-w", place / "best.pth", "--openvino")
    assert result.code == 6
    assert "pip install 'detrkit[openvino]'" in result.err


def test_letterboxed_raw_and_five_channels(tmp_path: Path) -> None:
    """Of another checkpoint, through the Python API: a padded spec, other channels, raw heads."""
    one = family("deimv2_hgnet", "in_channels=5")
    spec = one.checkpoint.image_spec
    assert spec is not None
    one.checkpoint.image_spec = replace(spec, resize="letterbox")
    weights = one.save(tmp_path / "five.pth")
    one.checkpoint.image_spec = spec
    (file,) = detrkit.export(weights, batch=2)
    assert file.verification is not None
    assert file.verification.matched >= 0.99
    assert shapes(onnx.load(str(file.path)).graph.input)["images"] == [2, 5, *SIZE]
    (raw,) = detrkit.export(weights, raw=True)
    assert raw.path.name == "five_raw.onnx"
    assert raw.verification is not None
    assert raw.verification.matched >= 0.99
    model = onnx.load(str(raw.path))
    assert shapes(model.graph.input) == {"images": ["N", 5, *SIZE]}
    assert shapes(model.graph.output) == {"logits": ["N", 10, 3], "boxes": ["N", 10, 4]}
    images, _ = inputs(7, channels=5)
    with torch.no_grad():
        wanted = one.graph(raw=True)(images)
    for a, b in zip(run_onnx(model, images), wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_pictures_of_any_kind(made: Path) -> None:
    files = detrkit.export(made / "best.pth", images=str(made / "pictures"), output=made / "c.onnx")
    assert [file.path.name for file in files] == ["c.onnx"]
    with Image.open(made / "pictures" / "a.png") as image:
        found = detrkit.load(files[0].path, device="cpu").predict(image, conf=0)
    assert len(found) == 20
