"""All families against the authors' numbers: names, counts, eval and train outputs.

The cases are those of the reference folder, whatever it holds.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detrkit.models.decoders import query_selection
from detrkit.models.postprocess import PostProcessor
from detrkit.structures import ClassMap, ImageSpec
from tests.conftest import reference_folder
from tests.reference.models import CONFIGS, build

#: Limits of the reference's README, after queries are paired by their encoder position.
LOGITS, BOXES, CORNERS = 2e-3, 1e-4, 1e-3
#: COCO's 80 category ids; the authors' postprocessor answers with them.
_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
_IDS = tuple(i for i in range(1, 91) if i not in _GAPS)
COCO = ClassMap(tuple(str(i) for i in _IDS), _IDS)


def is_large(name: str) -> bool:
    """Whether a model takes seconds to build: large sizes, and ResNets from 50 layers on."""
    size = name.split("_", 1)[1]
    return size.endswith(("_l", "_x", "_h")) or size in "lx" or "r50" in size or "r101" in size


def is_smallest(name: str) -> bool:
    """Whether a model is the one of its kind that the default run forwards."""
    return name.removesuffix("_rect").endswith(("_n", "_r18", "_r18_dsp", "_atto", "dinov3_s"))


def cases(kind: str) -> list[Any]:
    """Names of a folder of the reference numbers; none where it is absent."""
    folder = reference_folder() / "parity" / kind
    names = sorted(p.stem for p in folder.glob("*.json") if p.stem != "unused_parameters")
    slow = {
        "keys": is_large,
        "outputs": lambda name: not is_smallest(name),
        "train": lambda name: not (is_smallest(name) and name.endswith("_rect")),
    }[kind]
    return [pytest.param(name, marks=pytest.mark.slow if slow(name) else ()) for name in names]


def read(reference: Path, kind: str, name: str) -> dict[str, Any]:
    return json.loads((reference / "parity" / kind / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def fill(reference: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("parity_fill", reference / "parity" / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=cases("keys"))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def expected(reference: Path, name: str) -> dict[str, Any]:
    return read(reference, "keys", name)


@pytest.fixture(scope="module")
def model(name: str) -> nn.Module:
    return build(name)


def test_names_shapes_and_types(model: nn.Module, expected: dict[str, Any]) -> None:
    state = model.state_dict()
    assert [(k, list(v.shape)) for k, v in state.items()] == list(expected["keys"].items())
    special = expected["dtypes_other_than_float32"]
    for key, value in state.items():
        kind = "int64" if key.endswith("num_batches_tracked") else special.get(key, "float32")
        assert str(value.dtype) == f"torch.{kind}", key
    for alias, first in expected["aliases"].items():
        assert state[alias].data_ptr() == state[first].data_ptr()


def test_parameter_counts(model: nn.Module, expected: dict[str, Any]) -> None:
    parameters = dict(model.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == expected["parameters"]
    trainable = sum(p.numel() for p in parameters.values() if p.requires_grad)
    assert trainable == expected["parameters_trainable"]
    for name in expected["parameters_never_trainable"]:
        assert not parameters[name].requires_grad
    frozen = [n for n, p in parameters.items() if "backbone" in n and not p.requires_grad]
    assert len(frozen) == expected["frozen_backbone_parameters"]


def test_deployed_counts(model: nn.Module, expected: dict[str, Any]) -> None:
    deployed = model.deploy()
    count = sum(p.numel() for p in deployed.parameters())
    new = set(deployed.state_dict()) - set(expected["keys"])
    assert set(expected["deploy_only_keys"]["examples"]) <= new
    if expected["model"].startswith("rtdetrv2"):
        # RT-DETRv2's authors fuse branches and keep them; we do not keep them
        assert count < min(expected["parameters"], expected["parameters_deploy"])
        assert len(deployed.state_dict()) < expected["deploy_state_entries"]
    else:
        assert count == expected["parameters_deploy"]
        assert len(deployed.state_dict()) == expected["deploy_state_entries"]
        assert len(new) == expected["deploy_only_keys"]["count"]
    assert list(model.state_dict()) == list(expected["keys"])  # untouched


def test_every_reference_model_has_a_configuration(reference: Path) -> None:
    names = {p.stem for p in (reference / "parity" / "keys").glob("*.json")}
    assert names - {"unused_parameters"} <= set(CONFIGS)


def test_unknown_names_are_listed() -> None:
    with pytest.raises(KeyError, match="dfine_n, dfine_s, dfine_x"):
        build("dfine_q")


def filled(fill: ModuleType, recipe: dict[str, Any]) -> nn.Module:
    """The recipe's model with its weights, in evaluation."""
    model = build(recipe["model"])
    fill.fill_by_name(
        model, tuple(recipe["skip"]), recipe["gain"], tuple(recipe["unit"]), recipe["gains"]
    )
    return model.eval()


