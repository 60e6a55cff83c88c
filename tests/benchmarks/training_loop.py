"""detrkit's training step against a plain float32 loop, in one run.

    python -m tests.benchmarks.training_loop [CONFIG …]                 --amp as this CPU has it
    python -m tests.benchmarks.training_loop --authors PATH/TO/D-FINE   against the authors' code

The plain loop is the one of the authors' repositories: forward, criterion, backward, clipping,
AdamW and the averaged weights, in float32. It runs on our model, or, with `--authors`, on the
model and criterion of a checkout of theirs (D-FINE configs only). detrkit's steps are those of its
trainer, with its defaults, in bf16 and in float32. Batch 4 of 640² with 20 boxes per image, two
threads; all take turns, so that other programs slow all alike. Printed are medians, the ratio to
the plain loop, and which part of a step clipping, optimizer and averaged weights take.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.config import load_config
from detrkit.engine.amp import Precision
from detrkit.engine.ema import ModelEMA
from detrkit.engine.keeper import Keeper
from detrkit.engine.optim import build_optimizer
from detrkit.engine.parts import build_criterion, build_model
from detrkit.engine.plan import Plan
from detrkit.engine.run_dir import RunDirectory
from detrkit.engine.session import prefers_channels_last
from detrkit.engine.trainer import Trainer
from detrkit.structures import Batch, Target
from tests.benchmarks.train_step import make_batch

CONFIGS = ("dfine_hgnetv2_n_coco", "dfine_hgnetv2_s_coco")
CPU = torch.device("cpu")
#: Seconds of a step: the whole, and of clipping, optimizer and averaging.
Step = Callable[[], tuple[float, float]]


class PlainEMA:
    """Averaged weights, tensor by tensor."""

    def __init__(self, model: nn.Module) -> None:
        self.average = deepcopy(model).eval()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        weights = model.state_dict()
        for name, value in self.average.state_dict().items():
            if value.is_floating_point():
                value *= 0.999
                value += 0.001 * weights[name].detach()


def plain_step(
    model: nn.Module,
    criterion: nn.Module,
    judge: Callable[[Any], Sequence[Tensor]],
    forward: Callable[[], Any],
) -> Step:
    """The loop that everyone writes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ema = PlainEMA(model)
    model.train()
    criterion.train()

    def step() -> tuple[float, float]:
        start = time.perf_counter()
        loss = torch.stack(list(judge(forward()))).sum()
        optimizer.zero_grad()
        loss.backward()
        middle = time.perf_counter()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        ema.update(model)
        end = time.perf_counter()
        return end - start, end - middle

    return step


def our_plain_step(name: str, images: Tensor, targets: list[Target]) -> Step:
    cfg = load_config(name)
    model, criterion = build_model(cfg, seed=0), build_criterion(cfg)
    return plain_step(
        model,
        criterion,
        lambda outputs: list(criterion(outputs, targets, epoch=0).values()),
        lambda: model(images, targets),
    )


def authors_step(checkout: Path, name: str, images: Tensor, targets: list[Target]) -> Step:
    """The same with the model and the criterion of the authors' checkout."""
    before = Path.cwd()
    os.chdir(checkout)
    sys.path.insert(0, str(checkout))
    try:
        from src.core import YAMLConfig  # type: ignore[import-not-found]

        cfg = YAMLConfig(f"configs/dfine/{name}.yml", HGNetv2={"pretrained": False})
        model, criterion = cfg.model, cfg.criterion
    finally:
        os.chdir(before)
    plain = [{"boxes": t.boxes_cxcywh, "labels": t.labels} for t in targets]
    return plain_step(
        model,
        criterion,
        lambda outputs: list(
            criterion(outputs, plain, epoch=0, step=0, global_step=0, epoch_step=1).values()
        ),
        lambda: model(images, targets=plain),
    )


def trainer_step(name: str, amp: str, images: Tensor, targets: list[Target]) -> Step:
    """A step of the trainer, with the settings that it chooses on a CPU."""
    cfg = load_config(name)
    precision = Precision(amp)  # type: ignore[arg-type]
    last = prefers_channels_last(CPU, precision)
    layout = torch.channels_last if last else torch.contiguous_format
    model = build_model(cfg, seed=0).to(memory_format=layout).train()
    trainer = Trainer(
        model,
        build_criterion(cfg).train(),
        build_optimizer(cfg.get("optimizer"), model),
        loader=Repeated(),
        plan=Plan.from_tree(cfg.tree, len(Repeated())),
        keeper=Keeper(RunDirectory(Path(os.devnull))),
        device=CPU,
        ema=ModelEMA(model),
        precision=precision,
        clip_max_norm=0.1,
    )
    batch = Batch(images, targets)
    middle = 0.0
    unscale = trainer.scaler.unscale_

    def unscale_and_look_at_the_clock(optimizer: Any) -> None:
        nonlocal middle
        middle = time.perf_counter()  # all that follows is clipping, optimizer and averaging
        unscale(optimizer)

    trainer.scaler.unscale_ = unscale_and_look_at_the_clock  # type: ignore[method-assign]

    def step() -> tuple[float, float]:
        start = time.perf_counter()
        trainer.train_step(batch)
        end = time.perf_counter()
        return end - start, end - middle

    return step


class Repeated:
    """A loader's length; the batch is always the same."""

    def __len__(self) -> int:
        return 100

    def __iter__(self) -> Any:
        raise NotImplementedError

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        pass


def compare(name: str, args: argparse.Namespace) -> None:
    images, targets = make_batch(args.batch, (args.size, args.size), 20, 80)
    steps: dict[str, Step] = {"plain loop": our_plain_step(name, images, targets)}
    if args.authors:
        steps = {"authors' code": authors_step(args.authors, name, images, targets), **steps}
    steps["detrkit, float32"] = trainer_step(name, "off", images, targets)
    steps["detrkit, bf16"] = trainer_step(name, "bf16", images, targets)
    times: dict[str, list[tuple[float, float]]] = {label: [] for label in steps}
    for turn in range(args.repeats + 1):
        for label, step in steps.items():
            measured = step()
            if turn:  # the first chooses kernels and makes the optimizer's state
                times[label].append(measured)
    print(f"{name}: batch {args.batch}, {args.size}²")
    slowest = 0.0
    for label, measured_ones in times.items():
        whole = statistics.median(whole for whole, _ in measured_ones)
        rest = statistics.median(rest for _, rest in measured_ones)
        slowest = slowest or whole
        print(
            f"  {label:18}{whole * 1e3:8.0f} ms {slowest / whole:6.2f}×   "
            f"clip, optimizer, average {rest / whole:6.1%}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    parser.add_argument("--authors", type=Path, help="checkout of D-FINE")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.configs:
        compare(name, args)


if __name__ == "__main__":
    main()
