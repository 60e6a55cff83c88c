"""Writes a folder that transformers loads, after proving that it answers the same."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.engine.conversion.hf_config import hf_config
from detrkit.engine.conversion.names import to_hf
from detrkit.engine.weights import LoadedDetector
from detrkit.errors import MissingExtraError, WeightsError
from detrkit.files import cannot_write

log = logging.getLogger("detrkit")

#: Differences up to here are rounding.
TOLERANCE = 1e-3

#: Side of the image on which both models are compared.
_SIDE = 320

_CLASSES = {
    "d_fine": ("DFineConfig", "DFineForObjectDetection"),
    "rt_detr_v2": ("RTDetrV2Config", "RTDetrV2ForObjectDetection"),
}


def write_hf_folder(detector: LoadedDetector, folder: Path) -> float:
    """Writes `config.json`, `model.safetensors` and `preprocessor_config.json`.

    Args:
        detector: with its weights.
        folder: created; files in it are replaced.

    Returns:
        The largest difference between both models' answers to one image.

    Raises:
        WeightsError: transformers has no such model, or its model answers differently.
        MissingExtraError: transformers is not installed.
        DetrkitError: the folder cannot be written.
    """
    spec = detector.image_spec
    if spec.resize != "stretch" or spec.channels != "rgb":
        raise WeightsError(
            f"transformers' image processor has no counterpart of {spec.resize} and "
            f"{spec.channels} images"
        )
    theirs = hf_model(detector)
    comparison = compare(detector.model, theirs)
    if not comparison.agrees:
        raise WeightsError(
            f"transformers' model answers differently: up to {comparison.difference:.2g} in "
            "logits or boxes",
            hint="nothing was written; this should not happen, please report it",
        )
    with _quiet(), tempfile.TemporaryDirectory() as place:
        theirs.save_pretrained(place)
        _transformers().RTDetrImageProcessor(
            size={"height": spec.size[0], "width": spec.size[1]},
            do_rescale=True,
            rescale_factor=spec.scale,
            do_normalize=spec.mean != (0.0, 0.0, 0.0) or spec.std != (1.0, 1.0, 1.0),
            image_mean=list(spec.mean),
            image_std=list(spec.std),
            do_pad=False,
        ).save_pretrained(place)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file in Path(place).iterdir():
                shutil.copyfile(file, folder / file.name)
        except OSError as error:
            raise cannot_write(folder, error) from error
    return comparison.difference


def hf_model(detector: LoadedDetector) -> Any:
    """The model of transformers with the detector's weights, in evaluation mode.

    Raises:
        WeightsError: transformers has no such model.
        MissingExtraError: transformers is not installed.
    """
    kind, values = hf_config(detector.config, detector.class_map)
    package = _transformers()
    config_class, model_class = (getattr(package, name, None) for name in _CLASSES[kind])
    if config_class is None or model_class is None:
        raise MissingExtraError(f"transformers with {_CLASSES[kind][1]}", "hf", "--to hf")
    state = _used(to_hf(detector.model.state_dict(), kind), values["decoder_layers"], kind)
    with _quiet():
        model = model_class(config_class(**values)).eval()
    problems = model.load_state_dict(state, strict=False)
    missing = [name for name in problems.missing_keys if not _OPTIONAL.search(name)]
    if missing or problems.unexpected_keys:
        raise WeightsError(
            f"transformers' model has other tensors: missing {missing[:4]}, "
            f"unexpected {problems.unexpected_keys[:4]}"
        )
    with _quiet():
        model.tie_weights()
    return model


#: Counters, buffers and the decoder's copies of the heads.
_OPTIONAL = re.compile(
    r"num_batches_tracked$|n(um)?_points_scale$|^model\.decoder\.(class_embed|bbox_embed)\."
)


def _used(state: dict[str, Tensor], layers: int, kind: str) -> dict[str, Tensor]:
    """Without decoder layers behind the one that answers; with the decoder's copies of heads."""
    result = {}
    for name, value in state.items():
        found = re.match(r"(?:model\.decoder\.layers|class_embed|bbox_embed)\.(\d+)\.", name)
        if kind == "rt_detr_v2" and found and int(found[1]) >= layers:
            continue
        result[name] = value
        if name.startswith(("class_embed.", "bbox_embed.")):
            result[f"model.decoder.{name}"] = value
    return result


@dataclass(frozen=True)
class Comparison:
    """Answers of two models to one image.

    Attributes:
        difference: largest one in a logit or box coordinate, in float64.
        rounding: the same between float32 and float64 of our own model.
    """

    difference: float
    rounding: float

    @property
    def agrees(self) -> bool:
        """Whether rounding explains the difference: constants are float32 on either side."""
        return self.difference <= max(TOLERANCE, self.rounding)


def compare(ours: nn.Module, theirs: Any, side: int = _SIDE) -> Comparison:
    """Runs both models on one image of noise.

    Args:
        ours: a detector in evaluation mode.
        theirs: transformers' model, likewise.
        side: of the square image.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, 3, side, side), generator=generator)
    with torch.no_grad():
        rounded = ours(image)
        a = copy.deepcopy(ours).double()(image.double())
        b = copy.deepcopy(theirs).double()(pixel_values=image.double())
    exact = _answers(a["pred_logits"], a["pred_boxes"])
    return Comparison(
        difference=_distance(exact, _answers(b.logits, b.pred_boxes)),
        rounding=_distance(exact, _answers(rounded["pred_logits"], rounded["pred_boxes"])),
    )


def _answers(logits: Tensor, boxes: Tensor) -> Tensor:
    """One row for each query of the first image, (Q, K + 4)."""
    return torch.cat([logits[0], boxes[0]], dim=-1).double()


def _distance(a: Tensor, b: Tensor) -> float:
    """Largest difference of the most similar rows: near ties may swap two queries."""
    distances = torch.cdist(a, b, p=float("inf"))
    return float(torch.maximum(distances.amin(0).max(), distances.amin(1).max()))


def _transformers() -> Any:
    try:
        with _quiet():
            import transformers
    except ImportError:
        raise MissingExtraError("transformers", "hf", "--to hf") from None
    return transformers


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and remarks on packages that are not needed here."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
