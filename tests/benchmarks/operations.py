"""Multiplications and additions of a deployed detector, with its joins whole and taken apart.

    python -m tests.benchmarks.operations [CONFIG …]

Counted by PyTorch's counter for one image of the config's size; random weights.
"""

from __future__ import annotations

import argparse
import sys
from unittest import mock

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detrkit.config import load_config
from detrkit.engine.parts import build_model
from detrkit.models import detector

CONFIGS = ("dfine_hgnetv2_s_coco", "dfine_hgnetv2_n_coco", "rtdetrv2_r18vd_120e_coco")


def operations(model: nn.Module, height: int, width: int) -> float:
    """Billions of multiply-adds."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.rand(1, 3, height, width))
    return counter.get_total_flops() / 2e9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="*", default=CONFIGS, metavar="CONFIG")
    for name in parser.parse_args().configs:
        cfg = load_config(name)
        model = build_model(cfg).eval()
        assert isinstance(model, detector.Detector)
        height, width = cfg.run.eval_spatial_size or (640, 640)
        with mock.patch.object(detector, "take_joins_apart"):
            whole = operations(model.deploy(fold_norms=True, plain=True), height, width)
        apart = operations(model.deploy(fold_norms=True, plain=True), height, width)
        sys.stdout.write(
            f"{name:28}{whole:7.2f} G whole {apart:7.2f} G apart {1 - apart / whole:6.1%}\n"
        )


if __name__ == "__main__":
    main()
