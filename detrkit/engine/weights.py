"""Weights from files and URLs into models, and whole detectors from checkpoints.

`load_weights` copies by name. Tensors with one row per class (score heads, the denoising
embedding) are copied row by row, matched by class name, when both sides' classes are known: a
detector of 80 classes keeps what it knows about "person" and "car" in a detector of three. Of
learned query contents the first rows are copied where the model has more or fewer queries. The
stem of a model of 3 channels folds into that of a model of more or fewer
(`detrkit.engine.stem_folding`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.class_matching import match_classes
from detrkit.engine.conversion.hf_folder import is_hf_folder, read_hf_folder
from detrkit.engine.conversion.safetensors import read_safetensors
from detrkit.engine.download import locate
from detrkit.engine.known_classes import known_class_map, known_name
from detrkit.engine.load_report import LoadReport, some
from detrkit.engine.recognise import component, input_size_of, recognise
from detrkit.engine.state_names import (
    class_count,
    has_class_rows,
    has_query_rows,
    is_derived,
    padding_rows,
)
from detrkit.engine.stem_folding import can_fold, folded
from detrkit.errors import DetrkitError, WeightsError
from detrkit.structures import ClassMap, ImageSpec

if TYPE_CHECKING:
    from detrkit.config import Config

log = logging.getLogger("detrkit")


def read_checkpoint(source: str | Path) -> Checkpoint:
    """A checkpoint from wherever weights come from, by the authors' names.

    Args:
        source: a file (`.pth`, `.safetensors`), a folder of Hugging Face transformers, a URL, or
            `hf://organisation/name[/file]`.

    Raises:
        WeightsError: missing, damaged, or no checkpoint.
    """
    path = locate(source)
    if is_hf_folder(path):
        return read_hf_folder(path)
    if path.suffix.lower() == ".safetensors":
        return read_safetensors(path)
    return Checkpoint.load(path)


def read_state(source: str | Path) -> dict[str, Tensor]:
    """The weights of a file or URL: averaged ones where there are any."""
    return read_checkpoint(source).weights


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    class_map: ClassMap | None = None,
    source_classes: ClassMap | None = None,
    class_pairs: Mapping[str, str | int | None] | None = None,
    mode: Literal["exact", "tune"] = "tune",
    source: str = "",
) -> LoadReport:
    """Copies weights into a model.

    Args:
        model: changed in place.
        state: name -> tensor.
        class_map: the model's classes.
        source_classes: the file's; guessed from the number of rows (80: COCO, 365 and 366:
            Objects365) when not known.
        class_pairs: class of the model -> class of the file, by name or index, where names
            alone would not tell; None for a class that shall start from random.
        mode: "exact" wants every tensor, apart from those that are computed or counted; "tune"
            loads what fits, folds the stem, and copies the queries that both have.
        source: name of the file for messages.

    Raises:
        WeightsError: nothing fits, or (exact) not everything does; or `class_pairs` is wrong.
    """
    own = model.state_dict()
    transfer = match_weights(
        own,
        state,
        class_map=class_map,
        source_classes=source_classes,
        class_pairs=class_pairs,
        mode=mode,
        source=source,
    )
    _complain(transfer.report, mode)
    with torch.no_grad():
        model.load_state_dict({**own, **transfer.copies(own, state)})
    return transfer.report


@dataclass
class Transfer:
    """Which tensors of a file go where; nothing is copied yet.

    Attributes:
        report: the same by name, for people.
        rows: name -> row of the model -> row of the file, for tensors that are copied by class.
    """

    report: LoadReport
    rows: dict[str, dict[int, int]] = field(default_factory=dict)

    def copies(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The model's new tensors."""
        copies = {name: state[name] for name in self.report.loaded}
        for name, channels in self.report.folded.items():
            copies[name] = folded(state[name], channels)
        for name, (theirs, mine) in self.report.by_query.items():
            copies[name] = own[name].clone()
            copies[name][: min(theirs, mine)] = state[name][:mine]
        for name, rows in self.rows.items():
            copies[name] = own[name].clone()
            for mine, their in rows.items():
                copies[name][mine] = state[name][their]
        return copies


def match_weights(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    *,
    class_map: ClassMap | None = None,
    source_classes: ClassMap | None = None,
    class_pairs: Mapping[str, str | int | None] | None = None,
    mode: Literal["exact", "tune"] = "tune",
    source: str = "",
) -> Transfer:
    """What `load_weights` would copy. Only names and shapes count, so meta tensors serve.

    Args:
        own: the model's state dict.
        state, class_map, source_classes, class_pairs, mode, source: as in `load_weights`.

    Raises:
        WeightsError: `class_pairs` is wrong.
    """
    transfer = Transfer(LoadReport(source=source))
    report = transfer.report
    by_class = []
    for name, value in own.items():
        if name not in state:
            (report.kept if is_derived(name) else report.missing).append(name)
            continue
        given = state[name]
        if mode == "tune" and has_class_rows(name) and given.shape[1:] == value.shape[1:]:
            by_class.append(name)
        elif given.shape == value.shape:
            report.loaded.append(name)
        elif is_derived(name):
            report.kept.append(name)
        elif mode == "tune" and has_query_rows(name) and given.shape[1:] == value.shape[1:]:
            report.by_query[name] = (len(given), len(value))
        elif mode == "tune" and can_fold(given, value):
            report.folded[name] = value.shape[1]
        else:
            report.mismatched[name] = (tuple(given.shape), tuple(value.shape))
    report.unexpected = [name for name in state if name not in own and not is_derived(name)]
    for name in by_class:
        _match_rows(transfer, name, own[name], state[name], class_map, source_classes, class_pairs)
    return transfer


