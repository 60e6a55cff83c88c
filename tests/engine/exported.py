"""Small exported files of every kind, for the tests of what runs them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.engine.runtime import TorchRuntime
from detrkit.export.metadata import KEY, Metadata
from detrkit.models.postprocess import PostProcessor
from detrkit.structures import ImageSpec
from tests.engine.bright import CLASSES, SPEC

NAMES = ["images", "orig_target_sizes"]
POSTPROCESSOR = PostProcessor(num_classes=len(CLASSES), num_top_queries=30)
ANSWERS = ["labels", "boxes", "scores"]


class SmallNet(nn.Module):
    """24 queries on a picture of 64×96, each of which sees an own part of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 16, stride=16)
        self.scores, self.boxes = nn.Linear(8, len(CLASSES)), nn.Linear(8, 4)

    def forward(self, images: Tensor, targets: Any = None) -> dict[str, Tensor]:
        queries = self.stem(images).relu().flatten(2).transpose(1, 2)  # (B, 24, 8)
        return {"pred_logits": self.scores(queries), "pred_boxes": self.boxes(queries).sigmoid()}


class Exportable(nn.Module):
    """images, orig_target_sizes -> labels, boxes_xyxy in pixels, scores."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.postprocessor = SmallNet(), POSTPROCESSOR

    def forward(self, images: Tensor, orig_target_sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = self.model(images)
        labels, boxes, scores = self.postprocessor(outputs["pred_logits"], outputs["pred_boxes"])
        centre, extent = boxes.split(2, dim=-1)
        corners = torch.cat([centre - extent / 2, centre + extent / 2], dim=-1)
        return labels, corners * orig_target_sizes.repeat(1, 2).float()[:, None], scores


def torch_runtime(spec: ImageSpec = SPEC) -> TorchRuntime:
    """What the exported files are held against."""
    return TorchRuntime(SmallNet(), POSTPROCESSOR, CLASSES, spec)


def metadata(spec: ImageSpec = SPEC) -> Metadata:
    """What the exported files say of themselves."""
    return Metadata(spec, CLASSES)


def example(batch: int = 2) -> tuple[Tensor, Tensor]:
    """Inputs to trace with."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 3, *SPEC.size, generator=generator), torch.tensor([[90, 60]] * batch)


def write_onnx(path: Path, about: Metadata | None, batch: int | None = None) -> Path:
    """An ONNX file; batch None: any."""
    import onnx

    free = None if batch else {name: {0: "N"} for name in [*NAMES, *ANSWERS]}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Exportable(), example(batch or 2), str(path), input_names=NAMES,
            output_names=ANSWERS, dynamic_axes=free, opset_version=17, dynamo=False,
        )  # fmt: skip
    if about is not None:
        model = onnx.load(str(path))
        model.metadata_props.add(key=KEY, value=about.to_json())
        onnx.save(model, str(path))
    return path


def write_openvino(path: Path, onnx_file: Path, about: Metadata | None) -> Path:
    """OpenVINO's `.xml` and `.bin`."""
    import openvino

    model = openvino.convert_model(str(onnx_file))
    if about is not None:
        model.set_rt_info(about.to_json(), KEY)
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return path


def write_script(path: Path, about: Metadata | None) -> Path:
    """TorchScript."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Exportable(), example(), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files=_extra(about))
    return path


def write_exported(path: Path, about: Metadata | None) -> Path:
    """torch.export's file, of any batch."""
    batch = {0: torch.export.Dim("batch")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(Exportable(), example(), dynamic_shapes=(batch, batch))
        torch.export.save(program, str(path), extra_files=_extra(about))
    return path


def _extra(about: Metadata | None) -> dict[str, str]:
    return {} if about is None else {KEY: about.to_json()}
