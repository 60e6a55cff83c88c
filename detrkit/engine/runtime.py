"""Runs a detector on pictures, whatever it was made into.

A runtime takes images of any size and returns `Detections` in their pixels. How a
picture becomes the model's input (`image_spec`) and what the classes are called (`class_map`)
come with the weights. PyTorch checkpoints and ONNX files run today; `Runtime.open` is where other
artefacts join.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urldefrag

import torch
from torch import Tensor, nn

from detrkit.config import Config
from detrkit.engine.amp import Precision
from detrkit.engine.download import locate
from detrkit.engine.parts import build_postprocessor
from detrkit.engine.stopwatch import Stopwatch
from detrkit.engine.weights import LoadedDetector, open_detector
from detrkit.errors import UsageError, WeightsError
from detrkit.models.detector import Detector
from detrkit.structures import ClassMap, Detections, ImageSpec

#: Threads that resize images.
RESIZERS = 4

#: Endings of artefacts that need a runtime which this version does not have.
_OTHERS = {
    ".engine": "TensorRT",
    ".trt": "TensorRT",
    ".xml": "OpenVINO",
    ".tflite": "TensorFlow Lite",
    ".mlpackage": "Core ML",
}


class PostProcessor(Protocol):
    """Outputs of a model -> detections; that of `detrkit.models.postprocess` is one."""

    def postprocess(
        self, outputs: Any, orig_sizes: Any, image_spec: ImageSpec, class_map: ClassMap,
        image_ids: Any = None, paths: Any = None,
    ) -> list[Detections]: ...  # fmt: skip


class Runtime(ABC):
    """A detector that is ready to run.

    Attributes:
        class_map: names and category ids of what it finds.
        image_spec: how pictures become its input.
        device: where it runs.
        watch: times the parts of `predict`; one that stands still where nobody asks.
    """

    class_map: ClassMap
    image_spec: ImageSpec
    device: torch.device
    watch = Stopwatch()

    @abstractmethod
    def predict(
        self, images: Sequence[Tensor], paths: Sequence[str | None] | None = None
    ) -> list[Detections]:
        """Detects on one batch.

        Args:
            images: (C, H, W) as `read_image` gives them, each of its own size.
            paths: their files, carried along.

        Returns:
            One `Detections` per image, best score first, unfiltered.
        """

    @staticmethod
    def open(
        path: str | Path,
        config: str | Path | Config | None = None,
        *,
        device: str | torch.device | None = None,
        size: tuple[int, int] | None = None,
    ) -> Runtime:
        """Opens weights or an artefact.

        Args:
            path: file, folder or URL.
            config: for weights that carry no configuration and are not recognised.
            device: "cpu", "cuda:1", …; default the best one there is.
            size: (h, w) of the input, where it is not to be that of the weights.

        Raises:
            WeightsError: it cannot be opened, or not by this version.
        """
        suffix = Path(urldefrag(str(path)).url).suffix.lower()
        if suffix == ".onnx":
            from detrkit.engine.onnx_runtime import OnnxRuntime

            return OnnxRuntime(locate(path), choose_device(device), size)
        if suffix in _OTHERS:
            raise WeightsError(
                f"{path}: this version of detrkit does not run {_OTHERS[suffix]} files",
                hint="use the checkpoint (.pth) that it was made from",
            )
        runtime = TorchRuntime.from_checkpoint(path, config, device=device)
        if size is not None:
            runtime.image_spec = replace(runtime.image_spec, size=size)
        return runtime


class TorchRuntime(Runtime):
    """A checkpoint in PyTorch.

    Args:
        model: the deployed detector.
        postprocessor: outputs -> detections.
        class_map, image_spec: of the weights.
        device: where it runs.
        precision: of the forward pass.
        config: what the model was built from.
    """

    def __init__(
        self,
        model: nn.Module,
        postprocessor: PostProcessor,
        class_map: ClassMap,
        image_spec: ImageSpec,
        *,
        device: str | torch.device = "cpu",
        precision: Precision | None = None,
        config: Config | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.postprocessor = postprocessor
        self.class_map = class_map
        self.image_spec = image_spec
        self.precision = precision or Precision()
        self.config = config

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        config: str | Path | Config | None = None,
        *,
        device: str | torch.device | None = None,
    ) -> TorchRuntime:
        """Opens a checkpoint and fuses its model for inference.

        Raises:
            WeightsError: missing, damaged, or without a configuration.
            UsageError: the device does not exist.
        """
        chosen = choose_device(device)
        return cls.of(open_detector(path, config), chosen)

    @classmethod
    def of(cls, loaded: LoadedDetector, device: str | torch.device = "cpu") -> TorchRuntime:
        """Fuses an opened detector for inference."""
        model = loaded.model
        return cls(
            model.deploy(fold_norms=True) if isinstance(model, Detector) else model,
            build_postprocessor(loaded.config),
            loaded.class_map,
            loaded.image_spec,
            device=device,
            config=loaded.config,
        )

    def predict(
        self, images: Sequence[Tensor], paths: Sequence[str | None] | None = None
    ) -> list[Detections]:
        if not images:
            return []
        with torch.inference_mode():
            with self.watch.over("preprocess"):
                batch = resized_batch(self.image_spec, images)
                batch = self.image_spec.normalized(batch.to(self.device))
            with self.watch.over("model"), self.precision.autocast(self.device):
                outputs = self.model(batch)
        self.watch.images += len(images)
        with self.watch.over("postprocess"):
            return self.postprocessor.postprocess(
                outputs,
                [(image.shape[-2], image.shape[-1]) for image in images],
                self.image_spec,
                self.class_map,
                paths=paths,
            )


def resized_batch(spec: ImageSpec, images: Sequence[Tensor]) -> Tensor:
    """Images (C, H, W) of any sizes -> (B, C, h, w) on the CPU, all of one type.

    As uint8 there is a quarter of the bytes to move. Resizing leaves Python's lock, so several
    images are resized in threads.
    """
    if len(images) == 1:
        return spec.resized(images[0])[None]
    with ThreadPoolExecutor(min(len(images), RESIZERS), thread_name_prefix="resize") as threads:
        resized = list(threads.map(spec.resized, images))
    if len({image.dtype for image in resized}) > 1:
        resized = [image.float() for image in resized]
    return torch.stack(resized)


def choose_device(wanted: str | torch.device | None = None) -> torch.device:
    """The device called `wanted`, or the best one: CUDA, Apple's, CPU.

    Raises:
        UsageError: there is no such device.
    """
    if wanted is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"no device `{wanted}` here: {str(error).splitlines()[0]}", hint=_devices()
        ) from error
    return device


def _devices() -> str:
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    return f"there is: {', '.join(names)}"
