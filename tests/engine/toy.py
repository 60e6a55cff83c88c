"""A trainer over a tiny network and a loader that behaves like the real one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.engine.ema import ModelEMA
from detrkit.engine.keeper import Keeper
from detrkit.engine.observers import CSVLog, JSONLog, Observer
from detrkit.engine.optim import build_optimizer
from detrkit.engine.plan import Plan
from detrkit.engine.randomness import mix, seed_everything
from detrkit.engine.run_dir import RunDirectory
from detrkit.engine.trainer import Trainer
from detrkit.structures import Batch, Target


class Net(nn.Module):
    """Dropout draws random numbers, batch norm keeps running statistics: both must survive."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Conv2d(4, 1, 1)
        )

    def forward(self, images: Tensor, targets: Any = None) -> dict[str, Any]:
        return {"pred": self.net(images).mean((1, 2, 3)), "aux": [{"x": images.sum()}]}


class Loss(nn.Module):
    """Wants the number of boxes."""

    def forward(self, outputs: Any, targets: list[Target], epoch: int = 0) -> dict[str, Tensor]:
        wanted = torch.tensor([float(len(t)) for t in targets])
        error = (outputs["pred"] - wanted).abs()
        return {"loss_l1": error.mean(), "loss_l2": 0.1 * (error**2).mean()}


class Loader:
    """Batches as a pure function of (epoch, batch)."""

    def __init__(self, batches: int = 5) -> None:
        self.batches, self.epoch, self.start = batches, 0, 0
        self.made: list[tuple[int, int]] = []

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        self.epoch, self.start = epoch, start_batch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.start, self.batches):
            self.made.append((self.epoch, number))
            generator = torch.Generator().manual_seed(mix(self.epoch, number))
            boxes = [torch.rand((n, 4), generator=generator) for n in (number % 3, 2)]
            yield Batch(
                torch.rand((2, 3, 8, 8), generator=generator),
                [
                    Target(b, torch.zeros(len(b), dtype=torch.long), image_id=f"{number}-{i}")
                    for i, b in enumerate(boxes)
                ],
            )


class Scores:
    """An evaluator with AP values that were fixed beforehand; draws random numbers to disturb."""

    def __init__(self, values: list[float]) -> None:
        self.values = values
        self.calls = 0

    def run(self, model: nn.Module, progress: Any = None) -> Any:
        torch.rand(17)
        if progress is not None:
            progress(1, 1)
        value = self.values[self.calls % len(self.values)]
        self.calls += 1
        return SimpleNamespace(values={"AP": value, "AP50": min(value * 2, 1.0)})


def tree(epochs: int = 4, stop: int = 3, **more: Any) -> dict[str, Any]:
    """A configuration in the dialect."""
    return {
        "epochs": epochs,
        "use_ema": True,
        "ema": {"decay": 0.9, "warmups": 3},
        "lr_scheduler": {"type": "MultiStepLR", "milestones": [500]},
        "lr_warmup_scheduler": {"type": "LinearWarmup", "warmup_duration": 7},
        "train_dataloader": {
            "dataset": {"transforms": {"policy": {"name": "stop_epoch", "epoch": stop, "ops": []}}},
            "collate_fn": {"stop_epoch": stop},
        },
        **more,
    }


def trainer(
    folder: Path,
    *,
    epochs: int = 4,
    stop: int = 3,
    scores: list[float] | None = None,
    batches: int = 5,
    observers: list[Observer] | None = None,
    first_epoch: int = 0,
    restarts: bool | str = True,
    **more: Any,
) -> Trainer:
    """A new trainer in `folder`, always with the same initial weights."""
    folder.mkdir(parents=True, exist_ok=True)
    run = RunDirectory(folder)
    seed_everything(3)
    model = Net()
    logs = [JSONLog(run.log, first_epoch), CSVLog(run.results, first_epoch)]
    return Trainer(
        model=model,
        criterion=Loss(),
        optimizer=build_optimizer({"type": "AdamW", "lr": 0.01}, model),
        loader=Loader(batches),
        plan=Plan.from_tree(tree(epochs, stop, restart_from_best=restarts), batches),
        keeper=Keeper(run, config={"epochs": epochs}),
        device=torch.device("cpu"),
        evaluator=Scores(scores or [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        ema=ModelEMA(model, 0.9, 3),
        clip_max_norm=0.1,
        observers=[*logs, *(observers or [])],
        seed=5,
        **more,
    )


def restarts_of(run: Trainer) -> list[int]:
    """The epochs that begin with the best weights, filled while the run goes on."""
    epochs: list[int] = []
    restart = run.restart

    def watch() -> None:
        restart()
        epochs.append(run.state.epoch)

    run.restart = watch  # type: ignore[method-assign]
    return epochs


def equal(a: Any, b: Any) -> bool:
    """Whether nested data with tensors is the same, bit for bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)
