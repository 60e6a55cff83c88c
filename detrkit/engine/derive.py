"""One knob each: what a flag or `schedule: auto` changes besides itself.

- `--epochs N` sets `schedule: auto`: stages, windows, warm-up and averaging follow the length of
  the run (rules in `detrkit.engine.automatic`).
- `tune` without `--epochs` takes as many as fine-tuning needs (`enough_epochs`), unless the user's
  own file, its `schedule: auto` or `--update` says how long.
- `--batch N` scales every learning rate by sqrt(N / old): for Adam the noise of an update, not its
  size, depends on the batch (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive
  Gradient Algorithms"). SGD's rates scale linearly (Goyal et al. 2017), and so do all with `--batch
  auto`, as D-FINE's authors advise for other numbers of GPUs. `--lr` switches this off.
- `--lr X` sets the main rate; groups with their own rate keep their ratio to it.
- `--size HxW` sets the model's input, the transforms and the collate function.

`--update a.b=c` is applied last and always wins. Without flags a file means exactly what it says.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detrkit.config import Config, Flag, load_config
from detrkit.config.catalogue import root
from detrkit.config.schema import LOGGERS
from detrkit.engine.automatic import automatic, enough_epochs, epoch_values
from detrkit.engine.judging import check_metric
from detrkit.engine.schedules import FLAT_COSINE
from detrkit.engine.stages import collate_of
from detrkit.errors import UsageError, did_you_mean
from detrkit.words import count

log = logging.getLogger("detrkit")

#: Flags that set the key of the same name.
_SETTINGS = {
    name: "--" + name.replace("_", "-")
    for name in (
        "data",
        "val_fraction",
        "seed",
        "accumulate",
        "device",
        "patience",
        "best_metric",
        "freeze_bn",
        "layer_decay",
        "sampling",
        "negatives",
        "eval_negatives",
        "compile",
        "channels_last",
        "profile",
        "report",
    )
}


@dataclass(frozen=True)
class TrainFlags:
    """Flags of `train`, `tune` and `resume`; None: as the configuration says.

    Attributes:
        data: data set of any layout.
        val_fraction: share of the training images held out.
        epochs: passes over the training set.
        choose_epochs: where nobody says how many, as many as fine-tuning needs.
        batch: images per step over all devices.
        linear_rates: learning rates follow the ratio of the batches, not its root.
        accumulate: parts in which a batch goes through the model.
        size: "640" or "480x640", height first.
        lr: main learning rate.
        amp: "bf16", "fp16" or "off".
        device: "cpu", "cuda:1".
        seed: of everything random.
        workers: loader processes.
        cache: where images are kept decoded: "ram", "disk" or "off".
        cache_size: longest side of images in it.
        tune: weights to start from.
        class_map: file of lines `class of the data: class of these weights`.
        loggers: where curves go as well; each one name, or several with commas between.
        patience, best_metric, freeze_bn, layer_decay, sampling, negatives, eval_negatives, compile,
        channels_last, profile, report: the settings of these names.
        freeze: parts that keep their weights; each one name, or several with commas between.
        distillation: values of that section by dotted key; None: it is left as it is.
    """

    data: str | None = None
    val_fraction: float | None = None
    epochs: int | None = None
    choose_epochs: bool = False
    batch: int | None = None
    linear_rates: bool = False
    accumulate: int | None = None
    size: str | None = None
    lr: float | None = None
    amp: str | None = None
    device: str | None = None
    seed: int | None = None
    workers: int | None = None
    cache: str | None = None
    cache_size: int | None = None
    tune: str | None = None
    class_map: str | None = None
    loggers: tuple[str, ...] = ()
    patience: int | None = None
    best_metric: str | None = None
    freeze: tuple[str, ...] = ()
    freeze_bn: bool | None = None
    layer_decay: float | None = None
    sampling: str | None = None
    negatives: str | None = None
    eval_negatives: str | None = None
    compile: bool | None = None
    channels_last: bool | None = None
    profile: int | None = None
    report: bool | None = None
    distillation: Mapping[str, Any] | None = None


def load_with_flags(
    path_or_name: str | Path,
    flags: TrainFlags,
    *,
    update: Sequence[str] = (),
    plugins: Sequence[str | Path] = (),
) -> Config:
    """Loads a configuration, sets the flags and what hangs on them, then `--update`.

    Raises:
        UsageError: a flag's value makes no sense.
        ConfigError: the file or an update is wrong.
    """
    # Read once without checking: learning rates are scaled from the file's own values.
    plain = load_config(path_or_name, update=update, plugins=plugins, strict=False)
    overrides = flag_values(flags, plain)
    return load_config(path_or_name, update=update, plugins=plugins, overrides=overrides)


def flag_values(flags: TrainFlags, cfg: Config) -> dict[str, Any]:
    """Dotted keys and values that the flags stand for.

    Args:
        flags: from the command line.
        cfg: the configuration without them.
    """
    values: dict[str, Any] = {}

    def put(key: str, value: Any, flag: str) -> None:
        values[key] = Flag(value, flag)

    for name, flag, low in (
        ("epochs", "--epochs", 1),
        ("batch", "--batch", 1),
        ("accumulate", "--accumulate", 1),
        ("workers", "--workers", 0),
        ("cache_size", "--cache-size", 32),
        ("patience", "--patience", 1),
        ("profile", "--profile", 1),
    ):
        value = getattr(flags, name)
        if value is not None and value < low:
            raise UsageError(f"{flag} must be at least {low}, got {value}")
    for name, flag in _SETTINGS.items():
        value = getattr(flags, name)
        if value is not None:
            put(name, value, flag)
    if flags.freeze:
        put("freeze", _listed(flags.freeze), "--freeze")
    if flags.distillation is not None:
        if cfg.get("distillation") is None:
            put("distillation", {"type": "Distillation"}, "distill")
        for name, value in flags.distillation.items():
            put(f"distillation.{name}", value, "distill")
    _check(flags)
    if flags.loggers:
        put("loggers", _loggers(flags.loggers, cfg), "--logger")
    if flags.tune is not None:
        put("tuning", flags.tune, "--tune")
    if flags.class_map is not None:
        put("tuning_class_map", flags.class_map, "--class-map")
    if flags.amp is not None:
        if flags.amp not in ("bf16", "fp16", "off"):
            raise UsageError(f"--amp {flags.amp}: choose bf16, fp16 or off")
        put("amp", flags.amp, "--amp")
    if flags.epochs is not None:
        put("epochs", flags.epochs, "--epochs")
        if cfg.get("schedule") != "auto":
            put("schedule", "auto", "--epochs")
    elif flags.choose_epochs and not _says_how_long(cfg):
        put("epochs", None, "tune")
        put("schedule", "auto", "tune")
    if flags.size is not None:
        put("image_size", list(parse_size(flags.size)), "--size")
    if flags.workers is not None:
        for loader in ("train_dataloader", "val_dataloader"):
            put(f"{loader}.num_workers", flags.workers, "--workers")
    if flags.cache is not None:
        for key, value in cache_values(flags.cache, cfg).items():
            put(key, value, "--cache")
    if flags.cache_size is not None:
        cached = cfg.get("ram_cache") or cfg.get("disk_cache")
        if flags.cache == "off" or not (flags.cache or cached):
            raise UsageError(
                "--cache-size without a cache has no effect", hint="add --cache ram or --cache disk"
            )
        put("cache_imgsz", flags.cache_size, "--cache-size")
    if flags.batch is not None:
        _set_batch(put, flags.batch, cfg)
    if flags.lr is not None:
        old = cfg.get("optimizer.lr")
        if not flags.lr > 0:
            raise UsageError(f"--lr must be positive, got {flags.lr}")
        _scale_rates(put, cfg, flags.lr / old if old else 1.0, "--lr", main=flags.lr)
    elif flags.batch is not None:
        factor = rate_factor(cfg, flags.batch, linear=flags.linear_rates)
        if factor is not None:
            _scale_rates(put, cfg, factor, "--batch")
    return values


def _says_how_long(cfg: Config) -> bool:
    """Whether the user chose the epochs; not so where they are those of a published recipe."""
    if "epochs" not in cfg or cfg.get("schedule") == "auto":
        return True
    file = cfg.origin("epochs").file
    if file is None:
        return True  # --update
    own = cfg.path is not None and Path(file) == cfg.path
    return own and not Path(file).is_relative_to(root())


def _listed(flags: Sequence[str]) -> list[str]:
    """Each once: `a,b` and `c` of a repeated flag -> a, b, c."""
    names = [name.strip() for flag in flags for name in flag.split(",")]
    return list(dict.fromkeys(name for name in names if name))


def _check(flags: TrainFlags) -> None:
    if flags.best_metric is not None:
        check_metric(flags.best_metric)
    if flags.sampling not in (None, "repeat_factor", "class_balanced"):
        raise UsageError(f"--sampling {flags.sampling}: choose repeat_factor or class_balanced")
    if flags.layer_decay is not None and not 0 < flags.layer_decay <= 1:
        raise UsageError(f"--layer-decay must be above 0 and at most 1, got {flags.layer_decay}")


def _loggers(flags: Sequence[str], cfg: Config) -> list[str]:
    """The configuration's loggers and those of the flags."""
    asked = _listed(flags)
    for name in asked:
        if name not in LOGGERS:
            raise UsageError(
                f"--logger {name}: no such logger{did_you_mean(name, LOGGERS)}",
                hint=f"choose of {', '.join(LOGGERS)}",
            )
    return list(dict.fromkeys([*cfg.run.chosen_loggers, *asked]))


