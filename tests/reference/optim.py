"""Adapter: groups, schedule and averaging of a configuration, in the structure of parity/optim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from detrkit.config import load_config
from detrkit.engine.optim import build_optimizer
from detrkit.engine.parts import build_model
from detrkit.engine.plan import Plan
from detrkit.engine.quirks import ZERO_WARMUP, quirks_in_force
from detrkit.engine.schedules import FLAT_COSINE_KEYS
from detrkit.engine.stages import image_sizes_of

ITERATIONS = 100
POSITIONS = [0, 1, 2, 97, 98, 99]
DECAY_STEPS = [1, 10, 100, 1000, 10000]
ZERO_WARMUP_ERROR = (
    "the official scheduler raises ZeroDivisionError at iteration 0; the schedule below goes on "
    "as if that call had done nothing"
)


def results(config_path: str | Path) -> dict[str, Any]:
    """The numbers of one configuration, an authors' file or ours."""
    cfg = load_config(config_path)
    tree = cfg.tree
    plan = Plan.from_tree(tree, ITERATIONS)
    with torch.device("meta"):  # names and sizes are all that is wanted
        model = build_model(cfg)
    optimizer = build_optimizer(tree["optimizer"], model)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    name_of = {id(p): name for name, p in model.named_parameters()}
    patterns = [entry["params"] for entry in tree["optimizer"].get("params", ())]
    groups = []
    for position, group in enumerate(optimizer.param_groups):
        names = [name_of[id(p)] for p in group["params"]]
        groups.append(
            {
                "pattern": patterns[position] if position < len(patterns) else None,
                "base_lr": group["initial_lr"],
                "weight_decay": group["weight_decay"],
                "tensors": len(names),
                "numbers": sum(sizes[name] for name in names),
                "names": names,
            }
        )
    optimized = {name for group in groups for name in group["names"]}
    train, val = tree["train_dataloader"], tree["val_dataloader"]
    collate = train["collate_fn"]
    transforms = train["dataset"]["transforms"]
    criterion = dict(tree[tree["criterion"]])
    return {
        "epochs": plan.epochs,
        "batch_size": train.get("total_batch_size", train.get("batch_size")),
        "val_batch_size": val.get("total_batch_size", val.get("batch_size")),
        "clip_max_norm": cfg.run.clip_max_norm,
        "use_amp": cfg.run.use_amp,
        "sync_bn": cfg.run.sync_bn,
        "find_unused_parameters": cfg.run.find_unused_parameters,
        "tuning": cfg.run.tuning,
        "optimizer": {k: v for k, v in tree["optimizer"].items() if k != "params"},
        "scheduler": _scheduler(tree),
        "policy": transforms.get("policy"),
        "mosaic_prob": transforms.get("mosaic_prob"),
        "collate": {k: v for k, v in collate.items() if k != "type"},
        "scales": list(image_sizes_of(collate)) or None,
        "train_ops": transforms["ops"],
        "val_ops": val["dataset"]["transforms"]["ops"],
        "criterion": criterion,
        "ema": _ema(plan, tree),
        "schedule": {
            "iterations_per_epoch": ITERATIONS,
            "positions": POSITIONS,
            "spread_between_groups": 0.0,  # one factor for all groups
            "error": ZERO_WARMUP_ERROR if ZERO_WARMUP in quirks_in_force(tree) else None,
            "runs": _runs(plan),
        },
        "not_optimized": [name for name in sizes if name not in optimized],
        "groups": groups,
    }


def _scheduler(tree: dict[str, Any]) -> dict[str, Any]:
    if tree.get("lr_scheduler_kind"):
        keys = {key: tree[key] for key in FLAT_COSINE_KEYS}
        return {"type": "FlatCosineLRScheduler", **keys}
    return {**tree["lr_scheduler"], "warmup": tree.get("lr_warmup_scheduler")}


def _ema(plan: Plan, tree: dict[str, Any]) -> dict[str, Any]:
    assert plan.ema is not None
    late = plan.stages[-1]
    assert late.ema_decay == plan.ema.decay  # the restart's decay is never read
    return {
        "decay": plan.ema.decay,
        "warmups": plan.ema.warmups,
        # RT-DETRv2's average has no `start`
        **({} if tree["model"] == "RTDETR" else {"start": plan.ema.start}),
        "decay_at_step": {str(step): plan.ema.decay_at(step) for step in DECAY_STEPS},
        "decay_at_step_1000_after_assigning_decay_0.5": plan.ema.decay_at(1000),
    }


def _runs(plan: Plan) -> list[dict[str, Any]]:
    """Factors of each epoch; equal epochs in a row are one entry."""
    runs: list[dict[str, Any]] = []
    for epoch in range(plan.epochs):
        factor = plan.lr_factors([epoch * ITERATIONS + position for position in POSITIONS])
        if runs and runs[-1]["factor"] == factor:
            runs[-1]["to"] = epoch
        else:
            runs.append({"from": epoch, "to": epoch, "factor": factor})
    return runs
