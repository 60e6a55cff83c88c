"""Options of a training run: the same for `train` and `tune`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import Data, Device, JsonOut, Output, Plugins, Updates
from detrkit.cli.processes import RESTARTS, AutoResume, Devices, MaxRestarts, Nproc

if TYPE_CHECKING:
    from detrkit.engine.derive import TrainFlags

# Typer reads these at run time, on Python 3.10 as well: `Optional`, not `X | None`.
# ruff: noqa: UP045

ValFraction = Annotated[
    Optional[float],
    typer.Option(
        metavar="0-1",
        help="Hold this share of the training images out to validate on.",
        show_default=False,
    ),
]
Epochs = Annotated[
    Optional[int],
    typer.Option(metavar="N", help="Length of the run; stages, warm-up and averaging follow."),
]
Batch = Annotated[
    Optional[str],
    typer.Option(
        "-b",
        "--batch",
        metavar="N|auto",
        help="Images per step on all devices; learning rates follow (square root). "
        "auto tries what fits; rates follow linearly.",
    ),
]
Accumulate = Annotated[
    Optional[int],
    typer.Option(
        metavar="K",
        help="Split each batch into K parts that fit into memory; the gradient stays that of all.",
    ),
]
Size = Annotated[
    Optional[str],
    typer.Option(metavar="HxW", help="Input of the model, e.g. 640 or 480x640 (height first)."),
]
LR = Annotated[
    Optional[float],
    typer.Option("--lr", metavar="RATE", help="Main learning rate; the backbone's follows."),
]
Amp = Annotated[
    Optional[str],
    typer.Option(
        metavar="bf16|fp16|off",
        help="Mixed precision. By default bf16 on a GPU that has it, off on a CPU.",
    ),
]
Seed = Annotated[
    Optional[int], typer.Option(metavar="N", help="Same seed, same weights (on a CPU).")
]
Workers = Annotated[
    Optional[int], typer.Option("-j", "--workers", metavar="N", help="Processes that load images.")
]
Cache = Annotated[
    Optional[str],
    typer.Option(
        metavar="ram|disk|off",
        help="Decode all images once, before the run, and keep them. Changes no result.",
        show_default=False,
    ),
]
CacheSize = Annotated[
    Optional[int],
    typer.Option(
        metavar="N",
        help="Shrink training images in the cache to at most N pixels; small objects suffer.",
        show_default=False,
    ),
]
ClassMapFile = Annotated[
    Optional[str],
    typer.Option(
        "--class-map",
        metavar="FILE",
        help="Lines `my class: their class` (a name, a number or null), where names do not tell.",
        show_default=False,
    ),
]
Loggers = Annotated[
    Optional[list[str]],
    typer.Option(
        "--logger",
        metavar="NAME",
        help="Also log to wandb or mlflow (`pip install 'detrkit\\[loggers]'`); repeatable.",
        show_default=False,
    ),
]

Report = Annotated[
    Optional[bool],
    typer.Option(
        "--report/--no-report",
        help="End with report.html and metrics.json on the best epoch (default).",
        show_default=False,
    ),
]

_small_data = partial(typer.Option, rich_help_panel="Small and uneven data")
_negatives = partial(typer.Option, rich_help_panel="Images without targets")
_speed = partial(typer.Option, rich_help_panel="Speed")
Patience = Annotated[
    Optional[int],
    _small_data(
        metavar="N", help="End the run after N epochs without a better one.", show_default=False
    ),
]
BestMetric = Annotated[
    Optional[str],
    _small_data(
        metavar="NAME",
        help="What makes an epoch the best: AP (default), AP50, APs, AR100, …",
        show_default=False,
    ),
]
Freeze = Annotated[
    Optional[list[str]],
    _small_data(
        metavar="PART",
        help="Keep the weights of a part, e.g. backbone or backbone.stem; repeatable.",
        show_default=False,
    ),
]
FreezeBN = Annotated[
    Optional[bool],
    _small_data(
        "--freeze-bn/--no-freeze-bn",
        help="Keep weights and statistics of batch norms: for batches of few images.",
        show_default=False,
    ),
]
LayerDecay = Annotated[
    Optional[float],
    _small_data(
        metavar="0-1",
        help="Learning rate of each stage of the backbone, as a part of the next one's.",
        show_default=False,
    ),
]
Sampling = Annotated[
    Optional[str],
    _small_data(
        metavar="repeat_factor|class_balanced",
        help="Show images of rare classes more often.",
        show_default=False,
    ),
]
Negatives = Annotated[
    Optional[str],
    _negatives(
        metavar="DIR",
        help="Images without targets to learn from, against false detections.",
        show_default=False,
    ),
]
EvalNegatives = Annotated[
    Optional[str],
    _negatives(
        metavar="DIR",
        help="Other images without targets: false detections on them are counted every epoch.",
        show_default=False,
    ),
]
Compile = Annotated[
    Optional[bool],
    _speed(
        "--compile/--no-compile",
        help="Compile backbone and encoder; the first steps take minutes, the others less time.",
        show_default=False,
    ),
]
ChannelsLast = Annotated[
    Optional[bool],
    _speed(
        "--channels-last/--no-channels-last",
        help="Memory format; by default what is faster on the device.",
        show_default=False,
    ),
]
Profile = Annotated[
    Optional[int],
    _speed(
        metavar="N",
        help="Profile N steps: a trace and a table of where the time goes.",
        show_default=False,
    ),
]


@dataclass
class LaunchOptions:
    """Where a run goes, what of its config is changed, and how often it is started."""

    output: Output = None
    auto_resume: AutoResume = False
    max_restarts: MaxRestarts = RESTARTS
    update: Updates = None
    plugin: Plugins = None
    json: JsonOut = False


@dataclass
class TrainOptions:
    """What a user can say about a run without editing its configuration."""

    data: Data = None
    val_fraction: ValFraction = None
    epochs: Epochs = None
    batch: Batch = None
    accumulate: Accumulate = None
    size: Size = None
    lr: LR = None
    amp: Amp = None
    device: Device = None
    devices: Devices = None
    nproc: Nproc = None
    seed: Seed = None
    workers: Workers = None
    cache: Cache = None
    cache_size: CacheSize = None
    logger: Loggers = None
    report: Report = None
    patience: Patience = None
    best_metric: BestMetric = None
    freeze: Freeze = None
    freeze_bn: FreezeBN = None
    layer_decay: LayerDecay = None
    sampling: Sampling = None
    negatives: Negatives = None
    eval_negatives: EvalNegatives = None
    compile: Compile = None
    channels_last: ChannelsLast = None
    profile: Profile = None

    @property
    def auto_batch(self) -> bool:
        """Whether the batch size is to be found by trying."""
        return self.batch == "auto"

    def flags(self, **more: Any) -> TrainFlags:
        """As the engine takes them; `more`: flags of one command only.

        Raises:
            UsageError: `--batch` is neither a number nor auto.
        """
        from detrkit.engine.derive import TrainFlags, parse_batch

        images = parse_batch(self.batch)
        return TrainFlags(
            data=self.data,
            val_fraction=self.val_fraction,
            epochs=self.epochs,
            batch=None if images == "auto" else images,
            accumulate=self.accumulate,
            size=self.size,
            lr=self.lr,
            amp=self.amp,
            device=self.device,
            seed=self.seed,
            workers=self.workers,
            cache=self.cache,
            cache_size=self.cache_size,
            loggers=tuple(self.logger or ()),
            patience=self.patience,
            best_metric=self.best_metric,
            freeze=tuple(self.freeze or ()),
            freeze_bn=self.freeze_bn,
            layer_decay=self.layer_decay,
            sampling=self.sampling,
            negatives=self.negatives,
            eval_negatives=self.eval_negatives,
            compile=self.compile,
            channels_last=self.channels_last,
            profile=self.profile,
            report=self.report,
            **more,
        )
