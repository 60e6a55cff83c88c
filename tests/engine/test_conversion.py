"""Names of transformers and safetensors; transformers itself judges the converted weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.conversion.convert import convert, strip
from detrkit.engine.conversion.hf_config import hf_config
from detrkit.engine.conversion.hf_folder import from_hf_state, read_hf_folder
from detrkit.engine.conversion.names import from_hf, to_hf
from detrkit.engine.conversion.rules import HFModel, rules
from detrkit.engine.conversion.safetensors import read_tensors, write_safetensors
from detrkit.engine.state_names import is_derived
from detrkit.engine.weights import LoadedDetector, open_detector, read_checkpoint
from detrkit.errors import MissingExtraError, UsageError, WeightsError
from detrkit.structures import ClassMap
from tests.engine.lively import checkpoint_of, lively_detector

CLASSES = ClassMap(("猫", "dog", "car"), (0, 1, 2))

#: Model of the reference numbers -> transformers' class.
TABLES: dict[str, HFModel] = {
    "dfine_n": "d_fine",
    "rtdetrv2_r18": "rt_detr_v2",
    "deimv2_hgnetv2_atto": "deimv2",
    "deimv2_hgnetv2_n": "deimv2",
    "deimv2_dinov3_s": "deimv2",
}


@pytest.fixture(scope="module")
def transformers() -> Any:
    """The package; it warns when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def dfine() -> LoadedDetector:
    return lively_detector("dfine_n_coco", CLASSES)


@pytest.fixture(scope="module")
def rtdetr() -> LoadedDetector:
    return lively_detector("rtdetrv2_r18vd_120e_coco", CLASSES)


def learned(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not is_derived(name)}


@pytest.mark.parametrize(("name", "model"), TABLES.items())
def test_names_are_those_of_the_reference(reference: Path, name: str, model: HFModel) -> None:
    table = json.loads((reference / "parity" / "hf" / f"{name}.json").read_text())["names"]
    lite = any("bi_fusion" in ours for ours in table)
    wrong = {}
    for ours, theirs in table.items():
        listed = tuple([theirs] if isinstance(theirs, str) else theirs)
        found = next(filter(None, (rule.to_theirs(ours) for rule in rules(model, lite))), None)
        back = [
            next(filter(None, (rule.to_ours(t) for rule in rules(model, lite))), None)
            for t in listed
        ]
        if found != listed or back != [(ours, part) for part in range(len(listed))]:
            wrong[ours] = (found, back)
    assert table
    assert not wrong


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ("dfine_n_coco", "d_fine"),
        ("rtdetrv2_r18vd_120e_coco", "rt_detr_v2"),
        ("rtdetrv2_hgnetv2_l_6x_coco", "rt_detr_v2"),
        ("deimv2_hgnetv2_atto_coco", "deimv2"),
        ("deimv2_hgnetv2_n_coco", "deimv2"),
        ("deimv2_dinov3_s_coco", "deimv2"),
    ],
)
def test_there_and_back(config: str, model: HFModel) -> None:
    state = lively_detector(config, CLASSES).model.state_dict()
    back, unknown = from_hf(to_hf(state, model), model)
    assert not unknown
    assert learned(state).keys() == learned(back).keys()
    assert all(torch.equal(back[n].flatten(), v.flatten()) for n, v in learned(state).items())


def older(name: str) -> str:
    """How transformers 4 called it."""
    name = name.replace(".o_proj.", ".out_proj.").replace(".encoder.aifi.", ".encoder.encoder.")
    for new, old in (("mlp.layers.0", "fc1"), ("mlp.layers.1", "fc2"), ("mlp.fc", "fc")):
        name = name.replace(f".{new}", f".{old}")
    return name


@pytest.mark.parametrize("family", ["dfine", "rtdetr"])
def test_files_of_transformers_4(family: str, request: pytest.FixtureRequest) -> None:
    detector: LoadedDetector = request.getfixturevalue(family)
    model: HFModel = "d_fine" if family == "dfine" else "rt_detr_v2"
    theirs = to_hf(detector.model.state_dict(), model)
    renamed = {older(name): value for name, value in theirs.items()}
    assert renamed.keys() != theirs.keys()
    # the heads stand where transformers 4 kept them, too
    heads = [name for name in renamed if name.startswith(("class_embed", "bbox_embed"))]
    renamed |= {f"model.decoder.{name}": renamed.pop(name) for name in heads}
    back, unknown = from_hf(renamed, model)
    assert not unknown
    assert learned(back).keys() == learned(detector.model.state_dict()).keys()


def test_incomplete_tensors(dfine: LoadedDetector) -> None:
    theirs = to_hf(dfine.model.state_dict(), "d_fine")
    del theirs["model.decoder.layers.1.self_attn.k_proj.weight"]
    with pytest.raises(WeightsError, match=r"layers\.1\.self_attn\.in_proj_weight are missing"):
        from_hf(theirs, "d_fine")
    with pytest.raises(WeightsError, match=r"no place for 1 tensors: decoder\.extra"):
        to_hf({"decoder.extra": torch.zeros(1)}, "d_fine")


