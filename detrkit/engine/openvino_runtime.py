"""Runs OpenVINO's `.xml` and the `.bin` beside it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrkit.engine.artefact_runtime import (
    INPUTS,
    OUTPUTS,
    Answer,
    ArtefactRuntime,
    Opened,
    check_names,
)
from detrkit.engine.runtime import RunOptions, half_precision
from detrkit.errors import MissingExtraError, UsageError, WeightsError
from detrkit.export.metadata import KEY, Metadata

#: The processor, which is where torch is as well.
CPU = torch.device("cpu")


class OpenVinoRuntime(ArtefactRuntime):
    """A detector in OpenVINO.

    `device` is the CPU; the provider is OpenVINO's device: "cpu", "gpu", "npu", "auto". It computes
    in float32 unless `half` is asked for; OpenVINO's own default is bf16 on processors that have
    it.
    """

    takes = ("half", "threads", "provider")

    def _open(self, device: str | torch.device | None, options: RunOptions) -> Opened:
        path = self.path
        if not path.with_suffix(".bin").is_file():
            raise WeightsError(
                f"{path} has no weights: {path.with_suffix('.bin').name} is not beside it",
                hint="OpenVINO's .xml and .bin belong together",
            )
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", "openvino", "running .xml files") from error
        if device is not None and str(device) != "cpu":
            raise UsageError(
                f"OpenVINO does not run on `{device}`", hint="--device cpu, or --provider gpu"
            )
        core = openvino.Core()
        place = _place(core.available_devices, options.provider)
        try:
            model = core.read_model(str(path))
        except RuntimeError as error:
            raise _damaged(path, error) from error
        check_names(
            path,
            [_name(node, INPUTS) for node in model.inputs],
            [_name(node, OUTPUTS) for node in model.outputs],
        )
        shape = model.input("images").partial_shape
        said = model.get_rt_info(KEY).astype(str) if model.has_rt_info(KEY) else ""
        metadata = Metadata.from_json(said, str(path)) if said else None
        lengths = [int(n.get_length()) if n.is_static else None for n in shape]
        try:
            self.model = core.compile_model(model, place, _settings(place, options))
        except RuntimeError as error:
            raise _damaged(path, error) from error
        self.name = f"OpenVINO, {place.lower()}"
        self._own = threading.local()  # a request computes one batch at a time
        half = "bf16" if place == "CPU" else "fp16"
        return Opened(CPU, lengths, metadata, half if options.half else None)

    def compute(self, images: Tensor, sizes: Tensor) -> Answer:
        request = getattr(self._own, "request", None)
        if request is None:
            request = self._own.request = self.model.create_infer_request()
        found = request.infer(dict(zip(INPUTS, (images.numpy(), sizes.numpy()), strict=True)))
        # the request's own memory, which the next call writes into
        labels, boxes, scores = (found[self.model.output(name)].copy() for name in OUTPUTS)
        return labels, boxes, scores


def _place(available: list[str], asked: str | None) -> str:
    """OpenVINO's name of a device."""
    wanted = (asked or "cpu").upper()
    if wanted != "AUTO" and wanted.partition(".")[0] not in {
        name.partition(".")[0] for name in available
    }:
        raise UsageError(
            f"OpenVINO finds no device `{asked}`",
            hint=f"there is: {', '.join(name.lower() for name in available)}",
        )
    return wanted


def _settings(place: str, options: RunOptions) -> dict[str, Any]:
    """What is asked of the device."""
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if place == "CPU":
        low = options.half and half_precision(CPU).amp == "bf16"
        settings["INFERENCE_PRECISION_HINT"] = "bf16" if low else "f32"
        if options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = options.threads
    elif place != "AUTO":
        settings["INFERENCE_PRECISION_HINT"] = "f16" if options.half else "f32"
    return settings


def _name(node: Any, known: tuple[str, ...]) -> str:
    """The name of an input or output that a detector has, else any."""
    names = node.get_names()
    return next((name for name in known if name in names), min(names, default="?"))


def _damaged(path: Path, error: RuntimeError) -> WeightsError:
    import openvino

    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return WeightsError(
        f"{path} is damaged or not a model that OpenVINO {openvino.__version__} runs: "
        f"{lines[-1] if lines else error}"
    )