def _match_rows(
    transfer: Transfer,
    name: str,
    own: Tensor,
    given: Tensor,
    class_map: ClassMap | None,
    source_classes: ClassMap | None,
    class_pairs: Mapping[str, str | int | None] | None,
) -> None:
    """Finds the rows of shared classes; all rows where nothing is known about the classes."""
    report = transfer.report
    padding = padding_rows(name)
    theirs = source_classes or known_class_map(len(given) - padding)
    if theirs is None and class_pairs:  # numbers are all that can be meant
        theirs = ClassMap.from_names(str(i) for i in range(len(given) - padding))
    fits = theirs is not None and len(theirs) == len(given) - padding
    if class_map is None or theirs is None or not fits or len(class_map) != len(own) - padding:
        if given.shape == own.shape:
            report.loaded.append(name)  # nothing known about either side: same rows, same classes
        else:
            report.mismatched[name] = (tuple(given.shape), tuple(own.shape))
        return
    pairs = match_classes(class_map, theirs, class_pairs)
    transfer.rows[name] = {**pairs, **({len(own) - 1: len(given) - 1} if padding else {})}
    report.by_class.append(name)
    report.matched_classes = {class_map.names[a]: theirs.names[b] for a, b in pairs.items()}
    report.new_classes = [n for i, n in enumerate(class_map.names) if i not in pairs]


def _complain(report: LoadReport, mode: str) -> None:
    if not report.copied:
        raise WeightsError(
            f"{report.source or 'the weights'}: no tensor fits the model",
            hint=f"the file has {some(report.unexpected, 3)}; "
            f"the model has {some(report.missing, 3)}. Is it another model or size?",
        )
    if mode == "exact" and not report.complete:
        raise WeightsError(
            f"{report.source or 'the weights'} do not fit the model\n{report.describe(4)}",
            hint="use the configuration that the weights were trained with (--config)",
        )


def changed_queries(checkpoint: Checkpoint, cfg: Config) -> tuple[int, int] | None:
    """`num_queries` of a checkpoint and of a configuration, where they differ.

    None also where the checkpoint carries no configuration, or a decoder has no such argument.
    """
    from detrkit.config import Config

    if checkpoint.config is None:
        return None
    numbers = []
    for each in (Config.from_tree(checkpoint.config, name=checkpoint.config_name), cfg):
        try:
            _, arguments = component(each, "decoder")
        except DetrkitError:  # a decoder of the user's that is not registered here
            return None
        numbers.append(arguments.get("num_queries"))
    theirs, mine = numbers
    if not isinstance(theirs, int) or not isinstance(mine, int) or theirs == mine:
        return None
    return theirs, mine


@dataclass
class LoadedDetector:
    """A detector with everything that belongs to it.

    Attributes:
        model: in eval mode, on the CPU.
        config: the configuration it was built from.
        class_map: names and category ids.
        image_spec: how pictures become its input.
        checkpoint: the file, without weights.
    """

    model: nn.Module
    config: Config
    class_map: ClassMap
    image_spec: ImageSpec
    checkpoint: Checkpoint


def open_detector(
    path: str | Path, config: str | Path | Config | None = None, *, averaged: bool = True
) -> LoadedDetector:
    """Builds the detector of a checkpoint and loads its weights.

    Args:
        path: file, folder or URL, as `read_checkpoint` takes.
        config: configuration file or catalogue name. Files that carry none are recognised by
            their tensors where one published model, and only one, has these.
        averaged: the averaged weights, where the file has both.

    Raises:
        WeightsError: the model is not known, or the weights do not fit the configuration.
    """
    from detrkit.engine.parts import build_model, image_spec_of

    checkpoint = read_checkpoint(path)
    if not averaged and checkpoint.model is not None:
        checkpoint.ema = None
    weights = checkpoint.weights
    cfg = config_of(checkpoint, path, config)
    class_map = checkpoint.class_map or classes_of(weights, cfg, path)
    cfg = cfg.with_values({"num_classes": len(class_map)}, origin="weights")
    model = build_model(cfg)
    load_weights(model, weights, mode="exact", source=str(path))
    checkpoint.model = checkpoint.ema = checkpoint.optimizer = None
    return LoadedDetector(
        model=model.eval(),
        config=cfg,
        class_map=class_map,
        image_spec=checkpoint.image_spec or image_spec_of(cfg),
        checkpoint=checkpoint,
    )


def config_of(
    checkpoint: Checkpoint, path: str | Path, config: str | Path | Config | None = None
) -> Config:
    """The configuration for a checkpoint: the given one, its own, or the recognised one.

    Raises:
        WeightsError: it carries none and is not recognised.
    """
    from detrkit.config import Config, load_config

    if isinstance(config, Config):
        return config
    if config is not None:
        return load_config(config)
    if checkpoint.config is not None:
        return Config.from_tree(checkpoint.config, name=checkpoint.config_name or "checkpoint")
    name = recognise(checkpoint.weights, path)
    cfg = load_config(name)
    size = input_size_of(checkpoint.weights, cfg)
    if size is not None:
        cfg = cfg.with_values({"image_size": list(size)}, origin="weights")
    log.info(
        "%s carries no configuration; its tensors are those of %s, for %s x %s pixels",
        path,
        name,
        *(cfg.run.eval_spatial_size or ("?", "?")),
    )
    return cfg


def classes_of(weights: Mapping[str, Tensor], cfg: Config, path: str | Path) -> ClassMap:
    """The classes of weights that carry none: told by their number, else numbered."""
    count = class_count(weights) or int(cfg.run.num_classes or 80)
    known = known_class_map(count)
    if known is not None:
        log.info("%s: %d classes, taken for those of %s", path, count, known_name(count))
        return known
    log.warning("%s carries no class names; its %d classes are numbered", path, count)
    return ClassMap.from_names(f"class {i}" for i in range(count))
