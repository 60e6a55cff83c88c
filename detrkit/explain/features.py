"""Feature maps: what each channel of a layer answers to a picture, and where a layer is active."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import Runtime
from detrkit.engine.sources import Source
from detrkit.errors import UsageError, did_you_mean
from detrkit.explain.attention import prefix_of
from detrkit.explain.cam import first_component, map_of
from detrkit.explain.drawn import Drawn
from detrkit.explain.layers import Recorder, network
from detrkit.explain.maps import choose_maps
from detrkit.explain.numbers import write_npz
from detrkit.explain.opened import Array, Opened, opened

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def principal(maps: Tensor) -> Tensor:
    """The first principal component over the places, of channels without their mean; signed.

    Its sign is free: here the largest value is positive.
    """
    projected = first_component(maps - maps.mean((1, 2), keepdim=True))
    return projected if projected.max() >= -projected.min() else -projected


#: name -> maps (C, h, w) to one (h, w).
ENERGIES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda maps: maps.abs().mean(0),
    "l2": lambda maps: maps.norm(dim=0),
    "max": lambda maps: maps.amax(0),
    "pca": principal,
}

#: As figures write them.
ENERGY_TITLES = {
    "mean": "mean |x|",
    "l2": "l2 norm",
    "max": "largest channel",
    "pca": "first component",
}


@dataclass(frozen=True)
class FeatureMap:
    """What a layer returned for one picture.

    Attributes:
        layer: its name.
        values: (C, h, w).
    """

    layer: str
    values: Array

    def energy(self, kind: str = "mean") -> Array:
        """One map of all channels, (h, w); `kind` of `ENERGIES`."""
        result: Array = ENERGIES[kind](torch.from_numpy(self.values)).numpy()
        return result

    def strongest(self, count: int) -> list[int]:
        """The channels that differ most over the places, by their standard deviation."""
        spread = torch.from_numpy(self.values).flatten(1).std(1, correction=0)
        order: list[int] = torch.argsort(spread, descending=True, stable=True)[:count].tolist()
        return order


@dataclass(frozen=True)
class Features(Drawn):
    """Feature maps of one picture.

    Attributes:
        image: the picture.
        maps: of each layer.
    """

    image: Opened
    maps: tuple[FeatureMap, ...]

    def figure(
        self,
        width: str | float = "page",
        *,
        energy: str | Sequence[str] = "mean",
        on_picture: bool = True,
    ) -> Figure:
        """The picture, and the energy of each layer, over it or for itself.

        Args:
            width: of the figure.
            energy: one or several of `ENERGIES`; a row for each.
            on_picture: False shows the cells of the layer, of the input with its padding.

        Raises:
            UsageError: there is no such energy.
        """
        from detrkit.explain.figures.features import draw_energies

        kinds = [energy] if isinstance(energy, str) else list(energy)
        check_energies(kinds)
        return draw_energies(self, width, kinds, on_picture)

    def channels_figure(
        self, layer: str, width: str | float = "page", *, channels: int = 16
    ) -> Figure:
        """A grid of the channels of a layer that differ most over the picture.

        Raises:
            UsageError: the layer is not among the maps.
        """
        from detrkit.explain.figures.features import draw_channels

        for one in self.maps:
            if one.layer == layer:
                return draw_channels(self, one, width, channels)
        names = [one.layer for one in self.maps]
        raise UsageError(f"no layer `{layer}`{did_you_mean(layer, names)}")

    def save_numbers(self, path: str | Path) -> Path:
        """Writes each layer's maps (C, h, w) by its name as `.npz`."""
        return write_npz(Path(path), {one.layer: one.values for one in self.maps})

    def to_dict(self) -> dict[str, Any]:
        """Of each layer: its shape, and how its values are spread, for JSON."""
        return {
            "image": self.image.path,
            "layers": [
                {
                    "layer": one.layer,
                    "shape": list(one.values.shape),
                    "mean": float(one.values.mean()),
                    "std": float(one.values.std()),
                    "dead_channels": int((one.values.std((1, 2)) == 0).sum()),
                    "strongest": one.strongest(8),
                }
                for one in self.maps
            ],
        }


def check_energies(kinds: Sequence[str]) -> None:
    """Raises a UsageError where there is no such energy."""
    for kind in kinds:
        if kind not in ENERGIES:
            raise UsageError(
                f"no energy `{kind}`{did_you_mean(kind, ENERGIES)}",
                hint=f"known: {', '.join(ENERGIES)}",
            )


def features(
    detector: Predictor | Runtime,
    source: Source | Opened,
    *,
    layers: Sequence[str] = ("backbone", "encoder"),
) -> Features:
    """What layers of a detector return for a picture.

    Args:
        detector: a checkpoint's, by `detrkit.load`.
        source: one image, as `detector.predict` takes it.
        layers: names, patterns or short forms (`detrkit.explain.layers.choose`) of feature maps or
            of tokens.

    Raises:
        DataError: the image cannot be read.
        UsageError: an exported file; an unknown layer; one that is no map.
    """
    chosen = choose_maps(detector, layers)
    image = opened(detector, source)
    model = network(detector)
    with torch.no_grad(), Recorder(model, [layer.name for layer in chosen]) as recorded:
        model(image.input)
    size = (image.input.shape[-2], image.input.shape[-1])
    maps = []
    for layer in chosen:
        values = map_of(layer.name, recorded[layer.name].float(), size, prefix_of(model))
        maps.append(FeatureMap(layer.name, values.cpu().numpy()))
    return Features(image, tuple(maps))