def cache_values(cache: str, cfg: Config) -> dict[str, Any]:
    """Keys and values of `--cache`; a folder that the configuration names stays.

    Raises:
        UsageError: `cache` is not "ram", "disk" or "off".
    """
    if cache not in ("ram", "disk", "off"):
        raise UsageError(f"--cache {cache}: choose ram, disk or off")
    folder = cfg.get("disk_cache")
    return {"ram_cache": cache == "ram", "disk_cache": cache == "disk" and (folder or True)}


def rate_factor(cfg: Config, batch: int, *, linear: bool = False) -> float | None:
    """What `--batch` multiplies the learning rates of a configuration by.

    None where it does not say for which batch its rates are made.

    Args:
        cfg: the configuration.
        batch: the new size.
        linear: follow the ratio, whatever the optimizer.
    """
    old = cfg.get("train_dataloader.total_batch_size") or cfg.get("train_dataloader.batch_size")
    if not old:
        return None
    ratio = float(batch / old)
    adaptive = str(cfg.get("optimizer.type", "AdamW")).startswith("Adam")
    return math.sqrt(ratio) if adaptive and not linear else ratio


def _set_batch(put: Any, batch: int, cfg: Config) -> None:
    for loader in ("train_dataloader", "val_dataloader"):
        if f"{loader}.batch_size" in cfg:
            put(f"{loader}.batch_size", None, "--batch")
        put(f"{loader}.total_batch_size", batch, "--batch")


