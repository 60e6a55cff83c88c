"""Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks (FasterNet). Chen et al.,
CVPR 2023, arXiv:2303.03667.

y = x + W2 act(BN(W1 PConv(x)))        figure 4; the partial convolution is `Partial_conv3`

The convolutional GLU of TransNeXt in the place of the two 1×1 layers, as collections have it:

    {type: FasterBlock, mlp: ConvolutionalGLU}
"""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct, matched
from detrkit.layers.drop_path import DropPath
from detrkit.layers.layer_scale import LayerScale2d
from detrkit.modules.conv.pconv import PartialConv3
from detrkit.modules.part import Part, build_part
from detrkit.registry import MODULES, Traits


@MODULES.register(
    "FasterBlock",
    "Faster_Block",
    family="module",
    paper="arXiv:2303.03667",
    venue="CVPR 2023",
    example={"in_channels": 16, "layer_scale": 0.5},
    traits=Traits(),
    parts=("mlp",),
)
class FasterBlock(nn.Module):
    """Partial convolution and two 1×1 layers. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: None keeps C; another width is made first.
        n_div: one of n_div parts of the channels is convolved.
        mlp_ratio: width between the 1×1 layers, relative to `out_channels`.
        act: between them; the smallest FasterNets have "gelu".
        mlp: module in their place.
        layer_scale: first value of a learned factor per channel; None: there is none.
        drop_path: rate at which training leaves the branch out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        n_div: int = 4,
        mlp_ratio: float = 2.0,
        act: str | nn.Module = "relu",
        *,
        mlp: Part | None = None,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.out_channels = c = out_channels or in_channels
        hidden = int(c * mlp_ratio)
        self.match = matched(in_channels, c)
        self.mixer = PartialConv3(c, n_div)
        self.mlp: nn.Module
        if mlp is None:
            self.mlp = nn.Sequential(
                ConvNormAct(c, hidden, 1, act=act), nn.Conv2d(hidden, c, 1, bias=False)
            )
        else:
            self.mlp = build_part(mlp, "FasterBlock.mlp", c, c, hidden_channels=hidden)
        self.scale = nn.Identity() if layer_scale is None else LayerScale2d(c, layer_scale)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.match(x)
        return x + self.drop(self.scale(self.mlp(self.mixer(x))))
