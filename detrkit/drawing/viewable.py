"""Images of any number of channels as RGB that a person can look at."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Share of the values of a band that become black, and as many that become white.
CLIPPED = 0.02


def viewable(image: Tensor) -> Tensor:
    """An image (C, H, W) as uint8 RGB (3, H, W) on the CPU.

    RGB of 8 bits stays. Of other images the first three bands are shown as red, green and blue,
    or the first one in gray, each stretched: what lies between its 2nd and 98th percentile gets
    the range from black to white. A band of one value is black.
    """
    image = image.detach().cpu()
    if image.shape[0] == 3 and image.dtype == torch.uint8:
        return image
    shown = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    bands = shown.permute(1, 2, 0).numpy().astype(np.float32)
    low, high = np.quantile(bands, [CLIPPED, 1 - CLIPPED], axis=(0, 1))
    levels = (bands - low) / np.maximum(high - low, 1e-6) * 255
    return torch.from_numpy(levels.round().clip(0, 255).astype(np.uint8)).permute(2, 0, 1)
