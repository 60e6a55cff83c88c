"""A picture whose padding, cropping, mirroring and recolouring wait until its pixels are needed.

The usual augmentations paint a canvas of up to 16 times the area, cut a part out of it and
shrink that. Here they only move a rectangle; `render` recolours, mirrors and resizes the part of
the source that is left, once. The same goes for a turned picture: its turning and the final
resizing are one resampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from detrkit.data.pixels import Pixels, filled, mirror, warp
from detrkit.structures.image_spec import stretched


@dataclass(slots=True)
class Canvas:
    """A source image at some place on a canvas.

    Attributes:
        source: (C, h, w), uint8 or float32 on a scale of 0–255.
        size: (H, W) of the canvas in pixels.
        top, left: where the source's corner lies on the canvas; negative after a crop.
        fill: 0–255 of canvas that the source does not cover, one value or one per channel.
        mirrored: whether the canvas is to be flipped left to right at the end.
        recolor: functions of pixels to pixels, applied to the source in this order; to the
            whole canvas when there is a `warp`.
        warp: (2, 3) float64 matrix that takes points of the source to points of the canvas, where
            pixel (i, j) covers i to i + 1 and j to j + 1; None when the source is only shifted,
            by `top` and `left`.
        exact: whether a source that was only resized is resized as `ImageSpec` does, bit for bit,
            which is several times slower; for evaluation.
    """

    source: Tensor
    size: tuple[int, int]
    top: int = 0
    left: int = 0
    fill: tuple[int, ...] = (0,)
    mirrored: bool = False
    recolor: list[Callable[[Pixels], Pixels]] = field(default_factory=list)
    warp: npt.NDArray[np.float64] | None = None
    exact: bool = True

    @classmethod
    def of(cls, image: Tensor, *, exact: bool = True) -> Canvas:
        """A canvas that is just the image."""
        return cls(image, (image.shape[-2], image.shape[-1]), exact=exact)

    @property
    def is_rgb(self) -> bool:
        """Whether it shows colours of 8 bits, and no measurements in some number of bands."""
        return self.source.shape[0] == 3 and self.source.dtype == torch.uint8

    @property
    def pristine(self) -> bool:
        """Whether it still shows just its source."""
        return self.unmoved and not self.recolor

    @property
    def unmoved(self) -> bool:
        """Whether source and canvas coincide; colours may have changed."""
        return (
            self.size == tuple(self.source.shape[-2:])
            and self.top == self.left == 0
            and not self.mirrored
            and self.warp is None
        )

    def window(self, top: int, left: int, size: tuple[int, int]) -> None:
        """Makes the canvas show the rectangle at (top, left) of itself; may be larger than it."""
        if self.warp is not None:  # what the canvas has cut off must not come back
            self.source = self._warped(self.size)
            self.mirrored, self.warp = False, None
            self.recolor.clear()
        if self.mirrored:
            left = self.size[1] - left - size[1]
        self.top -= top
        self.left -= left
        self.size = size

    def mirror(self) -> None:
        """Flips left to right."""
        self.mirrored = not self.mirrored

    @property
    def covers(self) -> bool:
        """Whether the source surely covers the whole canvas, so that no fill shows."""
        if self.warp is not None:
            return False
        top, left, bottom, right = self._visible()
        return (top, left) == (0, 0) and (bottom, right) == self.size

    def _visible(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right of the source's visible part, in canvas pixels."""
        h, w = self.source.shape[-2:]
        top, left = max(self.top, 0), max(self.left, 0)
        bottom, right = min(self.top + h, self.size[0]), min(self.left + w, self.size[1])
        return top, left, max(bottom, top), max(right, left)

    def render(
        self, size: tuple[int, int] | None = None
    ) -> tuple[Tensor, tuple[float, float, float, float]]:
        """Paints the canvas.

        The visible part of the source is placed on whole pixels of the output. So the result is
        within half an output pixel of painting the canvas first and resizing it afterwards, and
        the returned mapping says exactly where things are.

        Args:
            size: (H, W) of the output; None keeps the canvas's.

        Returns:
            (C, H, W), and (scale x, scale y, shift x, shift y) that takes coordinates
            on this canvas to the output: `x * scale + shift`.
        """
        height, width = size = size or self.size
        if self.warp is not None:
            return self._warped(size), (width / self.size[1], height / self.size[0], 0.0, 0.0)
        top, left, bottom, right = self._visible()
        if bottom == top or right == left:  # nothing of the source is left
            image = self._background(size)
            return image, (width / self.size[1], height / self.size[0], 0.0, 0.0)
        part = self.source[
            :, top - self.top : bottom - self.top, left - self.left : right - self.left
        ]
        if self.mirrored:
            left, right = self.size[1] - right, self.size[1] - left
        y0, y1 = _span(top, bottom, self.size[0], height)
        x0, x1 = _span(left, right, self.size[1], width)
        part = self._resized(part, (y1 - y0, x1 - x0))
        sx, sy = (x1 - x0) / (right - left), (y1 - y0) / (bottom - top)
        mapping = (sx, sy, x0 - left * sx, y0 - top * sy)
        if (y1 - y0, x1 - x0) == size:
            return part, mapping
        image = self._background(size)
        image[:, y0:y1, x0:x1] = part
        return image, mapping

    def _resized(self, part: Tensor, size: tuple[int, int]) -> Tensor:
        pixels = part.permute(1, 2, 0).numpy()
        if self.recolor:
            pixels = self._recolored(np.ascontiguousarray(pixels))
        shrinks = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
        if self.mirrored and not shrinks:
            pixels = mirror(pixels)
        if self.exact and not (self.recolor or self.mirrored) and part.shape == self.source.shape:
            return stretched(part, size)
        if pixels.shape[:2] != size:
            if not pixels.flags.c_contiguous:
                pixels = np.ascontiguousarray(pixels)
            # imported where it is needed: it takes as long to import as torch itself
            from torchvision.transforms.v2 import functional as F

            image = F.resize_image(torch.from_numpy(pixels).permute(2, 0, 1), list(size))
            pixels = image.permute(1, 2, 0).numpy()
        if self.mirrored and shrinks:
            pixels = mirror(pixels)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    @property
    def recolors_all(self) -> bool:
        """Whether `recolor` reaches the whole canvas as it stands, fill included."""
        return self.unmoved or self.warp is not None

    def preview(self, side: int = 128) -> Pixels:
        """The canvas, coarsely: `side` pixels or more along its shorter side where it has them.

        Only for canvases that `recolors_all` is true for.
        """
        stride = max(1, min(self.size) // side)
        if self.warp is not None:
            small = self._warped((self.size[0] // stride, self.size[1] // stride))
            return small.permute(1, 2, 0).numpy()
        part = self.source[:, ::stride, ::stride].permute(1, 2, 0).numpy()
        return self._recolored(np.ascontiguousarray(part))

    def _warped(self, size: tuple[int, int]) -> Tensor:
        """The source warped straight to `size`, mirrored and recoloured."""
        assert self.warp is not None
        fx, fy = size[1] / self.size[1], size[0] / self.size[0]
        final = np.array([[fx, 0, 0], [0, fy, 0], [0, 0, 1.0]])
        if self.mirrored:
            final = np.array([[-1.0, 0, size[1]], [0, 1, 0], [0, 0, 1]]) @ final
        backwards = np.linalg.inv(final @ np.vstack([self.warp, [0, 0, 1]]))[:2]
        pixels = warp(self.source.permute(1, 2, 0).numpy(), backwards, size, self.fill)
        return torch.from_numpy(self._recolored(pixels)).permute(2, 0, 1)

    def _recolored(self, pixels: Pixels) -> Pixels:
        for function in self.recolor:
            pixels = function(pixels)
        return pixels

    def _background(self, size: tuple[int, int]) -> Tensor:
        bands = self.source.shape[0]
        dtype = np.uint8 if self.source.dtype == torch.uint8 else np.float32
        if len(set(self.fill)) == 1:
            pixels = np.full((*size, bands), self.fill[0], dtype)
        else:
            pixels = np.empty((*size, bands), dtype)
            pixels[:] = filled(self.fill, bands)
        return torch.from_numpy(pixels).permute(2, 0, 1)


def _span(start: int, end: int, extent: int, output: int) -> tuple[int, int]:
    """Whole output pixels for `start:end` of a canvas of `extent`; at least one."""
    first = round(start * output / extent)
    last = round(end * output / extent)
    if last <= first:
        first = min(first, output - 1)
        last = first + 1
    return first, last
