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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.engine.conversion.hf_config import hf_config
from detrkit.engine.conversion.names import to_hf
from detrkit.engine.files import cannot_write
from detrkit.engine.weights import LoadedDetector
from detrkit.errors import MissingExtraError, WeightsError

log = logging.getLogger("detrkit")

#: Largest difference of a logit or box coordinate that rounding may explain.
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
    difference = largest_difference(detector.model, theirs)
    if difference > TOLERANCE:
        raise WeightsError(
            f"transformers' model answers differently: up to {difference:.2g} in logits or boxes",
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
    return difference


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


def largest_difference(ours: nn.Module, theirs: Any, side: int = _SIDE) -> float:
    """Between the answers of both models to one image, queries paired by likeness.

    Both compute in float64: a deep decoder turns the rounding of float32 into differences that
    say nothing about the models.

    Args:
        ours: a detector in evaluation mode.
        theirs: transformers' model, likewise.
        side: of the square image, which is noise.
    """
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, 3, side, side), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        a = copy.deepcopy(ours).double()(image)
        b = copy.deepcopy(theirs).double()(pixel_values=image)
    mine = torch.cat([a["pred_logits"][0], a["pred_boxes"][0]], dim=-1)
    other = torch.cat([b.logits[0], b.pred_boxes[0]], dim=-1)
    # near ties may swap two queries, so each is compared with the most similar one
    distances = torch.cdist(mine, other, p=float("inf"))
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
