"""From a configuration to everything that a training run or an evaluation needs."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from detrkit.config import Config
from detrkit.data.dataset import DetectionDataset
from detrkit.data.index import DatasetIndex
from detrkit.data.loader import Loader
from detrkit.distillation.distiller import Distiller
from detrkit.engine.allocator import keep_freed_memory
from detrkit.engine.amp import Precision
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.class_matching import read_class_map
from detrkit.engine.compiling import compile_parts
from detrkit.engine.data_sets import loader_of, open_data, transforms_of
from detrkit.engine.derive import derive_schedule
from detrkit.engine.distilling.gradients import add_adapters
from detrkit.engine.distributed.group import is_main, own_device, rank, shared, world_size
from detrkit.engine.distributed.replicas import replicated, unwrapped
from detrkit.engine.divergence import Policy
from detrkit.engine.ema import ModelEMA
from detrkit.engine.evaluator import EvalLoader, Evaluator
from detrkit.engine.freezing import freeze
from detrkit.engine.judging import Judge
from detrkit.engine.keeper import Keeper
from detrkit.engine.layer_decay import backbone_stages, check_layer_decay
from detrkit.engine.load_report import LoadReport
from detrkit.engine.negatives import (
    add_negatives,
    build_over_activation,
    open_eval_negatives,
)
from detrkit.engine.observers.base import Observer
from detrkit.engine.observers.found import Found
from detrkit.engine.optim import build_optimizer
from detrkit.engine.parts import (
    build_criterion,
    build_model,
    build_postprocessor,
    image_spec_of,
    load_pretrained_backbone,
    with_total_batch,
)
from detrkit.engine.plan import Plan
from detrkit.engine.run_dir import RunDirectory
from detrkit.engine.trainer import Trainer
from detrkit.engine.weights import changed_queries, load_weights, read_checkpoint
from detrkit.errors import ConfigError, DataError
from detrkit.structures import ClassMap, ImageSpec

log = logging.getLogger("detrkit")


@dataclass
class Session:
    """A resolved configuration and its data.

    Attributes:
        config: with `num_classes`, `seed` and the schedule filled in.
        train, val: loaders; `val` is None when there is nothing to validate on.
        class_map, image_spec, plan, device, precision, seed: what follows from both.
        accumulate: parts in which a batch goes through the model.
        channels_last: memory format of the weights of convolutions.
        eval_negatives: images without targets to count false detections on, or None.
    """

    config: Config
    train: Loader
    val: Loader | None
    class_map: ClassMap
    image_spec: ImageSpec
    plan: Plan
    device: torch.device
    precision: Precision
    seed: int
    accumulate: int = 1
    channels_last: bool = False
    eval_negatives: DatasetIndex | None = None

    def close(self) -> None:
        """Ends the loaders' processes."""
        self.train.close()
        if self.val is not None:
            self.val.close()


def open_session(cfg: Config) -> Session:
    """Reads the data and derives everything that depends on it.

    Of several processes each calls it and gets its share of the data.

    Raises:
        ConfigError, DataError, UsageError: the configuration, the data or a flag is wrong.
    """
    cfg = with_absolute_paths(cfg)
    device = own_device(cfg.run.device or None)
    if device.type == "cpu":
        keep_freed_memory()
    seed = cfg.run.seed
    if seed is None:
        seed = shared(lambda: secrets.randbelow(2**31))
    judge = Judge.of(cfg.run)
    train, val = open_data(cfg, seed)
    judge.require_validation(val is not None)
    add_negatives(cfg, train, seed)
    session = session_of(cfg, train, val, seed, device)
    session.eval_negatives = open_eval_negatives(cfg, train)
    return session


