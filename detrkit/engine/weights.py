"""Weights from files and URLs into models, and whole detectors from checkpoints.

`load_weights` copies by name. Tensors with one row per class (score heads, the denoising
embedding) are copied row by row, matched by class name, when both sides' classes are known: a
detector of 80 classes keeps what it knows about "person" and "car" in a detector of three.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.download import fetch, is_url
from detrkit.engine.known_classes import known_class_map
from detrkit.errors import WeightsError
from detrkit.structures import ClassMap, ImageSpec

if TYPE_CHECKING:
    from detrkit.config import Config

#: One row per class.
_CLASS_ROWS = re.compile(r"(^|\.)(\w*score_head|\w*class_head)(\.\d+)?\.(weight|bias)$")
#: One row per class and one more for padding.
_CLASS_ROWS_AND_PADDING = re.compile(r"(^|\.)denoising_class_embed\.weight$")
#: Computed from the image size; a model of another size keeps its own.
_DERIVED = re.compile(r"(^|\.)(anchors|valid_mask)$")
#: Counters that some authors' checkpoints lack.
_COUNTER = re.compile(r"(^|\.)num_batches_tracked$")


@dataclass
class LoadReport:
    """What `load_weights` did.

    Attributes:
        loaded: names that were copied whole.
        by_class: names of which rows were copied by class name.
        missing: names of the model that the file lacks; they keep their values.
        unexpected: names of the file that the model lacks.
        mismatched: name -> (shape in the file, shape in the model); not copied.
        matched_classes: class of the model -> class of the file whose rows it got.
        new_classes: classes of the model that the file does not know.
        source: of the weights.
    """

    loaded: list[str] = field(default_factory=list)
    by_class: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    matched_classes: dict[str, str] = field(default_factory=dict)
    new_classes: list[str] = field(default_factory=list)
    source: str = ""

    @property
    def total(self) -> int:
        """Tensors of the model."""
        return len(self.loaded) + len(self.by_class) + len(self.missing) + len(self.mismatched)

    def describe(self, most: int = 8) -> str:
        """What was loaded and what was not, in a few lines."""
        lines = [f"loaded {len(self.loaded)} of {self.total} tensors from {self.source}"]
        if self.by_class:
            lines.append(
                f"{len(self.by_class)} class tensors: rows of "
                f"{_some([_pair(a, b) for a, b in self.matched_classes.items()], most)} copied"
            )
        if self.new_classes:
            lines.append(f"new classes, from random: {_some(self.new_classes, most)}")
        if self.mismatched:
            shapes = [f"{n} {list(a)} -> {list(b)}" for n, (a, b) in self.mismatched.items()]
            lines.append(f"other shapes, not loaded: {_some(shapes, most)}")
        if self.missing:
            lines.append(f"not in the file: {_some(self.missing, most)}")
        if self.unexpected:
            lines.append(f"not in the model: {_some(self.unexpected, most)}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "source": self.source,
            "loaded": len(self.loaded),
            "by_class": self.by_class,
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mismatched": {n: [list(a), list(b)] for n, (a, b) in self.mismatched.items()},
            "matched_classes": self.matched_classes,
            "new_classes": self.new_classes,
        }


def read_checkpoint(path_or_url: str | Path) -> Checkpoint:
    """A checkpoint from a file or URL.

    Raises:
        WeightsError: missing, damaged, or no checkpoint.
    """
    text = str(path_or_url)
    if is_url(text):
        checkpoint = Checkpoint.load(fetch(text))
        return checkpoint
    return Checkpoint.load(text)


def read_state(path_or_url: str | Path) -> dict[str, Tensor]:
    """The weights of a file or URL: averaged ones where there are any."""
    return read_checkpoint(path_or_url).weights


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    class_map: ClassMap | None = None,
    source_classes: ClassMap | None = None,
    mode: Literal["exact", "tune"] = "tune",
    source: str = "",
) -> LoadReport:
    """Copies weights into a model.

    Args:
        model: changed in place.
        state: name -> tensor.
        class_map: the model's classes.
        source_classes: the file's; guessed from the number of rows (80: COCO) when not known.
        mode: "exact" wants every tensor, apart from those computed from the image size and
            counters; "tune" loads what fits.
        source: name of the file for messages.

    Raises:
        WeightsError: nothing fits, or (exact) not everything does.
    """
    report = LoadReport(source=source)
    own = model.state_dict()
    copies: dict[str, Tensor] = {}
    rows: dict[str, Tensor] = {}
    for name, value in own.items():
        if name not in state:
            if not (_DERIVED.search(name) or _COUNTER.search(name)):
                report.missing.append(name)
            continue
        given = state[name]
        if given.shape == value.shape and not (mode == "tune" and _has_class_rows(name)):
            copies[name] = given
        elif _DERIVED.search(name):
            continue
        elif mode == "tune" and _has_class_rows(name) and given.shape[1:] == value.shape[1:]:
            rows[name] = given
        else:
            report.mismatched[name] = (tuple(given.shape), tuple(value.shape))
    report.unexpected = [
        name
        for name in state
        if name not in own and not (_DERIVED.search(name) or _COUNTER.search(name))
    ]
    for name, given in rows.items():
        _copy_rows(report, copies, own[name], name, given, class_map, source_classes)
    report.loaded = [name for name in copies if name not in report.by_class]
    _complain(report, mode)
    with torch.no_grad():
        model.load_state_dict({**own, **copies})
    return report


def _has_class_rows(name: str) -> bool:
    return bool(_CLASS_ROWS.search(name) or _CLASS_ROWS_AND_PADDING.search(name))


def _copy_rows(
    report: LoadReport,
    copies: dict[str, Tensor],
    own: Tensor,
    name: str,
    given: Tensor,
    class_map: ClassMap | None,
    source_classes: ClassMap | None,
) -> None:
    """Puts `own` with the rows of shared classes from `given` into `copies`."""
    padding = 1 if _CLASS_ROWS_AND_PADDING.search(name) else 0
    theirs = source_classes or known_class_map(len(given) - padding)
    fits = theirs is not None and len(theirs) == len(given) - padding
    if class_map is None or theirs is None or not fits or len(class_map) != len(own) - padding:
        if given.shape == own.shape:
            copies[name] = given  # nothing known about either side: same rows, same classes
        else:
            report.mismatched[name] = (tuple(given.shape), tuple(own.shape))
        return
    pairs = match_classes(class_map, theirs)
    mixed = own.clone()
    for mine, their in pairs.items():
        mixed[mine] = given[their]
    if padding:
        mixed[-1] = given[-1]
    copies[name] = mixed
    report.by_class.append(name)
    report.matched_classes = {class_map.names[a]: theirs.names[b] for a, b in pairs.items()}
    report.new_classes = [n for i, n in enumerate(class_map.names) if i not in pairs]


def match_classes(mine: ClassMap, theirs: ClassMap) -> dict[int, int]:
    """Index in `mine` -> index in `theirs` of the class with the same name.

    Case, spaces, underscores and hyphens do not count; a plural "s" at the end does not either.
    """
    known: dict[str, int] = {}
    for index, name in reversed(list(enumerate(theirs.names))):
        known[_plain(name)] = index
    found = {}
    for index, name in enumerate(mine.names):
        plain = _plain(name)
        for candidate in (plain, plain.removesuffix("s"), plain + "s"):
            if candidate in known:
                found[index] = known[candidate]
                break
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-/]+", "", name).casefold()


def _complain(report: LoadReport, mode: str) -> None:
    if not report.loaded and not report.by_class:
        raise WeightsError(
            f"{report.source or 'the weights'}: no tensor fits the model",
            hint=f"the file has {_some(report.unexpected, 3)}; "
            f"the model has {_some(report.missing, 3)}. Is it another model or size?",
        )
    if mode == "exact" and (report.missing or report.mismatched or report.unexpected):
        raise WeightsError(
            f"{report.source or 'the weights'} do not fit the model\n{report.describe(4)}",
            hint="use the configuration that the weights were trained with (--config)",
        )


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


def open_detector(path: str | Path, config: str | Path | Config | None = None) -> LoadedDetector:
    """Builds the detector of a checkpoint and loads its weights.

    Args:
        path: file or URL: ours, which needs nothing else, or the authors'.
        config: configuration file or catalogue name; wanted for files that carry none.

    Raises:
        WeightsError: there is no configuration, or the weights do not fit it.
    """
    from detrkit.config import Config, load_config
    from detrkit.engine.parts import build_model, image_spec_of

    checkpoint = read_checkpoint(path)
    if isinstance(config, Config):
        cfg = config
    elif config is not None:
        cfg = load_config(config)
    elif checkpoint.config is not None:
        cfg = Config.from_tree(checkpoint.config, name=checkpoint.config_name or "checkpoint")
    else:
        raise WeightsError(
            f"{path} carries no configuration: it was not written by detrkit",
            hint="name the one it was trained with, e.g. --config dfine_hgnetv2_s_coco",
        )
    weights = checkpoint.weights
    class_map = checkpoint.class_map
    rows = _class_rows(weights)
    if class_map is None:
        count = rows or int(cfg.run.num_classes or 80)
        class_map = known_class_map(count) or ClassMap.from_names(
            f"class {i}" for i in range(count)
        )
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


def _class_rows(state: Mapping[str, Tensor]) -> int | None:
    """How many classes the score heads have."""
    for name, value in state.items():
        if _CLASS_ROWS.search(name) and name.endswith("bias"):
            return len(value)
    return None


def _some(items: list[str], most: int) -> str:
    if not items:
        return "nothing"
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def _pair(mine: str, their: str) -> str:
    return mine if mine == their else f"{mine} (from {their})"
