"""Runs a detector on pictures, whatever it was made into.

A runtime takes images of any size and returns `Detections` in their pixels. How a
picture becomes the model's input (`image_spec`) and what the classes are called (`class_map`)
come with the weights. Checkpoints run in PyTorch, here; exported files in a runtime each, which
`Runtime.open` chooses by the ending of the name.
"""

from __future__ import annotations

import importlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urldefrag

import torch
from torch import Tensor, nn

from detrkit.config import Config
from detrkit.engine.allocator import keep_freed_memory
from detrkit.engine.amp import Precision, cpu_computes_bf16
from detrkit.engine.download import locate
from detrkit.engine.openmp import end_team
from detrkit.engine.parts import build_postprocessor
from detrkit.engine.stopwatch import Stopwatch
from detrkit.engine.weights import LoadedDetector, open_detector
from detrkit.errors import DataError, UsageError, WeightsError
from detrkit.models.detector import Detector
from detrkit.structures import ClassMap, Detections, ImageSpec

#: Threads that resize images.
RESIZERS = 4

#: Ending of an exported file -> module and class of its runtime.
ARTEFACTS = {
    ".onnx": ("onnx_runtime", "OnnxRuntime"),
    ".xml": ("openvino_runtime", "OpenVinoRuntime"),
    ".engine": ("tensorrt_runtime", "TensorRtRuntime"),
    ".trt": ("tensorrt_runtime", "TensorRtRuntime"),
    ".torchscript": ("program_runtime", "ProgramRuntime"),
    ".ts": ("program_runtime", "ProgramRuntime"),
    ".pt2": ("program_runtime", "ProgramRuntime"),
}

#: Endings of files that other exporters write and nothing here runs.
_OTHERS = {".tflite": "TensorFlow Lite", ".mlpackage": "Core ML"}

log = logging.getLogger("detrkit")


@dataclass(frozen=True)
class RunOptions:
    """How a detector is run; a runtime warns of what does not apply to it.

    Attributes:
        half: compute in 16 bits where the device does: fp16 on GPUs, bf16 on CPUs that have it.
        compiled: let PyTorch compile the model, which takes a minute at the first image.
        threads: of a CPU; None: the library's choice. PyTorch's number holds for the process.
        provider: ONNX Runtime's ("cpu", "cuda", "tensorrt", "openvino", …) or OpenVINO's device
            ("cpu", "gpu", "npu", "auto").
    """

    half: bool = False
    compiled: bool = False
    threads: int | None = None
    provider: str | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, got {self.threads}")

    def warn_unused(self, path: str | Path, taken: Sequence[str] = ()) -> None:
        """Says which options were given and do not apply.

        Args:
            path: the file.
            taken: names of those that do.
        """
        for name in ("half", "compiled", "threads", "provider"):
            if getattr(self, name) and name not in taken:
                log.warning("%s: the option `%s` does not apply to it", path, name)

    def set_threads(self) -> None:
        """Gives PyTorch its threads."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)


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
        name: of what computes, for people.
        fewest, most: images per call; `most` None: any number.
        watch: times the parts of `predict`; one that stands still where nobody asks.
    """

    class_map: ClassMap
    image_spec: ImageSpec
    device: torch.device
    name: str
    fewest: int = 1
    most: int | None = None
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
        half: bool = False,
        compiled: bool = False,
        threads: int | None = None,
        provider: str | None = None,
    ) -> Runtime:
        """Opens weights or an exported file.

        Args:
            path: file, folder or URL.
            config: for weights that carry no configuration and are not recognised.
            device: "cpu", "cuda:1", …; default the best one there is for this kind of file.
            size: (h, w) of the input, where it is not to be that of the weights.
            half, compiled, threads, provider: see `RunOptions`.

        Raises:
            WeightsError: it cannot be opened, or not by this version.
            UsageError: there is no such device or provider, or the file takes no such size.
            MissingExtraError: the library that runs such files is not installed.
        """
        options = RunOptions(half, compiled, threads, provider)
        suffix = Path(urldefrag(str(path)).url).suffix.lower()
        if suffix in ARTEFACTS:
            module, name = ARTEFACTS[suffix]
            runtime = getattr(importlib.import_module(f"detrkit.engine.{module}"), name)
            opened: Runtime = runtime(locate(path), device, size, options)
            return opened
        if suffix in _OTHERS:
            raise WeightsError(
                f"{path}: this version of detrkit does not run {_OTHERS[suffix]} files",
                hint="use the checkpoint (.pth) that it was made from",
            )
        options.warn_unused(path, ("half", "compiled", "threads"))
        checkpoint = TorchRuntime.from_checkpoint(path, config, device=device, options=options)
        if size is not None:
            checkpoint.image_spec = replace(checkpoint.image_spec, size=size)
        return checkpoint