def _scale_rates(
    put: Any, cfg: Config, factor: float, flag: str, main: float | None = None
) -> None:
    lr = cfg.get("optimizer.lr")
    if main is not None or lr:
        put("optimizer.lr", main if main is not None else _short(lr * factor), flag)
    for index, group in enumerate(cfg.get("optimizer.params") or ()):
        if isinstance(group, Mapping) and group.get("lr"):
            put(f"optimizer.params.{index}.lr", _short(group["lr"] * factor), flag)


def parse_batch(text: str | None) -> int | Literal["auto"] | None:
    """`16` -> 16; `auto`: `detrkit.engine.batch_size` finds it.

    Raises:
        UsageError: it is neither.
    """
    if text is None or text == "auto":
        return "auto" if text else None
    if not re.fullmatch(r"-?\d+", text.strip()):
        raise UsageError(f"--batch {text}: expected a number or auto")
    return int(text)


def _short(value: float) -> float:
    """Four digits say enough about a learning rate."""
    return float(f"{value:.4g}")


def parse_sides(text: str, option: str) -> tuple[int, int]:
    """`640` -> (640, 640); `480x640` -> (480, 640), height first.

    Args:
        text: what the user wrote.
        option: behind which.

    Raises:
        UsageError: it is neither, or a side is zero.
    """
    positive = r"0*([1-9]\d*)"
    match = re.fullmatch(rf"\s*{positive}(?:\s*[xX×,]\s*{positive})?\s*", text)
    if not match:
        raise UsageError(
            f"{option} {text}: expected a number or HxW",
            hint=f"e.g. {option} 640 or {option} 480x640",
        )
    return int(match[1]), int(match[2] or match[1])


