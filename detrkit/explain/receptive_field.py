"""Effective receptive fields: which pixels a layer's central cell depends on.

    P = mean over images of  sum over channels of  relu(d sum_c F_c(centre) / d input)

F is the layer's map. Luo et al., NeurIPS 2016, arXiv:1701.04128; as measured for RepLKNet, Ding et
al., CVPR 2022, arXiv:2203.06717: the share r of the input's area that the smallest rectangle around
the centre takes which has 20, 30, 50 and 99 % of log10(P + 1). That number depends on the scale of
P, so the same for P itself stands beside it. As there, the centre is that of the input; that of the
central cell is up to half a cell off where the sides of the map are even.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import Runtime
from detrkit.errors import UsageError
from detrkit.explain.attention import prefix_of
from detrkit.explain.cam import map_of
from detrkit.explain.drawn import Drawn
from detrkit.explain.layers import Recorder, network, torch_runtime
from detrkit.explain.maps import choose_maps
from detrkit.explain.numbers import write_csv, write_npz
from detrkit.explain.opened import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Shares of the whole that RepLKNet's table gives rectangles for.
THRESHOLDS = (0.2, 0.3, 0.5, 0.99)


@dataclass(frozen=True)
class Rectangle:
    """The smallest part around the input's centre with a share of the contributions.

    Attributes:
        threshold: that share.
        side: its sides by those of the input, whose shape it has.
        area: its area by that of the input: RepLKNet's r.
    """

    threshold: float
    side: float
    area: float


@dataclass(frozen=True)
class ReceptiveField:
    """That of one layer.

    Attributes:
        layer: its name.
        shape: (h, w) of its map.
        contributions: P, (H, W) of the input, at least 0.
    """

    layer: str
    shape: tuple[int, int]
    contributions: Array

    @property
    def logarithmic(self) -> Array:
        """log10(P + 1), divided by its largest value."""
        values = np.log10(self.contributions.astype(np.float64) + 1)
        largest = values.max(initial=0)
        result: Array = (values / largest if largest > 0 else values).astype(np.float32)
        return result

    def rectangles(
        self, thresholds: Sequence[float] = THRESHOLDS, *, logarithmic: bool = True
    ) -> list[Rectangle]:
        """The smallest rectangles; empty where nothing contributes."""
        values = self.logarithmic if logarithmic else self.contributions
        return centred_rectangles(values, thresholds)


@dataclass(frozen=True)
class ReceptiveFields(Drawn):
    """Those of several layers, over the same images.

    Attributes:
        fields: of each layer.
        images: how many.
        kind: "noise" or "pictures".
    """

    fields: tuple[ReceptiveField, ...]
    images: int
    kind: str

    def figure(self, width: str | float = "page") -> Figure:
        """A panel for each layer, with the rectangles of the thresholds."""
        from detrkit.explain.figures.receptive_field import draw

        return draw(self, width)

    def rows(self) -> list[dict[str, Any]]:
        """The table: each layer, threshold and scale."""
        return [
            {
                "layer": field.layer,
                "values": "log10(P + 1)" if logarithmic else "P",
                "threshold": part.threshold,
                "side_share": round(part.side, 4),
                "area_share": round(part.area, 4),
            }
            for field in self.fields
            for logarithmic in (True, False)
            for part in field.rectangles(logarithmic=logarithmic)
        ]

    def save_table(self, path: str | Path) -> Path:
        """Writes `rows` as `.csv`."""
        return write_csv(Path(path), self.rows())

    def save_numbers(self, path: str | Path) -> Path:
        """Writes P of each layer by its name as `.npz`."""
        return write_npz(Path(path), {f.layer: f.contributions for f in self.fields})

    def to_dict(self) -> dict[str, Any]:
        """The table, for JSON."""
        measured = {"images": self.images, "kind": self.kind}
        return {"measured_on": measured, "rectangles": self.rows()}


def centred_rectangles(values: Array, thresholds: Sequence[float]) -> list[Rectangle]:
    """The smallest parts around the centre that have at least a share of the sum.

    They grow with the shape of the whole, so their area's share is the square of their side's.

    Args:
        values: (H, W), at least 0.
        thresholds: between 0 and 1, rising.
    """
    height, width = values.shape
    total = float(values.sum(dtype=np.float64))
    if total <= 0:
        return []
    # the part that reaches a pixel's far corner, as a share of the side
    y = 2 * np.abs((np.arange(height) + 0.5) / height - 0.5) + 1 / height
    x = 2 * np.abs((np.arange(width) + 0.5) / width - 0.5) + 1 / width
    reach = np.maximum(y[:, None], x[None])
    order = np.argsort(reach, axis=None, kind="stable")
    summed = np.cumsum(values.ravel()[order], dtype=np.float64) / total
    last = np.searchsorted(summed, np.asarray(thresholds) - 1e-9).clip(max=len(order) - 1)
    sides = reach.ravel()[order[last]].tolist()
    return [Rectangle(t, side, side**2) for t, side in zip(thresholds, sides, strict=True)]


def receptive_field(
    detector: Predictor | Runtime,
    images: Iterable[Tensor] | int = 20,
    *,
    layers: Sequence[str] = ("backbone", "encoder"),
    seed: int = 0,
) -> ReceptiveFields:
    """Effective receptive fields of layers.

    Args:
        detector: a checkpoint's, by `detrkit.load`.
        images: inputs (1, C, h, w), such as `open_picture(detector, path).input`; or how many of
            normal noise.
        layers: names, patterns or short forms (`detrkit.explain.layers.choose`) of feature maps or
            of tokens.
        seed: of the noise.

    Raises:
        UsageError: an exported file; an unknown layer; one that is no map; no images.
    """
    chosen = [layer.name for layer in choose_maps(detector, layers)]
    model = network(detector)
    kind = "noise" if isinstance(images, int) else "pictures"
    given = _noise(detector, images, seed) if isinstance(images, int) else images
    sums: dict[str, Tensor] = {}
    shapes: dict[str, tuple[int, int]] = {}
    count = 0
    for image in given:
        count += 1
        for name, shape, part in _contributions(model, image, chosen):
            shapes[name] = shape
            sums[name] = sums[name] + part if name in sums else part
    if not count:
        raise UsageError("no images to measure receptive fields on")
    fields = [
        ReceptiveField(name, shapes[name], (sums[name] / count).float().numpy()) for name in chosen
    ]
    return ReceptiveFields(tuple(fields), count, kind)


def _noise(detector: Predictor | Runtime, count: int, seed: int) -> Iterable[Tensor]:
    runtime = torch_runtime(detector)
    spec = runtime.image_spec
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        image = torch.randn(1, spec.in_channels, *spec.size, generator=generator)
        yield image.to(runtime.device)


def _contributions(
    model: nn.Module, image: Tensor, layers: Sequence[str]
) -> Iterable[tuple[str, tuple[int, int], Tensor]]:
    """Of each layer its (h, w), and relu of the derivative summed over channels, (H, W)."""
    image = image.detach().requires_grad_()
    size = (image.shape[-2], image.shape[-1])
    with torch.enable_grad(), Recorder(model, layers) as recorded:
        model(image)
        for name in layers:
            values = map_of(name, recorded[name].float(), size, prefix_of(model))
            _, h, w = values.shape
            (slope,) = torch.autograd.grad(
                values[:, h // 2, w // 2].sum(), image, retain_graph=True, allow_unused=True
            )
            if slope is None:
                slope = torch.zeros_like(image)
            yield name, (h, w), slope[0].relu().sum(0).cpu().double()
