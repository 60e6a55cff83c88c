"""Runs files that were exported with `--raw`, as far as comparing them needs it.

What the decoder's heads say goes through the checkpoint's own postprocessor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from detrkit.engine.runtime import PostProcessor, Runtime, resized_batch
from detrkit.errors import WeightsError
from detrkit.export.metadata import Metadata
from detrkit.structures import Detections

#: images (N, C, h, w) -> logits (N, Q, K), boxes_cxcywh (N, Q, 4)
Heads = Callable[[Tensor], tuple[Tensor, Tensor]]


class RawRuntime(Runtime):
    """A detector whose file ends with the decoder's heads.

    Args:
        heads: computes them.
        postprocessor: heads -> detections.
        metadata: of the file.
        batch: images that it takes; None: any number.
    """

    def __init__(
        self, heads: Heads, postprocessor: PostProcessor, metadata: Metadata, batch: int | None
    ) -> None:
        self.heads = heads
        self.postprocessor = postprocessor
        self.image_spec = metadata.image_spec
        self.class_map = metadata.class_map
        self.batch = batch
        self.device = torch.device("cpu")

    def predict(
        self, images: Sequence[Tensor], paths: Sequence[str | None] | None = None
    ) -> list[Detections]:
        found: list[Detections] = []
        step = self.batch or max(len(images), 1)
        for first in range(0, len(images), step):
            part = list(images[first : first + step])
            filled = part + [part[-1]] * ((self.batch or 0) - len(part))
            pixels = self.image_spec.normalized(resized_batch(self.image_spec, filled))
            logits, boxes = self.heads(pixels)
            found += self.postprocessor.postprocess(
                {"pred_logits": logits[: len(part)], "pred_boxes": boxes[: len(part)]},
                [(image.shape[-2], image.shape[-1]) for image in part],
                self.image_spec,
                self.class_map,
            )
        return found


def raw_runtime(
    path: Path, postprocessor: PostProcessor, metadata: Metadata, batch: int | None = None
) -> RawRuntime:
    """Opens a raw file by its ending.

    Raises:
        WeightsError: nothing here runs raw files of this kind.
    """
    openers = {
        ".onnx": _onnx,
        ".xml": _openvino,
        ".torchscript": _torchscript,
        ".pt2": _torch_export,
    }
    if path.suffix not in openers:
        raise WeightsError(
            f"{path}: raw heads of such files cannot be compared", hint="--no-verify"
        )
    return RawRuntime(openers[path.suffix](path), postprocessor, metadata, batch)


def _onnx(path: Path) -> Heads:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def heads(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, boxes = session.run(["logits", "boxes"], {"images": images.numpy()})
        return torch.from_numpy(logits), torch.from_numpy(boxes)

    return heads


def _openvino(path: Path) -> Heads:
    import openvino

    model = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def heads(images: Tensor) -> tuple[Tensor, Tensor]:
        found = model({"images": images.numpy()})
        return torch.tensor(found["logits"]), torch.tensor(found["boxes"])

    return heads


def _torchscript(path: Path) -> Heads:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        program = torch.jit.load(str(path))
    return torch.no_grad()(program)


def _torch_export(path: Path) -> Heads:
    return torch.no_grad()(torch.export.load(str(path)).module())
