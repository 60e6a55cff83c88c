"""InceptionNeXt: When Inception Meets ConvNeXt. Yu et al., CVPR 2024, arXiv:2303.16900.

y = x + γ · W2 gelu(W1 BN(mixer(x)))        eq. 6–7; the mixer is `InceptionDWConv2d`
"""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.layers.drop_path import DropPath
from detrkit.layers.layer_scale import LayerScale2d
from detrkit.modules.conv.idwc import InceptionDWConv2d
from detrkit.registry import MODULES, Traits


@MODULES.register(
    "MetaNeXtBlock",
    "InceptionDWBlock",
    family="module",
    paper="arXiv:2303.16900",
    venue="CVPR 2024",
    example={"in_channels": 16},
    traits=Traits(),
)
class MetaNeXtBlock(nn.Module):
    """A ConvNeXt block whose large kernel is a square and two bands. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C, at least 8.
        mlp_ratio: width of the feed-forward part, relative to C.
        layer_scale: first value of γ; with the paper's an untrained block does nearly nothing.
        drop_path: rate at which training leaves the branch out.

    Raises:
        ValueError: fewer than 8 channels.
    """

    def __init__(
        self,
        in_channels: int,
        mlp_ratio: float = 4.0,
        layer_scale: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        hidden = int(c * mlp_ratio)
        self.mixer = InceptionDWConv2d(c)
        self.norm = nn.BatchNorm2d(c)
        self.mlp = nn.Sequential(nn.Conv2d(c, hidden, 1), nn.GELU(), nn.Conv2d(hidden, c, 1))
        self.scale = LayerScale2d(c, layer_scale)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.scale(self.mlp(self.norm(self.mixer(x)))))
