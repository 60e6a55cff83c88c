"""A picture made ready for a detector, and the way back from its input to the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.drawing.viewable import viewable
from detrkit.engine.media.places import Address, Camera
from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import Runtime
from detrkit.engine.sources import Source, expand, is_moving, load_image
from detrkit.errors import DataError
from detrkit.explain.layers import torch_runtime
from detrkit.structures import ImageSpec

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Opened:
    """A picture, the detector's input, and how places in one are found in the other.

    Attributes:
        pixels: (C, H, W) as `detrkit.data.images.read_image` gives them, upright.
        input: (1, C, h, w) float32, normalised, on the detector's device.
        spec: how one became the other.
        path: the file; None for a picture from memory.
    """

    pixels: Tensor
    input: Tensor
    spec: ImageSpec
    path: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return Path(self.path).stem if self.path else "image"

    @property
    def picture(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) RGB to look at."""
        shown: npt.NDArray[np.uint8] = viewable(self.pixels).permute(1, 2, 0).contiguous().numpy()
        return shown

    def map_back(self, maps: Array | Tensor) -> Array:
        """Maps over the input's plane as maps over the picture; padding is left out.

        Bilinear between the centres of cells; beyond the outermost centres their values hold.

        Args:
            maps: (…, h', w') of any resolution that covers the whole input.

        Returns:
            (…, H, W).
        """
        values = torch.as_tensor(maps).detach().cpu().float()
        height, width = self.size
        extent_h, extent_w = self.spec.extent(self.size)
        y = 2 * (torch.arange(height) + 0.5) / extent_h - 1
        x = 2 * (torch.arange(width) + 0.5) / extent_w - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (H, W, 2)
        flat = values.reshape(1, -1, *values.shape[-2:])
        back = F.grid_sample(flat, grid[None], padding_mode="border", align_corners=False)
        result: Array = back.reshape(*values.shape[:-2], height, width).numpy()
        return result

    def points_back(self, points: npt.NDArray[Any] | Tensor) -> Array:
        """Points in fractions of the input (…, 2), x then y, as pixels of the picture."""
        height, width = self.spec.extent(self.size)
        scale = np.array([width, height], np.float32)
        result: Array = torch.as_tensor(points).detach().cpu().float().numpy() * scale
        return result

    def points_forth(self, points: npt.NDArray[Any]) -> Array:
        """The inverse of `points_back`."""
        height, width = self.spec.extent(self.size)
        scale = np.array([width, height], np.float32)
        result: Array = np.asarray(points, np.float32) / scale
        return result


def open_picture(detector: Predictor | Runtime, source: Source) -> Opened:
    """Reads a picture and makes it the detector's input.

    Args:
        detector: a checkpoint's.
        source: one image, as `Predictor.predict` takes it; or an `Opened`.

    Raises:
        DataError: it cannot be read.
        UsageError: it is no image; the detector is an exported file.
    """
    runtime = torch_runtime(detector)
    spec = runtime.image_spec
    pixels = load_image(source, spec.in_channels)
    return Opened(
        pixels=pixels,
        input=spec.prepare(pixels)[None].to(runtime.device),
        spec=spec,
        path=str(source) if isinstance(source, str | Path) else None,
    )


def open_pictures(
    detector: Predictor | Runtime,
    sources: Source | Iterable[Source],
    on_broken: Callable[[Path | str, DataError], None] | None = None,
) -> Iterator[Opened]:
    """Pictures of files, folders and patterns, one after the other.

    Args:
        detector: a checkpoint's.
        sources: as `Predictor.stream` takes them, without videos and streams.
        on_broken: gets what cannot be read, which is then passed over. None: that is an error.

    Raises:
        DataError: a source cannot be read and `on_broken` is None.
    """
    for item in expand(sources, on_broken):
        try:
            if isinstance(item, Camera | Address) or is_moving(item):
                raise DataError(f"{item!s}: pictures are explained, not videos and streams")
            yield open_picture(detector, item)
        except DataError as error:
            if on_broken is None or not isinstance(item, Path):
                raise
            on_broken(item, error)
