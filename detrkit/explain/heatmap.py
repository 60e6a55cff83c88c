"""Heat maps: which places of a picture make a detector answer as it does.

The explained number is the class logit of a detection's query, or an edge of its box; for the
whole image the sum over its detections. Queries are chosen from the encoder's maps without
gradient, so the maps show what the decoder reads there, not why a query was chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from detrkit.engine.predictor import DEFAULT_SCORE, Predictor
from detrkit.engine.runtime import Runtime
from detrkit.engine.sources import Source
from detrkit.errors import UsageError, did_you_mean
from detrkit.explain.attention import (
    AttentionRecorder,
    Sampling,
    TokenAttention,
    check_sampling,
    prefix_of,
)
from detrkit.explain.cam import METHODS, map_of
from detrkit.explain.drawn import Drawn
from detrkit.explain.layers import Recorder, network
from detrkit.explain.maps import choose_maps
from detrkit.explain.numbers import write_npz
from detrkit.explain.opened import Array, Opened, opened
from detrkit.explain.reply import Reply, ask, detection_arrays
from detrkit.structures import Detections

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Attention of the transformer in the backbone, or of the encoder's, instead of a layer's map.
ROLLOUT = "rollout"
#: What the queries of the detections sample in each layer of the decoder.
SAMPLED = "cross-attention"
#: What `method` takes.
ALL_METHODS = (*METHODS, ROLLOUT, SAMPLED)
#: What can be explained: the class, the whole box, or one of its edges.
EDGES = ("left", "top", "right", "bottom")
EXPLAINED = ("class", "box", *EDGES)


@dataclass(frozen=True)
class HeatMap:
    """One map over the plane of the detector's input.

    Attributes:
        method: of `ALL_METHODS`.
        layer: its name; the part's for `rollout`.
        detection: number of the detection, 0 the best; None: all together.
        values: (h, w) at least 0, in the layer's resolution. Their unit is the explained number's;
            they compare within a map.
    """

    method: str
    layer: str
    detection: int | None
    values: Array


@dataclass(frozen=True)
class HeatMaps(Drawn):
    """The maps of one picture.

    Attributes:
        image: the picture.
        found: N detections that the maps are about, best first.
        explained: of `EXPLAINED`.
        maps: for each detection, or for all together, each method and each layer.
    """

    image: Opened
    found: Detections
    explained: str
    maps: tuple[HeatMap, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """Those of the maps, in their order."""
        return tuple(dict.fromkeys(one.method for one in self.maps))

    @property
    def targets(self) -> tuple[int | None, ...]:
        """The detections that maps are about, in their order; None: all together."""
        return tuple(dict.fromkeys(one.detection for one in self.maps))

    def of(self, method: str, detection: int | None) -> list[HeatMap]:
        """The maps of all layers."""
        return [m for m in self.maps if (m.method, m.detection) == (method, detection)]

    def on_picture(self, method: str | None = None, detection: int | None = None) -> Array:
        """The maps of all layers as one over the picture, (H, W), 0–1.

        Each layer's map is divided by its largest value; the mean of them, too.

        Args:
            method: default the first.
            detection: as in `targets`.

        Raises:
            UsageError: there is no such map.
        """
        maps = self.of(method or self.methods[0] if self.maps else "", detection)
        if not maps:
            raise UsageError(
                "there is no such heat map: nothing was found, or it was not asked for"
            )
        parts = [one_at_most(self.image.map_back(m.values)) for m in maps]
        return one_at_most(np.mean(parts, axis=0, dtype=np.float32))

    def figure(self, width: str | float = "page", *, per_layer: bool = False) -> Figure:
        """The picture with its detections, and the maps over it.

        A row for each target, a column for each method; `per_layer`: and for each layer.
        """
        from detrkit.explain.figures.heatmap import draw

        return draw(self, width, per_layer)

    def save_numbers(self, path: str | Path) -> Path:
        """Writes `boxes_xyxy`, `scores`, `labels`, and each map as `method/layer/detection`."""
        named = {
            f"{m.method}/{m.layer}/{'all' if m.detection is None else m.detection}": m.values
            for m in self.maps
        }
        return write_npz(Path(path), {**detection_arrays(self.found), **named})

    def to_dict(self) -> dict[str, Any]:
        """Detections, and of each map where its mass lies, for JSON."""
        return {
            "image": self.image.path,
            "explained": self.explained,
            "detections": self.found.to_dict()["detections"],
            "maps": [self._summary(one) for one in self.maps],
        }

    def _summary(self, one: HeatMap) -> dict[str, Any]:
        rows = range(len(self.found)) if one.detection is None else [one.detection]
        boxes = [self.found.boxes_xyxy[i] for i in rows]
        values = self.image.map_back(one.values)
        row, column = np.unravel_index(int(values.argmax()), values.shape)
        return {
            "method": one.method,
            "layer": one.layer,
            "detection": one.detection,
            "largest": float(one.values.max()),
            "at": [int(column), int(row)],
            **share_inside(values, boxes),
        }


def share_inside(values: Array, boxes_xyxy: Sequence[Any]) -> dict[str, float | None]:
    """How much of a map lies in boxes: the energy-based pointing game, arXiv:1910.01279, sec. 4.3.

    Args:
        values: (H, W), at least 0.
        boxes_xyxy: in its pixels; overlaps count once.

    Returns:
        "inside": share of the sum, None of a map of zeros; "area": share of the pixels.
    """
    inside = np.zeros(values.shape, bool)
    for x1, y1, x2, y2 in boxes_xyxy:
        top, left = max(round(float(y1)), 0), max(round(float(x1)), 0)
        inside[top : max(round(float(y2)), 0), left : max(round(float(x2)), 0)] = True
    total = float(values.sum(dtype=np.float64))
    share = float(values[inside].sum(dtype=np.float64)) / total if total > 0 else None
    return {"inside": share, "area": float(inside.mean())}


def one_at_most(values: Array) -> Array:
    """Divided by the largest value; zeros stay."""
    largest = values.max(initial=0)
    return values / largest if largest > 0 else values


def heatmap(
    detector: Predictor | Runtime,
    source: Source | Opened,
    *,
    method: str | Sequence[str] = "layercam",
    layers: Sequence[str] | None = None,
    explained: str = "class",
    each: bool = False,
    detections: Sequence[int] | None = None,
    conf: float = DEFAULT_SCORE,
    classes: Sequence[str | int] | None = None,
    max_det: int = 300,
) -> HeatMaps:
    """Heat maps of one picture.

    Args:
        detector: a checkpoint's, by `detrkit.load`.
        source: one image, as `detector.predict` takes it.
        method: one or several of `ALL_METHODS`.
        layers: names, patterns or short forms (`detrkit.explain.layers.choose`) of feature maps or
            of tokens; default what leaves the encoder. For `rollout` the part, "backbone" or
            "encoder"; default the backbone, where it has attention. `cross-attention` is that of
            every layer of the decoder.
        explained: "class": its logit. "left", "top", "right", "bottom": an edge of the box;
            "box": all four. Edges count without sign: what moves them in either direction.
        each: a map for each detection, not one for all together.
        detections: only these, 0 the best; a map for each of them.
        conf: lowest score.
        classes: names or indices; None: all.
        max_det: at most so many detections.

    Returns:
        Without maps where nothing was found.

    Raises:
        DataError: the image cannot be read.
        NoSuchDetection: fewer were found than one of `detections` says.
        UsageError: an exported file; an unknown method, layer or class; a layer that is no map; a
            detector without the attention that is asked for.
    """
    methods = [method] if isinstance(method, str) else list(dict.fromkeys(method))
    check_words(methods, explained)
    model = network(detector)
    image = opened(detector, source)
    if SAMPLED in methods:
        check_sampling(model)
    activated = [m for m in methods if m in METHODS]
    chosen = choose_maps(detector, layers or ("encoder",)) if activated else []
    names = [layer.name for layer in chosen]
    options: dict[str, Any] = {"conf": conf, "classes": classes, "max_det": max_det}
    with AttentionRecorder(model).entered() as attended:
        reply, recorded = ask(detector, image, record=names, gradients=bool(activated), **options)
    targets = _targets(reply, each, detections)
    size = (image.input.shape[-2], image.input.shape[-1])
    maps: list[HeatMap] = []
    tokens = (
        _token_attention(attended, layers or (), size) if ROLLOUT in methods and targets else None
    )
    sampled = attended.sampled(reply.queries) if SAMPLED in methods else ()
    for target in targets:
        rows = list(range(len(reply))) if target is None else [target]
        slopes = _slopes(recorded, reply, rows, explained) if activated else []
        for name in methods:
            if name == ROLLOUT:
                assert tokens is not None
                maps.append(_rolled(tokens, image, reply.found, target))
            elif name == SAMPLED:
                maps += _looked_at(sampled, rows, target)
            else:
                found = _activated(
                    name, recorded, slopes, prefix=prefix_of(model), size=size,
                    signless=explained != "class",
                )  # fmt: skip
                maps += [HeatMap(name, layer, target, values) for layer, values in found]
    return HeatMaps(image, reply.found, explained, tuple(maps))


def check_words(methods: Sequence[str], explained: str) -> None:
    """Raises a UsageError where there is no such method, or nothing so called to explain."""
    for word, known, what in (
        *((name, ALL_METHODS, "method") for name in methods),
        (explained, EXPLAINED, "explained number"),
    ):
        if word not in known:
            raise UsageError(
                f"no {what} `{word}`{did_you_mean(word, known)}", hint=f"known: {', '.join(known)}"
            )


def _targets(reply: Reply, each: bool, detections: Sequence[int] | None) -> Sequence[int | None]:
    if detections is not None:
        return reply.numbered(detections)
    if each or not len(reply):
        return list(range(len(reply)))
    return [None]


def _slopes(
    recorded: Recorder, reply: Reply, rows: Sequence[int], explained: str
) -> list[dict[str, Tensor]]:
    """Derivatives of the explained numbers, summed over detections, by each layer."""
    if explained == "class":
        numbers = [torch.stack([reply.logit(i) for i in rows]).sum()]
    else:
        edges = torch.stack([reply.edges(i) for i in rows]).sum(0)
        numbers = [edges[i] for i, edge in enumerate(EDGES) if explained in ("box", edge)]
    return [recorded.gradients(number, keep_graph=True) for number in numbers]


def _activated(
    method: str,
    recorded: Recorder,
    slopes: Sequence[dict[str, Tensor]],
    *,
    prefix: int,
    size: tuple[int, int],
    signless: bool,
) -> Iterator[tuple[str, Array]]:
    """Layer and map of each layer; of several numbers, those of a box, the mean of their maps."""
    for layer, tensor in recorded.activations.items():
        activation = map_of(layer, tensor.detach().float().cpu(), size, prefix)
        slopes_here = [map_of(layer, slope[layer].float().cpu(), size, prefix) for slope in slopes]
        signed = torch.stack([METHODS[method](activation, slope) for slope in slopes_here])
        yield layer, (signed.abs() if signless else signed.relu()).mean(0).numpy()


def _rolled(
    tokens: TokenAttention, image: Opened, found: Detections, target: int | None
) -> HeatMap:
    boxes = None
    if target is not None:
        corners = found.boxes_xyxy[[target]].reshape(-1, 2)
        boxes = image.points_forth(corners).reshape(-1, 4)
    return HeatMap(ROLLOUT, tokens.part, target, tokens.received(boxes).numpy())


def _looked_at(
    sampled: Sequence[Sampling], rows: Sequence[int], target: int | None
) -> Iterator[HeatMap]:
    """The attention of the detections' queries, layer by layer."""
    for layer in sampled:
        density = torch.stack([layer.density(row) for row in rows]).mean(0)
        yield HeatMap(SAMPLED, layer.name, target, density.numpy())


def _token_attention(
    attended: AttentionRecorder, layers: Sequence[str], size: tuple[int, int]
) -> TokenAttention:
    """That of the part that is named first; else whichever has any."""
    named = [part for part in layers if part in ("backbone", "encoder")]
    for part in (*named, "backbone", "encoder"):
        tokens = attended.tokens(part, size)
        if tokens is not None:
            return tokens
    raise UsageError(
        "no attention among the places of the image: neither the backbone nor the encoder has any",
        hint="take another method; `detrkit explain attention` draws that of the decoder",
    )