@pytest.mark.parametrize(("family", "side"), [("dfine", 320), ("rtdetr", 160)])
def test_transformers_answers_the_same(
    family: str, side: int, request: pytest.FixtureRequest, transformers: Any
) -> None:
    """The independent oracle: another implementation with our weights."""
    from detrkit.engine.conversion.hf_export import compare, hf_model

    detector: LoadedDetector = request.getfixturevalue(family)
    theirs = hf_model(detector)
    image = torch.rand((2, 3, side, side), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, other = detector.model(image), theirs(pixel_values=image)
    assert ours["pred_logits"].std() > 0.2
    assert ours["pred_boxes"].std((0, 1)).max() > 0.05
    for mine, his in ((ours["pred_logits"], other.logits), (ours["pred_boxes"], other.pred_boxes)):
        assert (mine.sort(1)[0] - his.sort(1)[0]).abs().max() < 1e-3
    assert compare(detector.model, theirs, side).difference < 1e-4
    with torch.no_grad():  # the comparison sees a difference where there is one
        theirs.model.decoder.layers[1].encoder_attn.sampling_offsets.bias += 0.5
    assert not compare(detector.model, theirs, side).agrees


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        *(f"dfine_{size}_coco" for size in "smlx"),
        *(
            f"rtdetrv2_{name}_coco"
            for name in ("r34vd_120e", "r50vd_m_7x", "r50vd_6x", "r101vd_6x")
        ),
        *(f"rtdetrv2_r18vd_{name}_coco" for name in ("sp1_120e", "sp2_120e", "dsp_3x")),
        *(f"rtdetrv2_hgnetv2_{name}_6x_coco" for name in "lxh"),
    ],
)
def test_transformers_answers_the_same_in_all_sizes(config: str, transformers: Any) -> None:
    from detrkit.engine.conversion.hf_export import compare, hf_model

    detector = lively_detector(config)
    comparison = compare(detector.model, hf_model(detector))
    assert comparison.agrees
    assert comparison.difference < 0.05


@pytest.mark.parametrize("family", ["dfine", pytest.param("rtdetr", marks=pytest.mark.slow)])
def test_a_folder_for_transformers(
    family: str, request: pytest.FixtureRequest, transformers: Any, tmp_path: Path
) -> None:
    detector: LoadedDetector = request.getfixturevalue(family)
    checkpoint_of(detector).save(tmp_path / "best.pth")
    written = convert(tmp_path / "best.pth", tmp_path / "hf", "hf")
    assert written.difference is not None
    assert written.difference < 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "hf").eval()
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    assert dict(theirs.config.id2label) == dict(enumerate(CLASSES.names))
    assert dict(processor.size) == {"height": 640, "width": 640}
    assert not processor.do_normalize
    image = torch.rand((1, 3, 320, 320), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, other = detector.model(image), theirs(pixel_values=image)
    assert (ours["pred_logits"].sort(1)[0] - other.logits.sort(1)[0]).abs().max() < 1e-3

    back = read_checkpoint(tmp_path / "hf")  # written by transformers, read without it
    assert back.class_map == ClassMap.from_names(CLASSES.names)
    assert back.image_spec == detector.image_spec
    state = learned(detector.model.state_dict())
    assert learned(back.weights).keys() == state.keys()
    assert all(torch.equal(back.weights[n].flatten(), v.flatten()) for n, v in state.items())
    # several configs have RT-DETRv2's and D-FINE's tensors; config.json tells which it is
    assert back.config_name == detector.config.name
    opened = open_detector(tmp_path / "hf")
    with torch.no_grad():
        again = opened.model(image)
    assert torch.equal(again["pred_logits"], ours["pred_logits"])


def test_images_of_other_channels_are_refused() -> None:
    from detrkit.config import load_config

    with pytest.raises(WeightsError, match="its images have 4 channels"):
        hf_config(load_config("dfine_n_coco", update=["in_channels=4"]))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ("deim_hgnetv2_n_coco", "mlp_act .* is `silu`"),
        ("deim_r18vd_120e_coco", "query_pos_method is `as_reg`"),
        ("deimv2_hgnetv2_n_coco", "not the authors' model: .* .enc_output"),
        ("deimv2_dinov3_s_coco", "recomputes the position embedding"),
        ("rtdetrv2_r18vd_sp1_120e_coco", None),
        ("rtdetrv2_r18vd_dsp_3x_coco", None),
    ],
)
def test_what_transformers_cannot_do_is_refused(config: str, why: str | None) -> None:
    from detrkit.config import load_config

    if why is None:
        assert hf_config(load_config(config))[0] == "rt_detr_v2"
        return
    with pytest.raises(WeightsError, match=why):
        hf_config(load_config(config))