class TorchRuntime(Runtime):
    """A checkpoint in PyTorch; `compute` takes tensors that are on `device` already.

    Args:
        model: the deployed detector.
        postprocessor: outputs -> detections.
        class_map, image_spec: of the weights.
        device: where it runs.
        precision: of the forward pass.
        config: what the model was built from.
    """

    name = "PyTorch"
    takes_device_tensors = True

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
        if self.device.type == "cpu":
            keep_freed_memory()
        self.model = model.to(self.device).eval()
        self.postprocessor = postprocessor
        self.class_map = class_map
        self.image_spec = image_spec
        self.precision = precision or Precision()
        self.config = config
        if self.device.type == "cpu":
            end_team()  # that of loading: another thread may be the one that predicts

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        config: str | Path | Config | None = None,
        *,
        device: str | torch.device | None = None,
        options: RunOptions | None = None,
    ) -> TorchRuntime:
        """Opens a checkpoint and fuses its model for inference.

        Raises:
            WeightsError: missing, damaged, or without a configuration.
            UsageError: the device does not exist.
        """
        chosen = choose_device(device)
        return cls.of(open_detector(path, config), chosen, options)

    @classmethod
    def of(
        cls,
        loaded: LoadedDetector,
        device: str | torch.device = "cpu",
        options: RunOptions | None = None,
    ) -> TorchRuntime:
        """Fuses an opened detector for inference.

        Args:
            loaded: the detector.
            device: where it shall run.
            options: `half`, `compiled` and `threads` count.
        """
        options = options or RunOptions()
        options.set_threads()
        place = torch.device(device)
        model = loaded.model
        deployed = model.deploy(fold_norms=True) if isinstance(model, Detector) else model
        return cls(
            compiled(deployed, place) if options.compiled else deployed,
            build_postprocessor(loaded.config),
            loaded.class_map,
            loaded.image_spec,
            device=place,
            precision=half_precision(place) if options.half else None,
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

    def compute(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """`predict` without preprocessing, as far as an exported file goes.

        Args:
            images: (N, C, h, w) float32 as `ImageSpec.normalized` gives them.
            sizes: (N, 2) int64, (width, height) of the original images.
        """
        with torch.inference_mode():
            with self.precision.autocast(self.device):
                outputs = self.model(images.to(self.device))
            return self.postprocessor.postprocess(
                outputs, [(h, w) for w, h in sizes.tolist()], self.image_spec, self.class_map
            )


def half_precision(device: torch.device) -> Precision:
    """The 16 bits that a device computes in.

    Raises:
        UsageError: it is a CPU that computes in none: float32 is faster there.
    """
    if device.type != "cpu":
        return Precision("fp16")
    if not cpu_computes_bf16():
        raise UsageError("half precision: this processor does not compute in bf16")
    return Precision("bf16")


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """The model as PyTorch compiles it for the first image that it gets.

    With constant weights (`freezing`) its compiler puts them into the layout that it wants.

    Args:
        model: deployed.
        device: where it will run.

    Raises:
        UsageError: there is no compiler.
    """
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except RuntimeError as error:
            raise UsageError(
                "compiling a model needs a C++ compiler, and PyTorch finds none",
                hint="install g++ or clang, or leave out --compile",
            ) from error
    # a module becomes a module; its annotation says a function
    return torch.compile(model, options={"freezing": True})  # type: ignore[return-value]


def resized_batch(spec: ImageSpec, images: Sequence[Tensor]) -> Tensor:
    """Images (C, H, W) of any sizes -> (B, C, h, w) on the CPU, all of one type.

    As uint8 there is a quarter of the bytes to move. Resizing leaves Python's lock, so several
    images are resized in threads.

    Raises:
        DataError: an image has another form or number of channels than the model takes.
    """
    for image in images:
        if image.ndim != 3 or len(image) != spec.in_channels or not image.numel():
            raise DataError(
                f"an image of the form {tuple(image.shape)}: the detector takes "
                f"({spec.in_channels}, height, width)"
            )
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
