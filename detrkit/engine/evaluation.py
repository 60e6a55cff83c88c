"""From weights and a data set to numbers: what `detrkit eval` and `detrkit.evaluate` do."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from detrkit.config import Config, build_component, load_config
from detrkit.data.dataset import DetectionDataset
from detrkit.data.detect import open_dataset, split_to_measure
from detrkit.data.image_check import check_bands
from detrkit.data.index import DatasetIndex
from detrkit.data.negatives import open_negatives
from detrkit.engine.data_sets import open_data
from detrkit.engine.distributed.group import own_device, shared, world_size
from detrkit.engine.evaluator import Evaluation, Progress, evaluate_runtime
from detrkit.engine.model_cost import model_cost
from detrkit.engine.negatives import shared_images
from detrkit.engine.over_activation import measure_false_detections
from detrkit.engine.runtime import Runtime, TorchRuntime
from detrkit.errors import DataError
from detrkit.metrics import Negatives
from detrkit.metrics.coco import DEFAULT_BACKEND, Backend
from detrkit.metrics.schema import ModelJson
from detrkit.structures import ClassMap

log = logging.getLogger("detrkit")


@dataclass(frozen=True)
class EvaluationOf:
    """An evaluation and its circumstances.

    Attributes:
        result: what was found.
        data: what was evaluated on, in words: `bccd, test`.
        index: of that data.
        config: of the weights; None where they carry none.
        model: what it costs.
        negatives: what was found on images without targets.
    """

    result: Evaluation
    data: str
    index: DatasetIndex
    config: Config | None = None
    model: ModelJson | None = None
    negatives: Negatives | None = None


def evaluate_weights(
    weights: str | Path,
    *,
    data: str | Path | None = None,
    split: str | None = None,
    config: str | Path | Config | None = None,
    update: Sequence[str] = (),
    device: str | torch.device | None = None,
    batch: int = 8,
    size: tuple[int, int] | None = None,
    backend: Backend = DEFAULT_BACKEND,
    cost: bool = False,
    negatives: str | Path | None = None,
    progress: Progress | None = None,
) -> EvaluationOf:
    """Measures weights on a data set.

    Args:
        weights: a checkpoint or an artefact, by path or URL.
        data: a data set of any layout; default the validation data of the configuration.
        split: part of `data`; default "val", else "test", else the only one.
        config: for weights that carry none, or to name other data.
        update: `--update` values for the configuration.
        device: default the best one there is.
        batch: images per forward pass.
        size: (h, w) of the input, where it is not to be that of the weights.
        backend: what counts COCO's numbers.
        cost: also count parameters and FLOPs, which takes seconds.
        negatives: images without targets, to count false detections on.
        progress: called after each batch.

    Raises:
        WeightsError, DataError, ConfigError: what is wrong, and where.
    """
    # alone, each kind of file has its own best device
    chosen = own_device(device) if world_size() > 1 else device
    cfg = load_config(config, update=update) if isinstance(config, str | Path) else config
    runtime = Runtime.open(weights, cfg, device=chosen, size=size)
    if cfg is None or isinstance(config, Config):
        own = cfg or (runtime.config if isinstance(runtime, TorchRuntime) else None)
        cfg = own.with_updates(update) if own is not None else None
    index, name = measured_index(weights, runtime.class_map, cfg, data, split)
    empty = None if negatives is None else _open_empty(negatives, index, runtime)
    result = _evaluate_on(runtime, index, batch, backend, progress)
    found = None
    if empty is not None:
        false = measure_false_detections(runtime, empty, batch=batch, progress=progress)
        found = Negatives(empty, false)
    model = shared(lambda: model_cost(weights, runtime)) if cost else None
    return EvaluationOf(result, name, index, cfg, model, found)


def evaluate_opened(
    runtime: Runtime, data: str | Path, split: str | None = None, batch: int = 8
) -> EvaluationOf:
    """Measures a runtime that is open already; arguments as of `evaluate_weights`."""
    index, name = measured_index(data, runtime.class_map, None, data, split)
    result = _evaluate_on(runtime, index, batch)
    return EvaluationOf(result, name, index)


def _evaluate_on(
    runtime: Runtime,
    index: DatasetIndex,
    batch: int,
    backend: Backend = DEFAULT_BACKEND,
    progress: Progress | None = None,
) -> Evaluation:
    """Measures on a data set whose classes fit; the runtime takes them over."""
    check_bands(index, runtime.image_spec.in_channels)
    runtime.class_map = index.class_map  # the same names with this data set's own ids
    return evaluate_runtime(runtime, index, batch=batch, backend=backend, progress=progress)


def _open_empty(path: str | Path, index: DatasetIndex, runtime: Runtime) -> DatasetIndex:
    """The images without targets; a warning where some of them have targets in `index`."""
    found = open_negatives(path, index.class_map, key="--negatives")
    check_bands(found, runtime.image_spec.in_channels)
    boxes = np.diff(index.offsets)
    annotated = {path for path, count in zip(index.paths, boxes, strict=True) if count}
    twice = shared(lambda: shared_images(found, annotated))
    if twice:
        log.warning(
            "--negatives: %d of %d images are evaluated on with boxes in them, e.g. %s: what is "
            "found there counts as false",
            len(twice),
            len(found),
            twice[0][0],
        )
    return found


def measured_index(
    weights: str | Path,
    class_map: ClassMap,
    config: Config | None,
    data: str | Path | None = None,
    split: str | None = None,
) -> tuple[DatasetIndex, str]:
    """What weights are measured on, its classes in the order of the model's, and its name.

    Args:
        weights: for messages.
        class_map: what the model finds.
        config: of the weights, whose validation data are taken where `data` says nothing.
        data: a data set of any layout.
        split: part of it; default "val", else "test", else the only one.

    Raises:
        DataError: there is none, it cannot be read, or its classes are not the model's.
    """
    if data is not None:
        index, name = _index_at(data, split, class_map)
    elif config is not None:
        index, name = validation_index(config)
    else:
        raise DataError(f"{weights} names no data", hint="name a data set: --data DIR")
    return _with_classes_by_order(index, class_map, name), name


def _index_at(data: str | Path, split: str | None, wanted: ClassMap) -> tuple[DatasetIndex, str]:
    """The part of a data set, its classes matched to the model's by name."""
    if split is None:
        split = split_to_measure(data)
    name = f"{data}, {split}"
    index = open_dataset(data, split)
    found = index.class_map.names
    if found != wanted.names and set(found) & set(wanted.names):
        index = open_dataset(data, split, class_map=wanted)
        unknown = [n for n in found if n not in wanted.names]
        if unknown:
            log.warning(
                "%s: the model does not know %s; their boxes are left out",
                name,
                ", ".join(f"`{n}`" for n in unknown[:8]) + (", …" if len(unknown) > 8 else ""),
            )
    return index, name


