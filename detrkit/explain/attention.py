"""Where attention goes: rollout over the image's tokens, and what a detection's query samples.

The model runs as it always does. Hooks take what came into its attention modules, and the modules'
own `heads` and `sampling` give the weights once more; nothing is computed otherwise.

Shape legend: M heads, N tokens, P points of all levels, L levels, D detections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.engine.predictor import DEFAULT_SCORE, Predictor
from detrkit.engine.runtime import Runtime
from detrkit.engine.sources import Source
from detrkit.errors import UsageError
from detrkit.explain.cam import grid_of
from detrkit.explain.drawn import Drawn
from detrkit.explain.layers import network
from detrkit.explain.numbers import write_npz
from detrkit.explain.opened import Array, Opened, opened
from detrkit.explain.reply import ask, detection_arrays
from detrkit.layers.attention import SelfAttention
from detrkit.layers.deformable import MSDeformableAttention
from detrkit.layers.vit import RotaryAttention
from detrkit.models.backbones.vit import VisionTransformer
from detrkit.ops.deformable import SamplingMethod, deformable_attention
from detrkit.structures import Detections

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rollout(weights: Sequence[Tensor]) -> Tensor:
    """How much of each token of the image is in each token behind the last layer.

        R = A_L … A_2 A_1,   A_l = (W_l + I) / 2        Abnar & Zuidema, ACL 2020, arXiv:2005.00928

    W_l is the mean over the heads; I stands for the shortcut.

    Args:
        weights: (M, N, N) of each layer, first to last; rows sum to one.

    Returns:
        (N, N); rows sum to one.
    """
    result = torch.eye(weights[0].shape[-1], dtype=torch.float64)
    for layer in weights:
        mixed = layer.double().cpu().mean(0)
        result = (mixed + torch.eye(len(mixed), dtype=torch.float64)) / 2 @ result
    return result.float()


def prefix_of(model: nn.Module) -> int:
    """How many tokens stand before those of the image in a model's vision transformer; else 0."""
    transformers = (m for m in model.modules() if isinstance(m, VisionTransformer))
    return next((m.prefix().shape[1] for m in transformers), 0)


