"""Runs `.onnx` files: detrkit's, which describe themselves, and those of the authors' exporters.

The authors' files say nothing about themselves. What is needed is read off the graph: the input
size from the shape of `images`, the number of classes from the score heads, the kind of backbone
from the names of the layers. DEIMv2's ViTs want ImageNet's mean and deviation removed.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from detrkit.engine.artefact_runtime import (
    INPUTS,
    OUTPUTS,
    Answer,
    ArtefactRuntime,
    Opened,
    check_names,
    read_metadata,
)
from detrkit.engine.known_classes import coco_classes, known_class_map, known_name
from detrkit.engine.layerwise.onnx_nodes import NodeTime, time_nodes
from detrkit.engine.runtime import RunOptions, choose_device
from detrkit.engine.state_names import is_class_rows
from detrkit.errors import MissingExtraError, UsageError, WeightsError, did_you_mean
from detrkit.export.metadata import KEY
from detrkit.structures import ClassMap, ImageSpec

if TYPE_CHECKING:
    import onnx

log = logging.getLogger("detrkit")

#: Mean and deviation of ImageNet's colours, which DINOv3 was trained with.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

#: `--provider` -> ONNX Runtime's name, and the package that has it.
PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "onnxruntime"),
    "cuda": ("CUDAExecutionProvider", "onnxruntime-gpu"),
    "tensorrt": ("TensorrtExecutionProvider", "onnxruntime-gpu"),
    "openvino": ("OpenVINOExecutionProvider", "onnxruntime-openvino"),
    "directml": ("DmlExecutionProvider", "onnxruntime-directml"),
    "coreml": ("CoreMLExecutionProvider", "onnxruntime"),
}


class OnnxRuntime(ArtefactRuntime):
    """A detector in ONNX Runtime, on "cpu" or "cuda:N"; the number format is the file's.

    By default on CUDA where this ONNX Runtime and the machine have it. Where it lacks the provider
    that is asked for, `MissingExtraError` names the package that has it.
    """

    takes = ("threads", "provider")

    def _open(self, device: str | torch.device | None, options: RunOptions) -> Opened:
        path = self.path
        provider, place = _provider(device, options.provider)
        self.name = f"ONNX Runtime, {provider}"
        self._new_session = partial(_session, path, provider, place, options.threads)
        self.session = self._new_session()
        inputs = self.session.get_inputs()
        shapes = {node.name: node.shape for node in inputs}
        check_names(path, shapes, [node.name for node in self.session.get_outputs()])
        self._types = {node.name: _NUMPY.get(node.type) for node in inputs}
        return Opened(
            place,
            [n if isinstance(n, int) else None for n in shapes["images"]],
            read_metadata(self.session.get_modelmeta().custom_metadata_map, KEY, path),
        )

    def compute(self, images: Tensor, sizes: Tensor) -> Answer:
        return self._compute(self.session, images, sizes)

    def timed_nodes(self, batch: int, passes: int) -> list[NodeTime]:
        """How long the nodes of the file take, in a session of its own, on random images.

        Args:
            batch: images of a pass.
            passes: that count.
        """
        h, w = self.image_spec.size
        images = torch.rand(batch, self.image_spec.in_channels, h, w)
        sizes = torch.tensor([[w, h]] * batch)
        return time_nodes(
            self._new_session, lambda session: self._compute(session, images, sizes), passes=passes
        )

    def _compute(self, session: Any, images: Tensor, sizes: Tensor) -> Answer:
        given = {
            name: value.numpy().astype(self._types[name], copy=False)
            for name, value in zip(INPUTS, (images, sizes), strict=True)
        }
        labels, boxes, scores = session.run(list(OUTPUTS), given)
        return labels, boxes, scores

    def _undescribed(self, size: tuple[int, int], channels: int) -> tuple[ImageSpec, ClassMap]:
        import onnx

        path = self.path
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


_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


def _provider(device: str | torch.device | None, asked: str | None) -> tuple[str, torch.device]:
    """The short name of the provider, and where its inputs are."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    if asked is not None and asked not in PROVIDERS:
        raise UsageError(
            f"no provider `{asked}` of ONNX Runtime{did_you_mean(asked, PROVIDERS)}",
            hint=f"there are: {', '.join(PROVIDERS)}",
        )
    on_gpu = asked in ("cuda", "tensorrt")
    if device is None and asked is None:  # what this ONNX Runtime can use, not what torch can
        usable = PROVIDERS["cuda"][0] in available and torch.cuda.is_available()
        device = "cuda" if usable else "cpu"
    place = choose_device(device or ("cuda" if on_gpu else "cpu"))
    if place.type not in ("cpu", "cuda"):
        raise UsageError(
            f"ONNX Runtime does not run on `{place}`", hint="--device cpu, or --provider coreml"
        )
    if on_gpu and place.type != "cuda":
        raise UsageError(f"the provider {asked} runs on GPUs, not on `{place}`")
    short = asked or ("cuda" if place.type == "cuda" else "cpu")
    name, package = PROVIDERS[short]
    if name not in available:
        raise MissingExtraError(package, None, f"the provider {short} of ONNX Runtime")
    return short, place


def _session(
    path: Path, provider: str, place: torch.device, threads: int | None, options: Any = None
) -> Any:
    import onnxruntime

    options = options or onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    settings = {"device_id": place.index or 0} if place.type == "cuda" else {}
    wanted = [(PROVIDERS[provider][0], settings)]
    if provider == "tensorrt":  # what it cannot compute
        wanted.append((PROVIDERS["cuda"][0], settings))
    if provider != "cpu":
        wanted.append((PROVIDERS["cpu"][0], {}))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # its errors have no base class of their own
        raise WeightsError(
            f"{path} is damaged or not a model that ONNX Runtime {onnxruntime.__version__} runs: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if session.get_providers()[0] != wanted[0][0]:  # it only warns where libraries are missing
        raise UsageError(
            f"ONNX Runtime could not start its provider {provider}",
            hint="its log above names the library that is missing",
        )
    return session


def _class_count(graph: onnx.GraphProto) -> int | None:
    """Rows of the score heads, where their names survived the export."""
    for tensor in graph.initializer:
        if tensor.name.endswith("bias") and is_class_rows(tensor.name):
            return int(tensor.dims[0])
    return None