def validation_index(cfg: Config) -> tuple[DatasetIndex, str]:
    """The validation data of a configuration, the same images as in training, and its name.

    Raises:
        DataError: it names none, or they cannot be read.
    """
    hint = "name a data set: --data DIR"
    if cfg.run.data:
        # Also the training part: what is held out depends on it.
        _, val = open_data(cfg, cfg.run.seed or 0)
        if val is None:
            raise DataError(f"{cfg.run.data} has nothing to validate on", hint=hint)
        return val.index, f"{cfg.run.data}, validation"
    section = cfg.get("val_dataloader.dataset")
    if not isinstance(section, Mapping):
        raise DataError(f"{cfg.name} names no validation data", hint=hint)
    dataset = build_component(cfg, section, transforms=None)
    assert isinstance(dataset, DetectionDataset)
    try:
        return dataset.index, f"validation data of {cfg.name}"
    except DataError as error:
        raise DataError(error.message, hint=f"moved, or on another machine? {hint}") from error


def _with_classes_by_order(index: DatasetIndex, wanted: ClassMap, name: str) -> DatasetIndex:
    """Equally many classes under other names are taken in their order, with a warning.

    Raises:
        DataError: the numbers differ.
    """
    names = index.class_map.names
    if names == wanted.names:
        return index
    if len(names) != len(wanted):
        raise DataError(
            f"{name}: its {len(names)} classes ({', '.join(names[:5])}) are not the "
            f"{len(wanted)} that the model finds ({', '.join(wanted.names[:5])})",
            hint="evaluate on data with at least one class of the model's, under the same name",
        )
    log.warning(
        "%s: other class names than the model's, matched by order: %s",
        name,
        ", ".join(f"{a} = {b}" for a, b in zip(wanted.names[:5], names[:5], strict=True)),
    )
    return index