def parse_size(text: str) -> tuple[int, int]:
    """Like `parse_sides`, for the input of a model.

    Raises:
        UsageError: it is no size, or none that a model takes.
    """
    height, width = parse_sides(text, "--size")
    for side in (height, width):
        if side < 32 or side % 32:
            near = max(32, round(side / 32) * 32)
            raise UsageError(
                f"--size {text}: sides must be multiples of 32", hint=f"the nearest is {near}"
            )
    return height, width


def derive_schedule(cfg: Config, batches_per_epoch: int) -> Config:
    """Fills in what `schedule: auto` derives; other configurations come back unchanged.

    Without `epochs` it derives these as well (`enough_epochs`), and says so.

    Values that were set together with or after `schedule: auto` (in the same file, an including
    file, a flag, `--update`) stay.
    """
    if cfg.run.schedule != "auto":
        return cfg
    if cfg.run.epochs is None:
        epochs = enough_epochs(batches_per_epoch)
        log.info(
            "%d epochs of %s: %d steps of fine-tuning; --epochs N to say otherwise",
            epochs,
            count(batches_per_epoch, "batch"),
            epochs * batches_per_epoch,
        )
        cfg = cfg.with_values({"epochs": epochs}, origin="schedule: auto")
    assert cfg.run.epochs is not None
    tree = cfg.tree
    since = cfg.origin("schedule").layer
    values = {}
    for key, value in _derived(
        tree, cfg.run.epochs, cfg.run.base_epochs, batches_per_epoch
    ).items():
        parent = key.rpartition(".")[0]
        if parent and not isinstance(cfg.get(parent), Mapping):
            continue
        if key in cfg and cfg.origin(key).layer >= since:
            continue
        values[key] = value
    return cfg.with_values(values, origin="schedule: auto")


def _derived(
    tree: Mapping[str, Any], epochs: int, base_epochs: int | None, batches_per_epoch: int
) -> dict[str, Any]:
    """Everything that hangs on the length of the run, by dotted key."""
    ema, warmup = tree.get("ema") or {}, tree.get("lr_warmup_scheduler") or {}
    flat = tree.get("lr_scheduler_kind") == FLAT_COSINE
    steps = tree.get("warmup_iter") if flat else warmup.get("warmup_duration")
    auto = automatic(
        epochs,
        batches_per_epoch,
        warmup_steps=int(steps or 0),
        ema_decay=float(ema.get("decay", 0.9999)),
        ema_warmups=int(ema.get("warmups", 1000)),
    )
    values = epoch_values(tree, epochs, base_epochs)
    values["warmup_iter" if flat else "lr_warmup_scheduler.warmup_duration"] = auto.warmup_steps
    values["ema.decay"] = auto.ema_decay
    values["ema.warmups"] = auto.ema_warmups
    collate = collate_of(tree)
    if collate.get("stop_epoch") is not None and tree.get("restart_from_best") is not False:
        values["restart_from_best"] = "decline"
    late = collate.get("ema_restart_decay")
    if late is not None:
        values["train_dataloader.collate_fn.ema_restart_decay"] = min(late, auto.ema_decay)
    return values
