"""Random changes of colour, one pass over the pixels for each idea."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detrkit.data.pixels import Pixels, affine, gain, mean_luma, turn_hue
from detrkit.data.sample import Sample
from detrkit.registry import MODULES

#: ITU-R 601 luma, as Pillow and torchvision use it.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Affine:
    """Pixels times a matrix plus a vector, rounded and clipped to 0–255.

    Attributes:
        matrix: (3, 4) float32; the last column is the vector.
    """

    matrix: npt.NDArray[np.float32]

    @classmethod
    def brightness(cls, factor: float) -> Affine:
        """factor * x."""
        return cls(_matrix(np.eye(3) * factor))

    @classmethod
    def contrast(cls, factor: float, pivot: float) -> Affine:
        """pivot + factor * (x - pivot)."""
        return cls(_matrix(np.eye(3) * factor, (1 - factor) * pivot))

    @classmethod
    def saturation(cls, factor: float) -> Affine:
        """gray + factor * (x - gray), where gray is the pixel's own luma."""
        return cls(_matrix(np.eye(3) * factor + (1 - factor) * LUMA))

    @classmethod
    def permutation(cls, order: npt.NDArray[np.integer]) -> Affine:
        """Channel i becomes what channel order[i] was."""
        return cls(_matrix(np.eye(3)[order]))

    def __call__(self, pixels: Pixels) -> Pixels:
        return affine(pixels, self.matrix)


@dataclass(frozen=True)
class Hue:
    """Turns the hue by `shift` 256ths of the colour circle."""

    shift: int

    def __call__(self, pixels: Pixels) -> Pixels:
        return turn_hue(pixels, self.shift)


@dataclass(frozen=True)
class Gain:
    """Brightness or contrast of any number of bands: x * factor + offset.

    Attributes:
        factor: of all bands.
        offset: (C,) of each band, on a scale of 0–255.
    """

    factor: float
    offset: npt.NDArray[np.floating]

    @classmethod
    def contrast(cls, factor: float, pivots: npt.NDArray[np.floating]) -> Gain:
        """pivot + factor * (x - pivot), with a pivot for each band."""
        return cls(factor, (1 - factor) * pivots)

    def __call__(self, pixels: Pixels) -> Pixels:
        return gain(pixels, self.factor, self.offset)


@MODULES.register(family="transform", example={})
class RandomPhotometricDistort:
    """Changes brightness, contrast, saturation and hue and swaps channels, each at random.

    The order and the distributions are those of torchvision's transform of the same name (from
    SSD, Liu et al., ECCV 2016). The pivot of the contrast is the mean luma of a regular grid of
    about 20,000 pixels in place of all.

    Saturation, hue and the order of channels are defined for RGB. Other pictures, with another
    number of bands or more than 8 bits, get brightness, then contrast: by one factor for all
    bands, the contrast about each band's own mean.

    Args:
        brightness: range of the factor.
        contrast: range of the factor.
        saturation: range of the factor.
        hue: range of the shift, in turns of the colour circle.
        p: probability of each of the five changes.
    """

    def __init__(
        self,
        brightness: tuple[float, float] = (0.875, 1.125),
        contrast: tuple[float, float] = (0.5, 1.5),
        saturation: tuple[float, float] = (0.5, 1.5),
        hue: tuple[float, float] = (-0.05, 0.05),
        p: float = 0.5,
    ) -> None:
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.p = p

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draws the changes; they are applied when the pixels are needed."""
        chosen = rng.random(5) < self.p
        contrast_first = rng.random() < 0.5
        if not chosen.any():
            return sample
        if not sample.canvas.recolors_all:  # the mean must see fill and crop as they are
            sample.render()
        if not sample.canvas.is_rgb:
            self._change_bands(sample, rng, bool(chosen[0]), bool(chosen[1]))
            return sample
        steps = sample.canvas.recolor
        contrast = rng.uniform(*self.contrast)
        if chosen[0]:
            steps.append(Affine.brightness(rng.uniform(*self.brightness)))
        if chosen[1] and contrast_first:
            steps.append(Affine.contrast(contrast, self._pivot(sample)))
        if chosen[2]:
            steps.append(Affine.saturation(rng.uniform(*self.saturation)))
        if chosen[3]:
            steps.append(Hue(int(rng.uniform(*self.hue) * 255)))
        if chosen[1] and not contrast_first:
            steps.append(Affine.contrast(contrast, self._pivot(sample)))
        if chosen[4]:
            permutation = Affine.permutation(rng.permutation(3))
            last = steps[-1] if steps else None
            if isinstance(last, Affine):  # swapping channels commutes with clipping
                steps[-1] = Affine(permutation.matrix[:, :3] @ last.matrix)
            else:
                steps.append(permutation)
        return sample

    def _change_bands(
        self, sample: Sample, rng: np.random.Generator, brightness: bool, contrast: bool
    ) -> None:
        steps = sample.canvas.recolor
        if brightness:
            steps.append(Gain(rng.uniform(*self.brightness), np.zeros(1)))
        if contrast:
            means = sample.canvas.preview().mean(axis=(0, 1), dtype=np.float64)
            steps.append(Gain.contrast(rng.uniform(*self.contrast), means))

    @staticmethod
    def _pivot(sample: Sample) -> float:
        """Mean luma of the picture as recoloured so far."""
        return mean_luma(sample.canvas.preview())


def _matrix(matrix: npt.NDArray[np.floating], offset: float = 0.0) -> npt.NDArray[np.float32]:
    return np.hstack([matrix, np.full((3, 1), offset)]).astype(np.float32)
