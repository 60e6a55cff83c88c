"""The run settings: every top-level key that is not a component or a section of one."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass, fields
from typing import Any, Literal

Logger = Literal["tensorboard", "wandb", "mlflow"]
LOGGERS: tuple[str, ...] = typing.get_args(Logger)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Settings of a run. Defaults are the authors'.

    Attributes:
        task: "detection".
        epochs: passes over the training set.
        seed: of every random draw; None draws one.
        device: "cpu", "cuda:1"; empty chooses.
        output_dir: where runs go; None: `runs/`.
        summary_dir: TensorBoard's, with a folder for each run; None: inside the run directory.
        resume: checkpoint to continue.
        tuning: checkpoint to fine-tune.
        tuning_class_map: file that says which of its classes become which of the data set's.
        last_epoch: epoch before the first one.
        print_freq: steps between lines of `verbose_type: origin`, and of `progress` where no
            terminal shows a bar; 0: none; None: 100 and one line a minute.
        checkpoint_freq: epochs between numbered checkpoints.
        checkpoint_minutes: minutes between writes of last.pth inside an epoch; every epoch ends
            with one; 0: no others.
        patience: epochs without a better `best_metric` after which the run ends; None: never.
        yolo_metrics: every evaluation also gives precision, recall, F1 and mAP, in all and per
            class.
        report: the run ends with `report.html` and `metrics.json` on its best epoch.
        best_metric: what makes an epoch the best one: a name of the metrics ("AP", "AP50", …).
        freeze: parts of the model that keep their weights: names of its modules ("backbone",
            "backbone.stages.0"), with `*` for any.
        freeze_bn: batch norms keep their running statistics and weights.
        layer_decay: factor from one stage of the backbone to the one before it, for the learning
            rate; None: one rate.
        sampling: "repeat_factor" (Gupta et al. 2019) or "class_balanced" draw images of rare
            classes more often; None: every image once per epoch.
        sampling_threshold: of "repeat_factor": classes in a smaller share of the images are rare;
            None: the median share of the data's classes.
        use_amp: mixed precision.
        amp: "bf16", "fp16" or "off"; None follows `use_amp`.
        use_ema: average the weights.
        ema_decay, ema_warmups: only for files without an `ema` section.
        clip_max_norm: largest gradient norm; 0 does not clip.
        on_non_finite: what follows a step whose loss or gradient is not finite: "skip" drops it
            and goes on, "stop" ends the run.
        max_skips: so many dropped steps in a row, or as many as an epoch has, send the run back to
            the start of the epoch, from where it goes on with the next batch in a safer number
            format, or at half the rates.
        max_roll_backs: how often, before the run ends.
        sync_bn: batch norm over the images of all devices.
        find_unused_parameters: search for parameters without gradient in every step of a
            distributed run; False: only where a trial shows that it is needed.
        compile: train with backbone and encoder compiled (`torch.compile`).
        channels_last: memory format of images and weights in training; None: where it is faster.
        profile: steps to profile, after a few of the first epoch; None: none.
        accumulate: parts in which a batch goes through the model; its size stays.
        num_classes: None: as the data set has.
        eval_spatial_size: (h, w) of the model's input.
        in_channels: C of the images: 3 for RGB, 1 for gray, another number for files with as
            many bands.
        use_focal_loss: sigmoid class scores.
        num_top_queries: detections per image.
        remap_mscoco_category: detections leave with COCO's 91 ids.
        data: data set of any layout; replaces the data sets of the loaders.
        train_split, val_split: lists of `data` to train and to validate on.
        val_fraction: share of the training set held out where `data` has no validation set.
        negatives: folder or data set of images without targets, mixed into training.
        eval_negatives: folder or data set of images without targets, to count false detections on.
        negatives_share: the largest share of the training images that `negatives` may make up; a
            random part of them, the same in all epochs, is taken where there are more. None: all.
        oa_threshold: score from which on a detection on `eval_negatives` counts as false.
        oa_tolerance: `best_oa.pth` is the epoch with the fewest false detections among those whose
            `best_metric` is at most this much below the best.
        ram_cache: images are decoded before the run into memory that the loaders share.
        disk_cache: likewise into files that later runs find again: True, or a folder.
        cache_imgsz: with either, training images are shrunk to at most this many pixels on their
            longer side; None: full size, which changes no result.
        batch_size, num_workers: only for files that set them at the top level.
        schedule: "auto" derives what hangs on `epochs`; None: as the file says.
        base_epochs: with "auto", the `epochs` that the file's other epochs were made for: what
            `--epochs`, or `schedule: auto` over an include, replaced.
        restart_from_best: stage 2 starts from the best weights of stage 1; RT-DETRv2's does not.
            "decline", which `schedule: auto` sets: only where the latest epochs are worse.
        recipe: "detrkit" switches the authors' quirks off; None keeps them.
        lr_scheduler_kind: "flatcosine" or None (the `lr_scheduler` section).
        lr_gamma, warmup_iter, flat_epoch, no_aug_epoch: of the flat-cosine schedule.
        plugins: Python files that register components.
        verbose_type: "progress": a live bar and one line per epoch; "origin": plain lines as the
            authors print.
        plot_train_batch_freq: epochs between pictures of augmented batches, besides the first of
            each stage; None: only those; 0: no pictures.
        loggers: where curves go besides log.jsonl and results.csv; None: TensorBoard.
        use_wandb: Weights & Biases as well.
        project_name: of Weights & Biases, experiment of MLflow; None: "detrkit".
        exp_name: the run's name there; None: that of its folder.
    """

    task: str = "detection"
    epochs: int | None = None
    seed: int | None = None
    device: str | None = None
    output_dir: str | None = None
    summary_dir: str | None = None
    resume: str | None = None
    tuning: str | None = None
    tuning_class_map: str | None = None
    last_epoch: int = -1
    print_freq: int | None = None
    checkpoint_freq: int = 1
    checkpoint_minutes: float = 30.0
    patience: int | None = None
    yolo_metrics: bool = False
    report: bool = True
    best_metric: str = "AP"
    freeze: tuple[str, ...] = ()
    freeze_bn: bool = False
    layer_decay: float | None = None
    sampling: Literal["repeat_factor", "class_balanced"] | None = None
    sampling_threshold: float | None = None
    use_amp: bool = False
    amp: Literal["bf16", "fp16", "off"] | None = None
    use_ema: bool = False
    ema_decay: float = 0.9999
    ema_warmups: int = 2000
    clip_max_norm: float = 0.0
    on_non_finite: Literal["skip", "stop"] = "skip"
    max_skips: int = 10
    max_roll_backs: int = 2
    sync_bn: bool = False
    find_unused_parameters: bool = False
    compile: bool = False
    channels_last: bool | None = None
    profile: int | None = None
    accumulate: int = 1
    num_classes: int | None = None
    eval_spatial_size: tuple[int, int] | None = None
    in_channels: int = 3
    use_focal_loss: bool = False
    num_top_queries: int | None = None
    remap_mscoco_category: bool = False
    data: str | None = None
    train_split: str | None = None
    val_split: str | None = None
    val_fraction: float | None = None
    negatives: str | None = None
    eval_negatives: str | None = None
    negatives_share: float | None = None
    oa_threshold: float = 0.5
    oa_tolerance: float = 0.01
    ram_cache: bool = False
    disk_cache: bool | str = False
    cache_imgsz: int | None = None
    batch_size: int | None = None
    num_workers: int | None = None
    schedule: Literal["auto"] | None = None
    base_epochs: int | None = None
    restart_from_best: bool | Literal["decline"] = True
    recipe: Literal["authors", "detrkit"] | None = None
    lr_scheduler_kind: str | None = None
    lr_gamma: float | None = None
    warmup_iter: int | None = None
    flat_epoch: int | None = None
    no_aug_epoch: int | None = None
    plugins: tuple[str, ...] = ()
    verbose_type: Literal["origin", "progress"] | None = None
    plot_train_batch_freq: int | None = None
    loggers: tuple[Logger, ...] | None = None
    use_wandb: bool = False
    project_name: str | None = None
    exp_name: str | None = None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(h, w) of the model's input; the short form's name for `eval_spatial_size`."""
        return self.eval_spatial_size

    @property
    def chosen_loggers(self) -> tuple[str, ...]:
        """`loggers` and what `use_wandb` adds, each once."""
        chosen: tuple[str, ...] = ("tensorboard",) if self.loggers is None else self.loggers
        return tuple(dict.fromkeys([*chosen, *(["wandb"] if self.use_wandb else [])]))


#: Top-level keys that name or hold a component, and what the engine hands to it when it builds.
SLOTS: dict[str, tuple[str, ...]] = {
    "model": (),
    "criterion": (),
    "postprocessor": (),
    "optimizer": ("params",),
    "lr_scheduler": ("optimizer",),
    "lr_warmup_scheduler": ("lr_scheduler",),
    "ema": ("model",),
    "scaler": (),
    "train_dataloader": (),
    "val_dataloader": (),
    "evaluator": ("index", "class_map"),
    "distillation": (),
}

#: Each run setting with its type.
TYPES: dict[str, Any] = typing.get_type_hints(RunConfig)
RUN_KEYS = tuple(field.name for field in fields(RunConfig))


def run_config(tree: dict[str, Any]) -> RunConfig:
    """The run settings of a checked tree; keys set to null keep the default where they must."""
    values: dict[str, Any] = {}
    for key in RUN_KEYS:
        if key not in tree:
            continue
        value = tree[key]
        if value is None and type(None) not in typing.get_args(TYPES[key]):
            continue
        if value is False and _may_be_off(TYPES[key]):
            value = "off"
        values[key] = tuple(value) if isinstance(value, list) else value
    return RunConfig(**values)


def expected(value: Any, annotation: Any) -> str | None:
    """What `annotation` wants, in words, if `value` (plain YAML data) is not that; else None.

    An annotation that says nothing about plain data accepts everything. A list serves as a
    tuple, an int as a float; a bool is no int.
    """
    return None if _fits(value, annotation) else _in_words(annotation)


def _fits(value: Any, annotation: Any) -> bool:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return True
    if annotation is None or annotation is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        if value is False and _may_be_off(annotation):
            return True
        return any(value == arg and type(value) is type(arg) for arg in args)
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is str:
        return isinstance(value, str)
    base = origin or annotation
    if not isinstance(base, type):
        return True
    if base is tuple:
        return isinstance(value, (list, tuple)) and _tuple_fits(list(value), args)
    if base is dict or base.__name__ in ("Mapping", "MutableMapping"):
        return isinstance(value, dict) and (
            len(args) != 2 or all(_fits(item, args[1]) for item in value.values())
        )
    if base in (list, set, frozenset) or base.__name__ in ("Sequence", "Iterable", "Collection"):
        return isinstance(value, (list, tuple)) and all(
            _fits(item, args[0]) for item in value if args
        )
    return True


def _may_be_off(annotation: Any) -> bool:
    """Whether the text "off", which YAML takes for false unless it is quoted, is meant."""
    if typing.get_origin(annotation) is Literal:
        return "off" in typing.get_args(annotation)
    return any(_may_be_off(arg) for arg in typing.get_args(annotation))


def _tuple_fits(value: list[Any], args: tuple[Any, ...]) -> bool:
    if not args:
        return True
    if len(args) == 2 and args[1] is Ellipsis:
        return all(_fits(item, args[0]) for item in value)
    return len(value) == len(args) and all(
        _fits(item, arg) for item, arg in zip(value, args, strict=True)
    )


def _in_words(annotation: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in names:
        return names[annotation]
    if annotation is None or annotation is type(None):
        return "null"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(arg) for arg in args)
    if origin is Literal:
        return " or ".join(repr(arg) for arg in args)
    if origin is tuple and args and args[-1] is not Ellipsis:
        return f"a list of {len(args)} ({', '.join(_in_words(arg) for arg in args)})"
    if (origin or annotation) in (list, tuple, set) or getattr(
        origin or annotation, "__name__", ""
    ) in ("Sequence", "Iterable", "Collection"):
        return f"a list of {_in_words(args[0])}" if args else "a list"
    if (origin or annotation) is dict or getattr(origin or annotation, "__name__", "") in (
        "Mapping",
        "MutableMapping",
    ):
        return "a mapping"
    return getattr(annotation, "__name__", str(annotation))