def session_of(
    cfg: Config,
    train: DetectionDataset,
    val: DetectionDataset | None,
    seed: int,
    device: torch.device,
) -> Session:
    """Derives everything that depends on data that was read.

    Args:
        cfg: the configuration.
        train, val: of `open_data`.
        seed: of everything random.
        device: to train on.

    Raises:
        ConfigError, DataError, UsageError: data and configuration do not go together.
    """
    run = cfg.run
    class_map = train.class_map
    if not len(class_map):
        raise DataError(f"{train.index.source} has no classes")
    if run.num_classes not in (None, len(class_map)):
        log.info("num_classes: %d, as the data set has (not %s)", len(class_map), run.num_classes)
    cfg = cfg.with_values({"num_classes": len(class_map)}, origin="data set")
    cfg = cfg.with_values({"seed": seed}, origin="drawn" if run.seed is None else "seed")
    cfg = with_total_batch(cfg, world_size())
    batches = len(loader_of(cfg, "train_dataloader", train, seed, device))
    cfg = derive_schedule(cfg, batches)
    # the schedule may have moved the end of strong augmentation
    train.transforms = transforms = transforms_of(cfg, "train_dataloader")
    if run.in_channels != 3 and "RandomPhotometricDistort" in transforms.names:
        log.info(
            "in_channels: %d: RandomPhotometricDistort changes brightness and contrast only",
            run.in_channels,
        )
    precision = Precision.choose(run.amp, run.use_amp, device)
    last = run.channels_last
    return Session(
        config=cfg,
        train=loader_of(cfg, "train_dataloader", train, seed, device),
        val=loader_of(cfg, "val_dataloader", val, seed, device) if val is not None else None,
        class_map=class_map,
        image_spec=image_spec_of(cfg),
        plan=Plan.from_tree(cfg.tree, batches),
        device=device,
        precision=precision,
        seed=seed,
        accumulate=run.accumulate,
        channels_last=prefers_channels_last(device, precision) if last is None else last,
    )


def prefers_channels_last(device: torch.device, precision: Precision) -> bool:
    """Where training is faster with channels last: cuDNN's tensor cores, and oneDNN in bf16.

    In float32 oneDNN's backward pass is not: D-FINE-S takes 13 % longer.
    """
    return device.type == "cuda" or (device.type == "cpu" and precision.amp != "off")


def with_absolute_paths(cfg: Config) -> Config:
    """Paths of data and of `disk_cache` absolute, so that `resume` finds them from anywhere."""
    run, cache = cfg.run, cfg.run.disk_cache
    paths = {key: getattr(run, key) for key in ("data", "negatives", "eval_negatives")}
    for key in ("teacher", "weights", "foundation.pretrained"):
        paths[f"distillation.{key}"] = cfg.peek(f"distillation.{key}")
    for key, path in paths.items():
        if isinstance(path, str) and path and Path(path).expanduser().exists():
            cfg = _with_absolute(cfg, key, path)
    return _with_absolute(cfg, "disk_cache", cache) if isinstance(cache, str) else cfg


def _with_absolute(cfg: Config, key: str, path: str) -> Config:
    absolute = str(Path(path).expanduser().resolve())
    return cfg.with_values({key: absolute}, origin=str(cfg.origin(key)))


def start_model(session: Session, *, fresh: bool = True) -> tuple[nn.Module, LoadReport | None]:
    """The detector on its device; the same seed gives the same weights.

    Args:
        session: with its data.
        fresh: start from pretrained or tuning weights; False when a checkpoint will be loaded.

    Returns:
        The model, and what was loaded from the tuning weights, if any. Only the main process
        loads; the others get its weights in `build_trainer`.
    """
    model = build_model(session.config, seed=session.seed)
    _check_parts(model, session.config, fresh=fresh)
    fresh = fresh and is_main()
    report = _start_weights(model, session.config, session.class_map) if fresh else None
    layout = torch.channels_last if session.channels_last else torch.contiguous_format
    return model.to(session.device).to(memory_format=layout), report


