"""Runs what PyTorch exports: TorchScript (`.torchscript`, `.ts`) and torch.export (`.pt2`).

Both are programs: like every program, open only those that you trust.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detrkit.engine.allocator import keep_freed_memory
from detrkit.engine.artefact_runtime import (
    Answer,
    ArtefactRuntime,
    Opened,
    Shape,
    read_metadata,
)
from detrkit.engine.openmp import end_team
from detrkit.engine.runtime import RunOptions, choose_device
from detrkit.errors import WeightsError
from detrkit.export.metadata import KEY, Metadata

Program = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class ProgramRuntime(ArtefactRuntime):
    """A detector that detrkit exported as a program of PyTorch's, in the file's number format."""

    takes = ("threads",)
    takes_device_tensors = True

    def _open(self, device: str | torch.device | None, options: RunOptions) -> Opened:
        path = self.path
        options.set_threads()
        place = choose_device(device)
        if place.type == "cpu":
            keep_freed_memory()
        exported = path.suffix.lower() == ".pt2"
        self.name = "torch.export" if exported else "TorchScript"
        read = _read_exported if exported else _read_script
        try:
            self.program, shape, metadata = read(path, place)
        except WeightsError:
            raise
        except Exception as error:  # whatever a damaged archive leads to
            raise WeightsError(
                f"{path} is damaged or not a program that PyTorch {torch.__version__} runs: "
                f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error)}"
            ) from error
        if shape is None:  # a trace does not tell; what it was traced with is sure to work
            shape = (None, None, *metadata.image_spec.size)
        end_team()  # that of loading: another thread may be the one that predicts
        return Opened(place, shape, metadata)

    def compute(self, images: Tensor, sizes: Tensor) -> Answer:
        with torch.inference_mode():
            found = self.program(images.to(self.device), sizes.to(self.device))
        labels, boxes, scores = (value.cpu() for value in found)
        return labels.numpy(), boxes.float().numpy(), scores.float().numpy()


_Read = tuple[Program, Shape | None, Metadata]


def _read_script(path: Path, device: torch.device) -> _Read:
    extra: dict[str, Any] = {KEY: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and still what C++ loads
        program = torch.jit.load(str(path), map_location=device, _extra_files=extra)
    return program.eval(), None, _described(path, extra)


def _read_exported(path: Path, device: torch.device) -> _Read:
    extra: dict[str, Any] = {KEY: ""}
    exported = torch.export.load(str(path), extra_files=extra)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        exported = move_to_device_pass(exported, device)
    users = exported.graph_signature.user_inputs
    placeholders = {n.name: n.meta["val"] for n in exported.graph.nodes if n.op == "placeholder"}
    images = placeholders[str(users[0])]
    shape = [n if isinstance(n, int) else None for n in images.shape]
    return exported.module(), shape, _described(path, extra)


def _described(path: Path, extra: dict[str, Any]) -> Metadata:
    metadata = read_metadata(extra, KEY, path)
    if metadata is None:
        raise WeightsError(
            f"{path} was not exported by detrkit: it does not say how pictures enter it",
            hint="export the checkpoint with `detrkit export`, or use the checkpoint itself",
        )
    return metadata
