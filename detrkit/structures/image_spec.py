"""How a picture becomes the model's input; the one preprocessing of detrkit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from detrkit.errors import ConfigError


def stretched(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image (C, H, W) at another size (h, w): Pillow's bilinear filter, bit for bit.

    The authors evaluate with Pillow. torch's antialiased filter is several times faster, yet
    rounds its weights to 16 bits: one grey level of difference in two percent of the values moves
    the AP of a small data set in the third digit.

    Args:
        image: uint8, or float32.
        size: (h, w).
    """
    if image.shape[-2:] == size:
        return image
    if image.shape[0] == 3 and image.dtype == torch.uint8:
        resized = _resized(image.permute(1, 2, 0).cpu().numpy(), size)
    else:  # Pillow knows no other pixels of several bands
        resized = np.stack([_resized(band, size) for band in image.cpu().numpy()], axis=-1)
    return torch.from_numpy(resized).permute(2, 0, 1).to(image.device)


def _resized(pixels: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """RGB (h, w, 3), or one band (h, w)."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.array(image.resize(size[::-1], Image.Resampling.BILINEAR))


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """Size, resize rule, channel order, scale and normalisation.

    Made once from the configuration, stored in every checkpoint and artefact, and used by
    validation, infer, export, benchmark and explain alike.

    Pixels are uint8, or float32 on the same scale of 0–255 where a file holds more than 8 bits
    per value (`detrkit.data.images` says which do).

    Attributes:
        size: (h, w) of the model's input.
        resize: "stretch" to the size, or "letterbox": keep the aspect ratio, pad to the right
            and below with `pad_value`.
        channels: "rgb" or "bgr".
        scale: factor on the 0–255 values.
        mean, std: per channel, after `scale`; one value stands for all channels.
        pad_value: 0–255, the letterbox's border.
        in_channels: C, how many channels the model takes.

    Raises:
        ConfigError: `mean` or `std` has neither one value nor one per channel.
    """

    size: tuple[int, int]
    resize: Literal["stretch", "letterbox"] = "stretch"
    channels: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    pad_value: int = 114
    in_channels: int = 3

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) == 1:
                object.__setattr__(self, name, values * self.in_channels)
            elif len(values) != self.in_channels:
                raise ConfigError(
                    f"{name} has {len(values)} values, but in_channels is {self.in_channels}",
                    hint="give Normalize one value per channel",
                )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ImageSpec:
        """Inverse of `to_dict`; lists become tuples."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints and JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def content_size(self, orig_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) that an image of `orig_size` (h, w) covers inside the input."""
        if self.resize == "stretch":
            return self.size
        ratio = min(self.size[0] / orig_size[0], self.size[1] / orig_size[1])
        return max(round(orig_size[0] * ratio), 1), max(round(orig_size[1] * ratio), 1)

    def extent(self, orig_size: tuple[int, int]) -> tuple[float, float]:
        """(h, w) of the whole input in pixels of the original image: more than it where padded."""
        h, w = self.content_size(orig_size)
        return orig_size[0] * self.size[0] / h, orig_size[1] * self.size[1] / w

    def resized(self, image: Tensor) -> Tensor:
        """Resizes (and pads) an image (C, H, W) as `stretched` does; its type stays."""
        h, w = self.content_size((image.shape[-2], image.shape[-1]))
        image = stretched(image, (h, w))
        if (h, w) != self.size:
            # imported where it is needed: it takes as long to import as torch itself
            from torchvision.transforms.v2 import functional as F

            pad = [0, 0, self.size[1] - w, self.size[0] - h]
            image = F.pad_image(image, pad, fill=[float(self.pad_value)])
        return image

    def normalized(self, image: Tensor) -> Tensor:
        """Pixels (…, C, h, w) -> float32 in the channel order and range of the model."""
        if self.channels == "bgr":
            image = image.flip(-3)
        out = image.to(torch.float32, copy=True).mul_(self.scale)
        if any(self.mean):
            out -= torch.tensor(self.mean, device=out.device).view(-1, 1, 1)
        if any(value != 1.0 for value in self.std):
            out /= torch.tensor(self.std, device=out.device).view(-1, 1, 1)
        return out

    def prepare(self, image: Tensor) -> Tensor:
        """An image (C, H, W) of any size -> float32 (C, h, w), the model's input."""
        return self.normalized(self.resized(image))

    def restore_boxes(self, boxes_cxcywh: Tensor, orig_size: tuple[int, int]) -> Tensor:
        """Boxes as fractions of the input (…, 4) -> boxes_xyxy in pixels of the original image.

        Not clipped: the authors' postprocessors do not clip either.
        """
        sy, sx = self.extent(orig_size)
        cx, cy, bw, bh = boxes_cxcywh.unbind(-1)
        return torch.stack(
            [(cx - bw / 2) * sx, (cy - bh / 2) * sy, (cx + bw / 2) * sx, (cy + bh / 2) * sy], -1
        )