def test_deimv2_of_transformers(tmp_path: Path) -> None:
    detector = lively_detector("deimv2_hgnetv2_atto_coco", CLASSES)
    theirs = to_hf(detector.model.state_dict(), "deimv2")
    theirs["model.enc_output.0.weight"] = torch.zeros(64, 64)
    with pytest.raises(WeightsError, match="not the authors' model") as error:
        from_hf_state(theirs, {}, tmp_path)
    assert "--lossy" in (error.value.hint or "")
    kept = from_hf_state(theirs, {"model_type": "deimv2"}, tmp_path, lossy=True)
    assert learned(kept.weights).keys() == learned(detector.model.state_dict()).keys()
    with pytest.raises(WeightsError, match="holds a `detr`"):
        from_hf_state(theirs, {"model_type": "detr"}, tmp_path)


def test_a_folder_with_the_authors_names(tmp_path: Path) -> None:
    """So the authors of DEIMv2 publish theirs: config.json has no model_type."""
    detector = lively_detector("deimv2_hgnetv2_atto_coco")
    write_safetensors(Checkpoint(model=detector.model.state_dict()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"HGNetv2": {"name": "Atto"}}')
    opened = open_detector(tmp_path)
    assert opened.config.name == "deimv2_hgnetv2_atto_coco"
    assert opened.image_spec.size == (320, 320)


def test_safetensors(tmp_path: Path, dfine: LoadedDetector) -> None:
    checkpoint_of(dfine).save(tmp_path / "best.pth")
    file = convert(tmp_path / "best.pth", tmp_path / "new" / "best.safetensors", "safetensors").path
    tensors, metadata = read_tensors(file)
    assert tensors.keys() == dfine.model.state_dict().keys()
    assert json.loads(metadata["detrkit"])["class_map"]["names"] == list(CLASSES.names)
    opened = open_detector(file)
    assert (opened.class_map, opened.image_spec) == (CLASSES, dfine.image_spec)
    state = dfine.model.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in opened.model.state_dict().items())
    convert(file, tmp_path / "back.pth", "authors")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert all(torch.equal(back["model"][n], v) for n, v in state.items())


def test_damaged_safetensors(tmp_path: Path, dfine: LoadedDetector) -> None:
    file = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match="not found"):
        read_checkpoint(file)
    write_safetensors(checkpoint_of(dfine), file)
    content = file.read_bytes()
    for broken in (b"", b"no safetensors", content[: len(content) // 2]):
        file.write_bytes(broken)
        with pytest.raises(WeightsError, match="damaged"):
            read_checkpoint(file)


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    state = {"a": whole[:3], "b": whole[3:], "c": whole, "d": whole.reshape(2, 3).T}
    write_safetensors(Checkpoint(model=state), tmp_path / "w.safetensors")
    read, _ = read_tensors(tmp_path / "w.safetensors")
    assert all(torch.equal(read[name], value) for name, value in state.items())


def test_strip_keeps_the_averaged_weights(tmp_path: Path, dfine: LoadedDetector) -> None:
    last = checkpoint_of(dfine)
    averaged = {name: value + 1 for name, value in dfine.model.state_dict().items()}
    last.ema = {"module": averaged, "updates": 3}
    last.optimizer = {"state": {0: {"exp_avg": torch.zeros(100_000)}}, "param_groups": []}
    last.save(tmp_path / "last.pth")
    strip(tmp_path / "last.pth", tmp_path / "best.pth")
    read = Checkpoint.load(tmp_path / "best.pth")
    assert (read.optimizer, read.ema, read.class_map) == (None, None, CLASSES)
    name = "encoder.lateral_convs.0.conv.weight"
    assert torch.equal(read.weights[name], averaged[name])


def test_strip_notes_what_it_recognises(tmp_path: Path) -> None:
    state = lively_detector("deimv2_hgnetv2_atto_coco").model.state_dict()
    torch.save({"model": state}, tmp_path / "theirs.pth")
    written = strip(tmp_path / "theirs.pth", tmp_path / "ours.pth")
    assert written.config == "deimv2_hgnetv2_atto_coco"
    assert Checkpoint.load(tmp_path / "ours.pth").image_spec is not None
    # nothing is known about these, and nothing is claimed
    torch.save({"model": {"x.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    assert strip(tmp_path / "other.pth", tmp_path / "o.pth").config == ""


def test_wrong_endings(tmp_path: Path) -> None:
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: strip("w.pth", tmp_path / "w.onnx"), "must end with .pth"),
        (lambda: convert("w.pth", tmp_path / "w.pth", "safetensors"), "must end with .safetensors"),
        (lambda: convert("w.pth", tmp_path / "w.pth", "hf"), "writes a folder"),
    ]
    for call, message in cases:
        with pytest.raises(UsageError, match=message):
            call()


def test_without_the_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dfine: LoadedDetector
) -> None:
    import sys

    from detrkit.engine.conversion.hf_export import hf_model

    for package in ("safetensors", "safetensors.torch", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError) as error:
        write_safetensors(checkpoint_of(dfine), tmp_path / "w.safetensors")
    assert error.value.hint == "pip install 'detrkit[hf]'"
    with pytest.raises(MissingExtraError):
        hf_model(dfine)


def test_not_a_folder_of_transformers(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder"):
        read_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match="damaged"):
        read_hf_folder(tmp_path)
