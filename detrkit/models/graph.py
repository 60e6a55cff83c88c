"""Backbones and necks written as a list of layers.

    YOLO11n:
      type: GraphBackbone
      width: 0.25                          # times the channels
      depth: 0.5                           # times the repeats
      layers:                              # [from, repeats, module, args]
        - [-1, 1, Conv, [64, 3, 2]]        # 0: stride 2
        - [-1, 1, Conv, [128, 3, 2]]       # 1: stride 4
        - [-1, 2, C3k2, [256]]             # 2
        - [[-1, 0], 1, Concat, []]
      outputs: [2, 3]

`from` is the number of a layer, counted from 0 or, if negative, back from the row itself; a list
gives the module several maps. In a `GraphEncoder`, the maps that it is given are the first
"layers", finest first; `in_channels: [128, 256, 512]` and `feat_strides` say what they are.

Any module of maps can stand in a row (`detrkit modules`): its constructor's first parameter is
`in_channels`, which comes from the row's inputs, and the instance has `out_channels`. Arguments
are a mapping, or a list in the order of the constructor, and are data: nothing is evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from detrkit.errors import ConfigError, DetrkitError
from detrkit.modules.part import check_inputs, module_entry
from detrkit.registry import MODULES, Entry

#: Widths are multiples of it, as those of the models that this form comes from.
_DIVISOR = 8


@dataclass(frozen=True)
class Row:
    """A layer of a graph, as it was built.

    Attributes:
        index: its number.
        sources: numbers of the layers that it takes; -1: the image.
        several: whether it takes a list of maps.
        repeats: how often, after the depth multiple.
        name: of the module.
        arguments: that it was built with.
        out_channels: width of what it returns.
        stride: pixels of the image per pixel of its map.
    """

    index: int
    sources: tuple[int, ...]
    several: bool
    repeats: int
    name: str
    arguments: Mapping[str, Any]
    out_channels: int
    stride: float


class Graph(nn.Module):
    """A list of layers; the base of `GraphBackbone` and `GraphEncoder`.

    Args:
        widths, strides: of the maps that come in; none: images of `image_channels`.
        image_channels: C of the images.
        layers: rows [from, repeats, module, args].
        outputs: numbers of the layers whose maps are returned.
        width, depth: factors on `out_channels` and on `repeats`.
        max_channels: `out_channels` are cut off here, before the factor.

    Attributes:
        rows: the layers as they were built.
        out_channels, out_strides: of the returned maps.

    Raises:
        ConfigError: a row does not say what a layer is; names the row.
    """

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[float],
        image_channels: int,
        layers: Sequence[Any],
        outputs: Sequence[int],
        width: float,
        depth: float,
        max_channels: int | None,
    ) -> None:
        super().__init__()
        self.image_channels = image_channels
        self.multiples = (float(width), float(depth))
        self.max_channels = max_channels or math.inf
        self.given = len(widths)
        all_widths, all_strides = list(widths), list(strides)
        self.rows: list[Row] = []
        self.layers = nn.ModuleList()
        for number, row in enumerate(layers):
            try:
                built, layer = self._row(number + self.given, row, all_widths, all_strides)
            except ConfigError as error:
                raise ConfigError(f"layers[{number}]: {error.message}", hint=error.hint) from error
            self.rows.append(built)
            self.layers.append(layer)
            all_widths.append(built.out_channels)
            all_strides.append(built.stride)
        self.outputs = self._outputs(outputs, all_strides)
        self.out_channels = [all_widths[i] for i in self.outputs]
        self.out_strides = [round(all_strides[i]) for i in self.outputs]
        last = {i: row.index for row in self.rows for i in row.sources}
        self.last_use = {i: at for i, at in last.items() if i not in self.outputs}

    def _row(
        self, index: int, row: Any, widths: Sequence[int], strides: Sequence[float]
    ) -> tuple[Row, nn.Module]:
        """Builds one row; `widths` and `strides` are those of the layers before it."""
        if not isinstance(row, list | tuple) or not 3 <= len(row) <= 4:
            raise ConfigError(f"expected [from, repeats, module, args], got {row!r}")
        sources = self._sources(row[0], index)
        repeats, name, given = row[1], row[2], row[3] if len(row) == 4 else []
        if not isinstance(repeats, int) or repeats < 1:
            raise ConfigError(f"repeats must be a whole number from 1 on, got {repeats!r}")
        if not isinstance(name, str):
            raise ConfigError(f"expected the name of a module, got {name!r}")
        entry = module_entry(name, name)
        assert entry.traits is not None
        if repeats > 1:
            repeats = max(round(repeats * self.multiples[1]), 1)
        taken = [widths[i] if i >= 0 else self.image_channels for i in sources]
        several = isinstance(row[0], list | tuple)
        check_inputs(entry, several, "`from`")
        arguments = self._arguments(entry, given)
        inner = "num_blocks" in entry.parameters and "num_blocks" not in arguments
        if inner:
            arguments["num_blocks"] = repeats
        count = 1 if inner else repeats
        layers = [_built(entry, taken if several else taken[0], arguments)]
        for _ in range(count - 1):
            layers.append(_built(entry, int(layers[-1].out_channels), arguments))  # type: ignore[arg-type]
        out = layers[-1].out_channels
        if not isinstance(out, int):
            raise ConfigError(f"{name} returns several maps; a row can have one")
        scale = entry.traits.scale
        assert isinstance(scale, float | int)
        stride_in = strides[sources[0]] if sources[0] >= 0 else 1.0
        convolution_stride = arguments.get("stride", 1) if scale == 1 else 1
        stride = stride_in / scale**count * convolution_stride**count
        layer = layers[0] if count == 1 else nn.Sequential(*layers)
        built = Row(index, sources, several, repeats, name, arguments, out, stride)
        return built, layer

    def _sources(self, value: Any, index: int) -> tuple[int, ...]:
        """Numbers of the layers that a row takes; -1 where that is the image."""
        numbers = list(value) if isinstance(value, list | tuple) else [value]
        found = []
        for number in numbers:
            if not isinstance(number, int) or isinstance(number, bool):
                raise ConfigError(f"`from` must be the number of a layer, got {number!r}")
            source = index + number if number < 0 else number
            from_image = source == -1 and index == 0
            if not from_image and not 0 <= source < index:
                raise ConfigError(
                    f"`from` {number} is no earlier layer",
                    hint=f"layers 0 to {index - 1} come before it" if index else "use -1",
                )
            found.append(source)
        if not found:
            raise ConfigError("`from` names no layer")
        return tuple(found)

    def _arguments(self, entry: Entry, given: Any) -> dict[str, Any]:
        """Arguments by name, widths multiplied."""
        names = [name for name in entry.parameters if name != "in_channels"]
        if isinstance(given, Mapping):
            arguments = dict(given)
        elif isinstance(given, list | tuple):
            if len(given) > len(names):
                raise ConfigError(f"{entry.name} takes {len(names)} arguments, got {given!r}")
            arguments = dict(zip(names, given, strict=False))
        else:
            raise ConfigError(f"expected arguments as a list or a mapping, got {given!r}")
        width = arguments.get("out_channels")
        if isinstance(width, int):
            wide = min(width, self.max_channels) * self.multiples[0]
            arguments["out_channels"] = math.ceil(wide / _DIVISOR) * _DIVISOR
        return arguments

    def _outputs(self, outputs: Sequence[int], strides: Sequence[float]) -> tuple[int, ...]:
        count = len(strides)
        if not outputs or not all(isinstance(i, int) and 0 <= i < count for i in outputs):
            raise ConfigError(f"Graph.outputs: {outputs} must be layers 0 to {count - 1}")
        order = [strides[i] for i in outputs]
        if sorted(set(order)) != order:
            raise ConfigError(
                f"Graph.outputs: layers {list(outputs)} have strides {[round(s) for s in order]}; "
                "they must grow"
            )
        return tuple(outputs)

    def run(self, image: Tensor | None, maps: Sequence[Tensor]) -> list[Tensor]:
        """The image, or the maps that come in -> those of `outputs`."""
        found: dict[int, Tensor] = dict(enumerate(maps))
        if image is not None:
            found[-1] = image
        for row, layer in zip(self.rows, self.layers, strict=True):
            taken = [found[i] for i in row.sources]
            found[row.index] = layer(taken if row.several else taken[0])
            for i in row.sources:
                if self.last_use.get(i) == row.index:
                    found.pop(i, None)
        return [found[i] for i in self.outputs]


@MODULES.register(share=("in_channels",))
class GraphBackbone(Graph):
    """A list of layers as backbone. images (B, in, H, W) -> maps of `outputs`, finest first.

    Args:
        layers, outputs, width, depth, max_channels: see `Graph`.
        in_channels: of the images.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        outputs: Sequence[int],
        width: float = 1.0,
        depth: float = 1.0,
        max_channels: int | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__([], [], in_channels, layers, outputs, width, depth, max_channels)
        self.in_channels = in_channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, in, H, W) -> maps (B, C_i, H / s_i, W / s_i)."""
        return self.run(images, [])


@MODULES.register(share=("eval_spatial_size",))
class GraphEncoder(Graph):
    """A list of layers as encoder. Maps, finest first -> maps of `outputs`, finest first.

    Args:
        in_channels, feat_strides: of the maps that come in: layers 0 to their number - 1.
        layers, outputs, width, depth, max_channels: see `Graph`.
        eval_spatial_size: accepted, as encoders are given it; nothing here depends on sizes.

    Raises:
        ConfigError: `feat_strides` are more or fewer than `in_channels`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        feat_strides: Sequence[int],
        layers: Sequence[Any],
        outputs: Sequence[int],
        width: float = 1.0,
        depth: float = 1.0,
        max_channels: int | None = None,
        eval_spatial_size: Sequence[int] | None = None,
    ) -> None:
        if len(feat_strides) != len(in_channels):
            raise ConfigError(
                f"GraphEncoder.feat_strides: {list(feat_strides)} must have an entry for each of "
                f"in_channels {list(in_channels)}"
            )
        super().__init__(in_channels, feat_strides, 0, layers, outputs, width, depth, max_channels)
        self.in_channels = list(in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, in_channels[i], h_i, w_i) -> maps (B, C_j, h_j, w_j)."""
        return self.run(None, features)


def _built(entry: Entry, in_channels: int | list[int], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        module: nn.Module = entry.factory(in_channels, **arguments)
    except DetrkitError:
        raise
    except (TypeError, ValueError, KeyError, AssertionError) as error:
        raise ConfigError(
            f"{entry.name} cannot be built for in_channels {in_channels}: {error}",
            hint=f"`detrkit info {entry.name}` lists its arguments",
        ) from error
    return module
