"""Runs `.onnx` files as the authors' exporters write them.

    images             (N, C, h, w) float32, RGB, 0–1; DEIMv2's ViTs want ImageNet's mean and
                       deviation removed
    orig_target_sizes  (N, 2) int64, (width, height) of the original images
    labels, boxes, scores   (N, n), boxes_xyxy (N, n, 4) in original pixels, (N, n)

Such files say nothing about themselves. What is needed is read off the graph: the input size from
the shape of `images`, the number of classes from the score heads, the kind of backbone from the
names of the layers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from detrkit.engine.known_classes import coco_classes, known_class_map, known_name
from detrkit.engine.runtime import Runtime, resized_batch
from detrkit.engine.state_names import is_class_rows
from detrkit.errors import UsageError, WeightsError
from detrkit.structures import ClassMap, Detections, ImageSpec

if TYPE_CHECKING:
    import onnx

log = logging.getLogger("detrkit")

_INPUTS = {"images", "orig_target_sizes"}
_OUTPUTS = ("labels", "boxes", "scores")

#: Mean and deviation of ImageNet's colours, which DINOv3 was trained with.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class OnnxRuntime(Runtime):
    """A detector in ONNX Runtime.

    Args:
        path: the file.
        device: where it runs: "cpu", or "cuda:N" where ONNX Runtime has it.
        size: (h, w) of the input; None: as the file says.

    Raises:
        WeightsError: missing, damaged, or with other inputs and outputs.
        UsageError: the device is not available, or the size not what the file wants.
    """

    def __init__(
        self, path: Path, device: torch.device, size: tuple[int, int] | None = None
    ) -> None:
        if not path.is_file():
            raise WeightsError(f"model file not found: {path}")
        self.device = device
        self.session = _session(path, device)
        shapes = {node.name: node.shape for node in self.session.get_inputs()}
        outputs = [node.name for node in self.session.get_outputs()]
        if set(shapes) != _INPUTS or not set(_OUTPUTS) <= set(outputs):
            raise WeightsError(
                f"{path}: inputs {', '.join(shapes)} and outputs {', '.join(outputs)} are not "
                f"those of the authors' exporters",
                hint=f"wanted are the inputs {', '.join(sorted(_INPUTS))} and the outputs "
                f"{', '.join(_OUTPUTS)}",
            )
        batch, channels, height, width = shapes["images"]
        self.batch = batch if isinstance(batch, int) else None
        fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        self.image_spec, self.class_map = _describe(
            path, _input_size(path, fixed, size), channels if isinstance(channels, int) else 3
        )

    def predict(
        self, images: Sequence[Tensor], paths: Sequence[str | None] | None = None
    ) -> list[Detections]:
        found: list[Detections] = []
        step = self.batch or max(len(images), 1)
        for first in range(0, len(images), step):
            part = images[first : first + step]
            found += self._run(part, paths[first : first + step] if paths is not None else None)
        return found

    def _run(
        self, images: Sequence[Tensor], paths: Sequence[str | None] | None
    ) -> list[Detections]:
        """One call of the session; a fixed batch is filled up with the last image."""
        filled = [*images, *[images[-1]] * ((self.batch or 0) - len(images))]
        with self.watch.over("preprocess"):
            pixels = self.image_spec.normalized(resized_batch(self.image_spec, filled)).numpy()
        sizes = np.array([[image.shape[-1], image.shape[-2]] for image in filled], np.int64)
        with self.watch.over("model"):
            labels, boxes, scores = self.session.run(
                list(_OUTPUTS), {"images": pixels, "orig_target_sizes": sizes}
            )
        self.watch.images += len(images)
        with self.watch.over("postprocess"):
            return [
                self._detections(
                    image, labels[i], boxes[i], scores[i], None if paths is None else paths[i]
                )
                for i, image in enumerate(images)
            ]

    def _detections(
        self, image: Tensor, labels: Any, boxes: Any, scores: Any, path: str | None
    ) -> Detections:
        """The answer for one image, best score first."""
        order = np.argsort(-scores, kind="stable")
        return Detections(
            boxes_xyxy=boxes[order].astype(np.float32),
            scores=scores[order].astype(np.float32),
            labels=labels[order].astype(np.int64),
            class_map=self.class_map,
            orig_size=(image.shape[-2], image.shape[-1]),
            path=path,
        )


def _session(path: Path, device: torch.device) -> Any:
    import onnxruntime

    available = onnxruntime.get_available_providers()
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" not in available:
            raise UsageError(
                "this ONNX Runtime has no CUDA",
                hint="pip install onnxruntime-gpu, or use --device cpu",
            )
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    try:
        return onnxruntime.InferenceSession(str(path), providers=providers)
    except Exception as error:  # its errors have no base class of their own
        raise WeightsError(
            f"{path} is damaged or not a model that ONNX Runtime {onnxruntime.__version__} runs: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _input_size(
    path: Path, fixed: tuple[int, int] | None, wanted: tuple[int, int] | None
) -> tuple[int, int]:
    if fixed is not None and wanted not in (None, fixed):
        raise UsageError(f"{path} only takes images of {fixed[0]}x{fixed[1]} (height x width)")
    size = fixed or wanted
    if size is None:
        raise UsageError(
            f"{path} takes images of any size, so it does not say which it was trained with",
            hint="name it: --size 640, or --size HEIGHTxWIDTH",
        )
    return size


def _describe(path: Path, size: tuple[int, int], channels: int) -> tuple[ImageSpec, ClassMap]:
    """How images are prepared and what the classes are called."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    count = _class_count(graph)
    classes = known_class_map(count) if count is not None else coco_classes()
    if classes is None:
        log.warning("%s carries no class names; its %s classes are numbered", path, count)
        classes = ClassMap.from_names(f"class {i}" for i in range(count or 0))
    else:
        log.info("%s: classes taken for those of %s", path, known_name(len(classes)))
    dinov3 = any("dinov3" in name for node in graph.node for name in (node.name, *node.input))
    if dinov3 and channels == 3:
        log.info("%s has a DINOv3 backbone: ImageNet's mean and deviation are removed", path)
        return ImageSpec(size, mean=_IMAGENET[0], std=_IMAGENET[1]), classes
    return ImageSpec(size, in_channels=channels), classes


def _class_count(graph: onnx.GraphProto) -> int | None:
    """Rows of the score heads, where their names survived the export."""
    for tensor in graph.initializer:
        if tensor.name.endswith("bias") and is_class_rows(tensor.name):
            return int(tensor.dims[0])
    return None
