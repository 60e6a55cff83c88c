"""The data sets and loaders that a configuration names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from detrkit.config import Config, build_component
from detrkit.data.dataset import CocoDetection, DetectionDataset, VOCDetection
from detrkit.data.detect import open_splits
from detrkit.data.image_check import CheckImages, check_bands
from detrkit.data.index import DatasetIndex
from detrkit.data.loader import Loader, build_loader
from detrkit.data.sampling import sampled_order
from detrkit.engine.distributed.group import rank, world_size
from detrkit.engine.parts import (
    batch_size_of,
    split_of,
)
from detrkit.engine.picture_cache import cache_kind
from detrkit.errors import ConfigError, DataError
from detrkit.structures import ClassMap

log = logging.getLogger("detrkit")

#: Share of the training images that is held out where a data set has nothing to validate on.
HELD_OUT = 0.1


def open_data(
    cfg: Config, seed: int, *, check_images: CheckImages = "auto"
) -> tuple[DetectionDataset, DetectionDataset | None]:
    """Training and validation data: of `data`, or of the loaders' own sections.

    Args:
        cfg: the configuration.
        seed: of a part that is held out, and of augmentation.
        check_images: how thoroughly (see `detrkit.data.image_check`).

    Raises:
        ConfigError, DataError: there is none, it cannot be read, or the parts do not go together.
    """
    if cfg.run.data:
        train_index, val_index = _indices_of(cfg, seed, check_images)
        channels = cfg.run.in_channels
        transforms = transforms_of(cfg, "train_dataloader")
        train = DetectionDataset(train_index, transforms, seed=seed, in_channels=channels)
        val = None
        if val_index is not None:
            transforms = transforms_of(cfg, "val_dataloader")
            val = DetectionDataset(
                val_index, transforms, training=False, seed=seed, in_channels=channels
            )
    else:
        train = dataset_of(cfg, "train_dataloader", training=True, check_images=check_images)
        has_val = bool(split_of(cfg, "val_dataloader").get("dataset"))
        val = None
        if has_val:
            val = dataset_of(cfg, "val_dataloader", training=False, check_images=check_images)
    train.max_side = cfg.run.cache_imgsz if cache_kind(cfg.run) else None
    if not len(train):
        raise DataError(f"{train.index.source} has no training images")
    if val is not None and val.class_map.names != train.class_map.names:
        raise DataError(
            f"training and validation data have different classes: {_names(train.class_map)} "
            f"and {_names(val.class_map)}",
            hint="both annotation files need the same `categories`",
        )
    for dataset in (train, val) if val is not None else (train,):
        check_bands(dataset.index, dataset.in_channels)
    return train, val


def _indices_of(
    cfg: Config, seed: int, check_images: CheckImages
) -> tuple[DatasetIndex, DatasetIndex | None]:
    run = cfg.run
    assert run.data is not None
    chosen = {"train": run.train_split, "val": run.val_split}
    splits = {name: value for name, value in chosen.items() if value}
    parts = open_splits(
        run.data,
        val_fraction=run.val_fraction,
        seed=seed,
        splits=splits or None,
        check_images=check_images,
    )
    if "train" not in parts:
        raise DataError(
            f"{run.data} has no training images, only {', '.join(parts)}",
            hint="name the part to train on: --update train_split=NAME",
        )
    if "val" in parts:
        return parts["train"], parts["val"]
    if "test" in parts:
        log.warning("%s has no validation part: its test part is used", run.data)
        return parts["train"], parts["test"]
    if len(parts["train"]) < 2:
        log.warning("%s has one image: nothing to validate on", run.data)
        return parts["train"], None
    log.warning(
        "%s has nothing to validate on: %d %% of its images are held out (--val-fraction)",
        run.data,
        round(HELD_OUT * 100),
    )
    return parts["train"].split(HELD_OUT, seed)


def dataset_of(
    cfg: Config, loader: str, *, training: bool, check_images: CheckImages = "auto"
) -> DetectionDataset:
    """The data set of a loader's section; read when first needed.

    Raises:
        ConfigError: it names no data.
    """
    section = split_of(cfg, loader).get("dataset")
    if not isinstance(section, Mapping):
        raise ConfigError(
            f"{cfg.name} names no data", hint="give a data set: --data DIR, or `data: DIR`"
        )
    if section.get("type") == "CocoDetection" and not section.get("ann_file"):
        raise ConfigError(
            f"{loader}.dataset of {cfg.name} names no files",
            hint="give a data set: --data DIR, or `data: DIR`",
        )
    dataset = build_component(cfg, section, transforms=transforms_of(cfg, loader))
    if not isinstance(dataset, DetectionDataset):
        raise ConfigError(f"{loader}.dataset: `{section.get('type')}` is not a DetectionDataset")
    dataset.training = training
    if isinstance(dataset, CocoDetection | VOCDetection):
        dataset.check_images = check_images
    dataset.in_channels = cfg.run.in_channels  # also where its constructor does not take it
    return dataset


def transforms_of(cfg: Config, loader: str) -> Any:
    """The `Compose` of a loader's data set."""
    section = cfg.get(f"{loader}.dataset.transforms") or {}
    if isinstance(section, Sequence):
        section = {"ops": section}
    compose = build_component(cfg, {"type": "Compose", **section})
    compose.check_channels(cfg.run.in_channels)
    return compose


def loader_of(
    cfg: Config, name: str, dataset: DetectionDataset, seed: int, device: torch.device
) -> Loader:
    """The loader that the section `name` describes, over a data set."""
    section, run = split_of(cfg, name), cfg.run
    training = name == "train_dataloader"
    images = None
    if training and run.sampling is not None:
        images = sampled_order(
            run.sampling, dataset.index, threshold=run.sampling_threshold, seed=seed
        )
    collate = section.get("collate_fn")
    return build_loader(
        dataset,
        batch_size=batch_size_of(section, world_size(), default=4, even=training),
        shuffle=bool(section.get("shuffle", training)),
        seed=seed,
        num_workers=int(section.get("num_workers", 0)),
        drop_last=bool(section.get("drop_last", training)),
        collate=build_component(cfg, collate) if collate else None,
        pin_memory=device.type == "cuda",
        device=device,
        rank=rank(),
        world_size=world_size(),
        training=training,
        least=run.accumulate,
        images=images,
    )


def _names(class_map: ClassMap) -> str:
    shown = ", ".join(class_map.names[:6])
    return f"{shown}, …" if len(class_map) > 6 else shown or "none"
