"""Reference cases of the criterion, rebuilt with detrkit's parts.

    results("…/parity/criterion/dfine_normal.json")

returns the structure of the stored `results`: per run the losses, their total, the matched
indices per output, and sums of the gradients.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrkit.losses.judged import known_matching
from detrkit.losses.matches import Pairs, union_of
from detrkit.registry import MODULES
from detrkit.structures import Target

#: Outputs of the denoising queries, as the families call them.
DENOISING = ("dn_outputs", "dn_aux_outputs")
LEAVES = ("pred_logits", "pred_boxes", "pred_corners", "ref_points")


def results(json_path: str | Path) -> dict[str, Any]:
    """Runs the stored case and returns what `results` of the file should be."""
    case = json.loads(Path(json_path).read_text(encoding="utf-8"))
    return {
        run: _run(case, Path(json_path).with_suffix(".npz"), stored["epoch"])
        for run, stored in case["results"].items()
    }


def load(json_path: str | Path) -> tuple[Any, dict[str, Any], list[Target], dict[str, Tensor]]:
    """Criterion, outputs, targets and the leaves by path of a stored case."""
    case = json.loads(Path(json_path).read_text(encoding="utf-8"))
    outputs, targets, leaves = _outputs(case, Path(json_path).with_suffix(".npz"))
    return _criterion(case["criterion"]), outputs, targets, leaves


def _run(case: dict[str, Any], arrays: Path, epoch: int) -> dict[str, Any]:
    criterion = _criterion(case["criterion"])
    outputs, targets, leaves = _outputs(case, arrays)
    sizes = [len(target) for target in targets]
    matched = criterion.match(outputs, targets, epoch)
    losses = criterion(outputs, targets, epoch)
    total = sum(losses.values())
    total.backward()

    num_queries = outputs["pred_boxes"].shape[1]
    indices = {_path(s): p.per_image(num_queries, sizes) for s, p in matched.own.items()}
    if not case["criterion"]["class_name"].startswith("RTDETR"):
        # Stored wherever the authors' code computes it, whether their losses use it or not.
        union = matched.union or union_of(list(matched.own.values()))
        indices["union"] = union.per_image(num_queries, sizes)
    denoising = next((outputs[key] for key in DENOISING if key in outputs), None)
    if denoising and outputs["dn_meta"]["dn_num_group"]:
        known = known_matching(outputs["dn_meta"], denoising[0], sizes)
        pairs = Pairs(known.queries[0].numpy(), known.targets[0].numpy())
        count = denoising[0]["pred_boxes"].shape[1]
        indices["denoising"] = pairs.per_image(count, sizes)
    return {
        "epoch": epoch,
        "losses": {name: value.item() for name, value in losses.items()},
        "total": total.item(),
        "indices": {
            name: [[list(pair) for pair in image] for image in images]
            for name, images in indices.items()
        },
        "gradients": {
            path: None
            if leaf.grad is None
            else {
                "sum": leaf.grad.double().sum().item(),
                "abs": leaf.grad.double().abs().sum().item(),
            }
            for path, leaf in leaves.items()
        },
    }


def _criterion(settings: dict[str, Any]) -> Any:
    options = dict(settings)
    matcher = dict(options.pop("matcher"))
    costs = {name: matcher.pop(name) for name in ("cost_class", "cost_bbox", "cost_giou")}
    build = MODULES.create
    return build(
        options.pop("class_name"),
        matcher=build(options.pop("matcher_class"), weight_dict=costs, **matcher),
        **options,
    )


def _outputs(
    case: dict[str, Any], arrays: Path
) -> tuple[dict[str, Any], list[Target], dict[str, Tensor]]:
    tree: dict[str, Any] = {}
    leaves: dict[str, Tensor] = {}
    with np.load(arrays) as stored:
        for path in stored.files:
            tensor = torch.from_numpy(stored[path])
            if path.rsplit("/", 1)[-1] in LEAVES:
                tensor = tensor.float().requires_grad_()
                leaves[path] = tensor
            _insert(tree, path.split("/"), tensor)
    for path, original in (case.get("same_tensor") or {}).items():
        _insert(tree, path.split("/"), _find(tree, original.split("/")))
        if original in leaves:
            leaves[path] = leaves[original]
    tree = _lists(tree)
    targets = [
        Target(t["boxes"], t["labels"], image_id=i) for i, t in enumerate(tree.pop("targets"))
    ]
    tree["enc_meta"] = case.get("enc_meta")
    if case.get("dn_meta"):
        positive = tree.get("dn_meta", {}).get("dn_positive_idx")
        tree["dn_meta"] = {**case["dn_meta"], "dn_positive_idx": positive}
    for outputs, teacher in (
        (tree.get("aux_outputs", []), tree),
        (tree.get("dn_outputs", []), (tree.get("dn_outputs") or [None])[-1]),
    ):
        for output in outputs:
            if "pred_corners" in output:
                output["teacher_corners"] = teacher["pred_corners"]
                output["teacher_logits"] = teacher["pred_logits"]
    return tree, targets, leaves


def _insert(tree: dict[str, Any], path: list[str], value: Tensor) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _find(tree: dict[str, Any], path: list[str]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _lists(tree: Any) -> Any:
    """Turns mappings with the keys 0, 1, 2, … into lists."""
    if not isinstance(tree, dict):
        return tree
    if tree and all(key.isdigit() for key in tree):
        return [_lists(tree[str(i)]) for i in range(len(tree))]
    return {key: _lists(value) for key, value in tree.items()}


def _path(suffix: str) -> str:
    """`_aux_0` -> `aux_outputs/0`, as the reference files call it."""
    if not suffix:
        return "final"
    kind, _, number = suffix.strip("_").partition("_")
    name = {"aux": "aux_outputs", "enc": "enc_aux_outputs", "pre": "pre_outputs"}[kind]
    return f"{name}/{number}" if number else name