@dataclass(frozen=True)
class TokenAttention:
    """Self-attention among the places of an image, of one part of a detector.

    Attributes:
        part: "backbone" (a vision transformer) or "encoder" (AIFI).
        weights: (M, N, N) of each layer, first to last.
        grid: (h, w) of the tokens; N is h·w and the tokens before them.
        prefix: how many these are.
    """

    part: str
    weights: tuple[Tensor, ...]
    grid: tuple[int, int]
    prefix: int = 0

    def received(self, boxes: npt.NDArray[Any] | None = None) -> Tensor:
        """How much of each place there is in the tokens of some boxes, by `rollout`, (h, w).

        Args:
            boxes: (D, 4) corners as fractions of the input; None: all tokens of the image. A box
                without the centre of a token means the token that its own centre lies in.
        """
        matrix = rollout(self.weights)[self.prefix :]
        rows = self._inside(boxes) if boxes is not None else slice(None)
        return matrix[rows].mean(0)[self.prefix :].reshape(self.grid)

    def _inside(self, boxes: npt.NDArray[Any]) -> Tensor:
        h, w = self.grid
        y, x = (np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w
        chosen = np.zeros((h, w), bool)
        for x1, y1, x2, y2 in boxes:
            inside = ((y >= y1) & (y <= y2))[:, None] & ((x >= x1) & (x <= x2))
            if not inside.any():
                row, column = (y1 + y2) / 2 * h, (x1 + x2) / 2 * w
                inside[int(np.clip(row, 0, h - 1)), int(np.clip(column, 0, w - 1))] = True
            chosen |= inside
        return torch.from_numpy(chosen.ravel())


class AttentionRecorder:
    """Notes what comes into the attention modules of a detector while it is entered.

    Args:
        model: a detector.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._tokens: dict[nn.Module, Tensor] = {}
        self._sampled: dict[nn.Module, tuple[Any, ...]] = {}

    @contextmanager
    def entered(self) -> Iterator[AttentionRecorder]:
        """Notes inside."""
        hooks = []
        for module in self.model.modules():
            if isinstance(module, SelfAttention | RotaryAttention):
                hooks.append(module.register_forward_pre_hook(self._note_tokens))
            elif isinstance(module, MSDeformableAttention):
                hooks.append(module.register_forward_pre_hook(self._note_sampling))
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _note_tokens(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, SelfAttention | RotaryAttention)
        with torch.no_grad():
            q, k, _ = module.heads(*inputs[:2])
            self._tokens[module] = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)[0]

    def _note_sampling(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._sampled[module] = inputs

    def tokens(self, part: str, size: tuple[int, int]) -> TokenAttention | None:
        """Self-attention among the places of the image; None where a part has none.

        Args:
            part: "backbone" or "encoder".
            size: (H, W) of the model's input.
        """
        root = getattr(self.model, part, None)
        if not isinstance(root, nn.Module):
            return None
        noted = [self._tokens[m] for m in root.modules() if m in self._tokens]
        prefix = prefix_of(root)
        # layers of several scales attend on each of them: the last one's
        noted = [weights for weights in noted if weights.shape == noted[-1].shape]
        grid = grid_of(noted[-1].shape[-1] - prefix, size) if noted else None
        return None if grid is None else TokenAttention(part, tuple(noted), grid, prefix)

    @torch.no_grad()
    def sampled(self, queries: npt.NDArray[np.int64]) -> tuple[Sampling, ...]:
        """What some queries sample in each layer of the decoder, first to last."""
        found = []
        for name, module in self.model.named_modules():
            if not isinstance(module, MSDeformableAttention) or module not in self._sampled:
                continue
            query, boxes, values = self._sampled[module][:3]
            locations, weights = module.sampling(query, boxes)
            rows = torch.from_numpy(queries).to(boxes.device)
            found.append(
                Sampling(
                    locations=locations[0, :, rows].transpose(0, 1).float().cpu(),
                    weights=weights[0, :, rows].transpose(0, 1).float().cpu(),
                    points=tuple(module.points),
                    shapes=tuple((v.shape[-2], v.shape[-1]) for v in values),
                    method=module.method,
                    name=name,
                )
            )
        return tuple(found)


@dataclass(frozen=True)
class Sampling:
    """Deformable cross-attention of some queries in one layer of the decoder.

    Attributes:
        locations: (D, M, P, 2), x then y, fractions of the input; the points of level 0 first.
        weights: (D, M, P), summing to one over P.
        points: how many of the P points belong to each level.
        shapes: (h, w) of the levels' maps.
        method: how points are read, see `detrkit.ops.deformable`.
        name: of the module.
    """

    locations: Tensor
    weights: Tensor
    points: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    method: SamplingMethod = "default"
    name: str = ""

    @property
    def levels(self) -> npt.NDArray[np.int64]:
        """(P,) the level of each point."""
        return np.repeat(np.arange(len(self.points)), self.points)

    def splat(self, detection: int) -> list[Tensor]:
        """How much each cell of each level counts, (h, w) each: heads' mean, at most 1 in all.

        The derivative of what the query reads by the maps it reads from, for maps of one channel:
        a point counts in the cells that it is interpolated from.
        """
        heads = self.weights.shape[1]
        with torch.enable_grad():
            values = [torch.zeros(heads, 1, *shape, requires_grad=True) for shape in self.shapes]
            read = deformable_attention(
                values,
                self.locations[detection][None, :, None],  # (1, M, 1, P, 2)
                self.weights[detection][None, :, None],
                self.points,
                self.method,
            )
            slopes = torch.autograd.grad(read.sum(), values)
        return [slope.sum((0, 1)) / heads for slope in slopes]

    def density(self, detection: int) -> Tensor:
        """Attention per area over the input, all levels together: (h, w) of the finest one."""
        finest = max(self.shapes)
        parts = [part[None, None] * part.numel() for part in self.splat(detection)]
        return torch.cat([F.interpolate(p, finest, mode="bilinear") for p in parts]).sum((0, 1))


@dataclass(frozen=True)
class CrossAttention(Drawn):
    """Where the queries of some detections look, layer by layer.

    Attributes:
        image: the picture.
        found: D detections, best first.
        queries: (D,) their queries.
        layers: of the decoder, those that answer, first to last.
    """

    image: Opened
    found: Detections
    queries: npt.NDArray[np.int64]
    layers: tuple[Sampling, ...] = field(default=())

    def density(self, layer: int, detection: int) -> Array:
        """Attention per area over the picture, (H, W), all levels together."""
        parts = self.layers[layer].splat(detection)
        return np.sum([self.image.map_back(p * p.numel()) for p in parts], axis=0, dtype=np.float32)

    def pixels(self, layer: int, detection: int) -> Array:
        """(M, P, 2) the sampling points in the picture's pixels."""
        return self.image.points_back(self.layers[layer].locations[detection])

    def figure(self, width: str | float = "page", *, detections: int = 4) -> Figure:
        """A row for each of the best detections, a column for each layer: points over density."""
        from detrkit.explain.figures.attention import draw

        return draw(self, width, detections)

    def save_numbers(self, path: str | Path) -> Path:
        """Writes `boxes_xyxy`, `scores`, `labels`, `queries`, `locations`, `weights`, `levels`.

        `locations` is (layers, D, M, P, 2) in pixels of the picture.
        """
        return write_npz(
            Path(path),
            {
                **detection_arrays(self.found),
                "queries": self.queries,
                "locations": np.stack([self.image.points_back(i.locations) for i in self.layers]),
                "weights": np.stack([layer.weights.numpy() for layer in self.layers]),
                "levels": self.layers[0].levels,
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Of each detection: what it is, and its attention per layer and level, for JSON."""
        return {
            "image": self.image.path,
            "detections": [
                {
                    "label": one.name,
                    "score": one.score,
                    "box_xyxy": list(one.box_xyxy),
                    "query": int(self.queries[i]),
                    "levels": [
                        [
                            float(layer.weights[i, :, layer.levels == level].sum(-1).mean())
                            for level in range(len(layer.points))
                        ]
                        for layer in self.layers
                    ],
                }
                for i, one in enumerate(self.found)
            ],
        }


def check_sampling(model: nn.Module) -> None:
    """Raises a UsageError where a model has no deformable attention."""
    if not any(isinstance(module, MSDeformableAttention) for module in model.modules()):
        raise UsageError("this decoder has no deformable attention: there are no points to draw")


def attention(
    detector: Predictor | Runtime,
    source: Source | Opened,
    *,
    conf: float = DEFAULT_SCORE,
    classes: Sequence[str | int] | None = None,
    max_det: int = 300,
    detections: Sequence[int] | None = None,
) -> CrossAttention:
    """Where in a picture the queries of its detections look.

    Args:
        detector: a checkpoint's, by `detrkit.load`.
        source: one image, as `detector.predict` takes it.
        conf: lowest score.
        classes: names or indices; None: all.
        max_det: at most so many detections.
        detections: only these of them, 0 the best.

    Raises:
        DataError: the image cannot be read.
        NoSuchDetection: fewer were found than one of `detections` says.
        UsageError: an exported file; a decoder without deformable attention; an unknown class.
    """
    model = network(detector)
    check_sampling(model)
    image = opened(detector, source)
    with AttentionRecorder(model).entered() as recorded:
        reply, _ = ask(detector, image, conf=conf, classes=classes, max_det=max_det)
    reply = reply.only(detections)
    return CrossAttention(image, reply.found, reply.queries, recorded.sampled(reply.queries))