def build_trainer(
    session: Session,
    model: nn.Module,
    directory: RunDirectory,
    observers: Sequence[Observer] = (),
    distiller: Distiller | None = None,
) -> Trainer:
    """The trainer of a session.

    Args:
        session: with its data.
        model: of `start_model`.
        directory: where checkpoints go.
        observers: watch the run.
        distiller: of `detrkit.engine.distilling`, for a student.
    """
    cfg, run = session.config, session.config.run
    average = session.plan.ema
    criterion = build_criterion(cfg).to(session.device)
    frozen = freeze(model, run.freeze, batch_norms=run.freeze_bn)
    optimizer = build_optimizer(cfg.get("optimizer"), model, layer_decay=run.layer_decay)
    if distiller is not None:
        add_adapters(optimizer, distiller, cfg.peek("distillation.adapter_lr"))
    ema = ModelEMA(model, average.decay, average.warmups, average.start) if average else None
    evaluator = build_evaluator(session)
    if evaluator is not None and is_main():
        observers = [*observers, Found(evaluator, directory.best_predictions)]
    replica = replicated(
        model,
        criterion,
        device=session.device,
        size=session.image_spec.size,
        sync_bn=run.sync_bn,
        find_unused=run.find_unused_parameters,
        autocast=partial(session.precision.autocast, session.device),
    )
    if run.compile:
        compile_parts(unwrapped(replica), session.device)
    return Trainer(
        model=replica,
        criterion=criterion,
        optimizer=optimizer,
        loader=session.train,
        plan=session.plan,
        keeper=Keeper(
            directory,
            config=cfg.tree,
            config_name=cfg.name,
            class_map=session.class_map,
            image_spec=session.image_spec,
            images=len(session.train.dataset),
            every=run.checkpoint_freq,
            seconds=60 * run.checkpoint_minutes if run.checkpoint_minutes > 0 else math.inf,
            writes=is_main(),
        ),
        device=session.device,
        evaluator=evaluator,
        ema=ema,
        precision=session.precision,
        clip_max_norm=run.clip_max_norm,
        policy=Policy(run.on_non_finite, run.max_skips, run.max_roll_backs),
        observers=observers,
        seed=session.seed,
        rank=rank(),
        accumulate=session.accumulate,
        over_activation=build_over_activation(session, directory, observers),
        judge=Judge.of(run, len(session.val.dataset) if session.val else 0),
        frozen=frozen,
        distiller=distiller,
    )


def _check_parts(model: nn.Module, cfg: Config, *, fresh: bool) -> None:
    """Whether the parts that the configuration names are there, before a run has a folder."""
    frozen = freeze(model, cfg.run.freeze, batch_norms=cfg.run.freeze_bn)
    pretrained = getattr(getattr(model, "backbone", None), "pretrained", False)
    random = [p for p in frozen.parts if not (pretrained and p.startswith("backbone"))]
    if fresh and random and not cfg.run.tuning:
        log.warning("%s: frozen with random weights; --tune FILE brings others", ", ".join(random))
    if cfg.run.layer_decay is not None:
        check_layer_decay(cfg.run.layer_decay)
        backbone_stages(model)


def build_evaluator(session: Session) -> Evaluator | None:
    """The evaluator on the validation data; None without any."""
    if session.val is None:
        return None
    return evaluator_on(
        session,
        session.val,
        session.val.dataset.index,
        yolo_metrics=session.config.run.yolo_metrics,
    )


def evaluator_on(
    session: Session,
    loader: EvalLoader,
    index: DatasetIndex,
    *,
    yolo_metrics: bool = False,
    keep: bool = False,
) -> Evaluator:
    """An evaluator of a session's models.

    Args:
        session: with its data.
        loader: batches, prepared as the session's.
        index: their ground truth.
        yolo_metrics, keep: of the evaluator.
    """
    return Evaluator(
        loader=loader,
        index=index,
        image_spec=session.image_spec,
        postprocessor=build_postprocessor(session.config),
        device=session.device,
        class_map=session.class_map,
        yolo_metrics=yolo_metrics,
        keep=keep,
    )


def _start_weights(model: nn.Module, cfg: Config, class_map: ClassMap) -> LoadReport | None:
    if not cfg.run.tuning:
        load_pretrained_backbone(model)
        return None
    checkpoint, class_map_file = read_checkpoint(cfg.run.tuning), cfg.run.tuning_class_map
    report = load_weights(
        model,
        checkpoint.weights,
        class_map=class_map,
        source_classes=checkpoint.class_map,
        class_pairs=read_class_map(class_map_file) if class_map_file else None,
        source=str(cfg.run.tuning),
    )
    report.num_queries = changed_queries(checkpoint, cfg)
    return report


def resume_config(checkpoint: Checkpoint) -> Config:
    """The configuration that a run was started with.

    Raises:
        ConfigError: the file carries none.
    """
    if checkpoint.config is None:
        raise ConfigError(
            f"{checkpoint.path} carries no configuration: it was not written by detrkit",
            hint="start a run from it: detrkit tune CFG --weights FILE",
        )
    return Config.from_tree(checkpoint.config, name=checkpoint.config_name or "resumed")
