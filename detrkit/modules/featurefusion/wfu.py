"""WFU: wavelet feature upgrade. WFEN, Li et al., ACM MM 2024, arXiv:2407.19768.

    a, h, v, d = Haar(x_big)                        bands of half the size
    r = 3×3 ReLU 3×3 (h + v + d)
    t = 1×1 ReLU 1×1 [x_small, a]                   three bands
    y = Haar⁻¹(r, t)

As in the authors' code r takes the place of the low-pass band, and the synthesis does not divide.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import matched
from detrkit.layers.windows import check_multiple
from detrkit.registry import MODULES, Traits

#: a, h, v, d: signs of the four pixels of a cell.
_HAAR = (((1, 1), (1, 1)), ((1, -1), (1, -1)), ((1, 1), (-1, -1)), ((1, -1), (-1, 1)))


@MODULES.register(
    family="featurefusion",
    paper="arXiv:2407.19768",
    venue="ACM MM 2024",
    example={"in_channels": [8, 12], "out_channels": 16},
    traits=Traits(multiple=2, sides=(1, 0.5)),
)
class WFU(nn.Module):
    """[(B, C₀, 2h, 2w), (B, C₁, h, w)] -> (B, out_channels, 2h, 2w).

    Args:
        in_channels: C₀ of the fine map, C₁ of the coarse one.
        out_channels: None: C₀.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int | None = None) -> None:
        super().__init__()
        big, small = in_channels
        self.out_channels = big if out_channels is None else out_channels
        filters = torch.tensor(_HAAR, dtype=torch.float32)[:, None]
        self.haar = nn.Parameter(filters.repeat(big, 1, 1, 1), requires_grad=False)
        self.details = nn.Sequential(
            nn.Conv2d(big, big, 3, padding=1), nn.ReLU(), nn.Conv2d(big, big, 3, padding=1)
        )
        self.context = nn.Sequential(
            nn.Conv2d(big + small, big + small, 1),
            nn.ReLU(),
            nn.Conv2d(big + small, 3 * big, 1),
        )
        self.match = matched(big, self.out_channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x, small = maps
        check_multiple(x, 2)
        channels = x.shape[1]
        bands = F.conv2d(x, self.haar / 4, stride=2, groups=channels)
        low, *high = bands.unflatten(1, (channels, 4)).unbind(2)
        details = self.details(high[0] + high[1] + high[2])
        context = self.context(torch.cat([small, low], dim=1))
        groups = torch.cat([details, context], dim=1).unflatten(1, (4, channels))
        woven = groups.transpose(1, 2).flatten(1, 2)  # the four bands of each channel together
        return self.match(F.conv_transpose2d(woven, self.haar, stride=2, groups=channels))
