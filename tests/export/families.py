"""One small detector of each family, with weights that are random in every tensor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor

from detrkit.config import load_config
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.parts import build_model, build_postprocessor, image_spec_of
from detrkit.export.graph import DetectionGraph
from detrkit.models.detector import Detector
from detrkit.models.postprocess import PostProcessor
from detrkit.structures import ClassMap
from tests.engine.lively import enliven

#: (h, w): not square, and not the size of the configs.
SIZE = (64, 96)
CLASSES = ClassMap(("cat", "猫", "dog"), (4, 9, 2))

_DECODERS = {
    "rtdetrv2": "RTDETRTransformerv2",
    "dfine": "DFINETransformer",
    "deim": "DFINETransformer",
    "deimv2_hgnet": "DEIMTransformer",
    "deimv2_vit": "DEIMTransformer",
}
_CONFIGS = {
    "rtdetrv2": "rtdetrv2_r18vd_120e_coco",
    "dfine": "dfine_hgnetv2_n_coco",
    "deim": "deim_hgnetv2_n_coco",
    "deimv2_hgnet": "deimv2_hgnetv2_atto_coco",
    "deimv2_vit": "deimv2_dinov3_s_coco",
}
FAMILIES = tuple(_CONFIGS)


@dataclass(frozen=True)
class Family:
    """A detector, its postprocessor and a checkpoint of both."""

    detector: Detector
    postprocessor: PostProcessor
    checkpoint: Checkpoint

    def graph(self, raw: bool = False) -> DetectionGraph:
        """What an exported file must answer, of the detector as it was trained."""
        return DetectionGraph(self.detector, None if raw else self.postprocessor).eval()

    def save(self, path: Path) -> Path:
        self.checkpoint.save(path)
        return path


@cache
def family(name: str, *more: str) -> Family:
    """The small model; `more` are `--update` values."""
    decoder = _DECODERS[name]
    update = [
        f"num_classes={len(CLASSES)}",
        f"{decoder}.num_queries=10",
        f"{decoder}.num_layers=2",
        f"{decoder}.eval_idx=-1",
        "num_top_queries=20",
    ]
    if name in ("dfine", "deim"):  # the smallest backbone: each node takes its time to export
        update += [
            "HGNetv2.name=Atto",
            "HGNetv2.return_idx=[1,2]",
            "HybridEncoder.in_channels=[256,256]",
            "HybridEncoder.feat_strides=[8,16]",
            "DFINETransformer.feat_strides=[8,16]",
        ]
    if name == "deimv2_vit":
        update += ["DINOv3STAs.interaction_indexes=[0,1,2]"]
    cfg = load_config(_CONFIGS[name], update=[*update, *more], overrides={"image_size": list(SIZE)})
    model = enliven(build_model(cfg, seed=0)).eval()
    postprocessor = build_postprocessor(cfg)
    assert isinstance(model, Detector)
    assert isinstance(postprocessor, PostProcessor)
    checkpoint = Checkpoint(
        model=model.state_dict(),
        config=cfg.tree,
        config_name=cfg.name,
        class_map=CLASSES,
        image_spec=image_spec_of(cfg),
    )
    return Family(model, postprocessor, checkpoint)


def inputs(batch: int, size: tuple[int, int] = SIZE, channels: int = 3) -> tuple[Tensor, Tensor]:
    """`images` with structure, and `orig_target_sizes` that differ."""
    generator = torch.Generator().manual_seed(batch)
    coarse = torch.rand(batch, channels, size[0] // 8, size[1] // 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")
    sizes = torch.tensor([[640 + 10 * i, 480 - 7 * i] for i in range(batch)])
    return images, sizes


def shapes(values: Any) -> dict[str, list[int | str]]:
    """Inputs or outputs of an ONNX graph, by name; an open dimension is its name."""
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in values
    }


def run_onnx(model: Any, *given: Tensor) -> list[npt.NDArray[Any]]:
    """The outputs of a model in memory."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [node.name for node in session.get_inputs()]
    answer: list[npt.NDArray[Any]] = session.run(
        None, {name: value.numpy() for name, value in zip(names, given, strict=True)}
    )
    return answer


def assert_same(given: Any, wanted: Any, *, pixels: float = 0.05, score: float = 1e-4) -> None:
    """Labels, boxes and scores of two answers."""
    labels, boxes, scores = (np.asarray(value) for value in given)
    expected = [np.asarray(value) for value in wanted]
    np.testing.assert_allclose(scores, expected[2], atol=score)
    np.testing.assert_array_equal(labels, expected[0])
    np.testing.assert_allclose(boxes, expected[1], atol=pixels)
