"""A plugin whose losses are not finite, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from detrkit.engine.checkpoint import Checkpoint
from tests.cli.conftest import Run
from tests.conftest import REPOSITORY
from tests.engine.tiny_data import write_coco, write_config

PLUGIN = """
import torch
from torch import nn

from detrkit.losses.criteria import DFINECriterion
from detrkit.registry import MODULES


@MODULES.register(inject=("matcher",), share=("num_classes",))
class Fragile(DFINECriterion):
    calls = 0

    def forward(self, outputs, targets, epoch=0, **more):
        losses = super().forward(outputs, targets, epoch, **more)
        Fragile.calls += 1
        if {condition}:
            losses["loss_bbox"] = losses["loss_bbox"] * float("nan")
        return losses
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_coco(tmp_path / "data", train=6, val=2)
    write_config(tmp_path, REPOSITORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path