def image(fill: ModuleType, recipe: dict[str, Any]) -> Tensor:
    batch, _, h, w = recipe["input"]
    return fill.image(batch, h, w, seed=recipe["image_seed"])


@pytest.fixture
def selected(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Collects the encoder positions that become queries."""
    found: list[Tensor] = []
    original = query_selection.select_positions

    def record(*args: Any, **kwargs: Any) -> Tensor:
        found.append(original(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr("detrkit.models.decoders.two_stage.select_positions", record)
    return found


def pairing(ours: Tensor, theirs: np.ndarray) -> Tensor:
    """For each of their queries the place of the same position in ours, (B, Q)."""
    rows = []
    for mine, official in zip(ours.tolist(), theirs.tolist(), strict=True):
        place = {position: i for i, position in enumerate(mine)}
        assert set(mine) == set(official)
        rows.append([place[position] for position in official])
    return torch.tensor(rows)


def paired(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))


def close(ours: Tensor, theirs: np.ndarray, limit: float) -> None:
    difference = np.abs(ours.double().numpy() - theirs)
    assert difference.max() < limit, f"largest difference {difference.max():.2e}"


@pytest.mark.parametrize("case", cases("outputs"))
@torch.no_grad()
def test_eval_outputs(reference: Path, fill: ModuleType, selected: list[Tensor], case: str) -> None:
    recipe = read(reference, "outputs", case)
    theirs = np.load(reference / "parity" / "outputs" / f"{case}.npz")
    model = filled(fill, recipe)
    images = image(fill, recipe)
    out = model(images)
    assert set(out) == {"pred_logits", "pred_boxes"}
    order = pairing(selected[0], theirs["enc_topk_index"])
    close(paired(out["pred_logits"], order), theirs["pred_logits"], LOGITS)
    close(paired(out["pred_boxes"], order), theirs["pred_boxes"], BOXES)

    deployed = model.deploy()(images)
    order = pairing(selected[1], theirs["enc_topk_index"])
    close(paired(deployed["pred_logits"], order), theirs["pred_logits"], LOGITS)
    close(paired(deployed["pred_boxes"], order), theirs["pred_boxes"], BOXES)

    w, h = recipe["orig_size"]
    spec = ImageSpec(tuple(recipe["input"][2:]))
    (found,) = PostProcessor().postprocess(out, [(h, w)], spec, COCO)
    assert len(found) == len(theirs["scores"])
    assert np.abs(found.scores - theirs["scores"]).max() < 1e-3
    category = np.array(COCO.category_ids)[found.labels]
    # scores nearer than rounding may swap ranks: compare each with its neighbours
    for i, (label, box) in enumerate(zip(theirs["labels"], theirs["boxes"], strict=True)):
        near = slice(max(i - 3, 0), i + 4)
        distance = np.abs(found.boxes_xyxy[near] - box).max(-1)
        assert distance[category[near] == label].min() < 0.1, i


@pytest.mark.parametrize("case", cases("train"))
@torch.no_grad()
def test_train_outputs(
    reference: Path, fill: ModuleType, selected: list[Tensor], case: str
) -> None:
    recipe = read(reference, "train", case)
    theirs = np.load(reference / "parity" / "train" / f"{case}.npz")
    model = filled(fill, recipe)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model.decoder.num_denoising = 0
    out = model(image(fill, recipe))
    assert out["enc_meta"] == recipe["enc_meta"]
    order = pairing(selected[0], theirs["enc_topk_index"])
    close(paired(out["pred_logits"], order), theirs["pred_logits"], LOGITS)
    close(paired(out["pred_boxes"], order), theirs["pred_boxes"], BOXES)

    tensors = flatten(out)
    assert set(tensors) == set(recipe["tensors"])
    for name, expected in recipe["tensors"].items():
        tensor = tensors[name]
        assert list(tensor.shape) == expected["shape"], name
        limit = max(20 * expected["noise"], CORNERS)
        if tensor.dim() == 3:
            tensor = paired(tensor, order)
        values = tensor.double().flatten()
        assert abs(values.mean().item() - expected["mean"]) < limit, name
        if len(values) > 1:
            assert abs(values.std(unbiased=False).item() - expected["std"]) < limit, name
        close(values[:32], np.array(expected["first"]), limit)


def flatten(out: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor by its path, `aux_outputs/0/pred_boxes`."""
    if isinstance(out, Tensor):
        return {path: out}
    items = (
        out.items() if isinstance(out, dict) else enumerate(out) if isinstance(out, list) else ()
    )
    found: dict[str, Tensor] = {}
    for key, value in items:
        found |= flatten(value, f"{path}/{key}" if path else str(key))
    return found
