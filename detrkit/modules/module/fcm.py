"""FBRT-YOLO: Faster and Better for Real-Time Aerial Image Detection. Xiao et al., AAAI 2025.

a = W f3×3(f3×3(x_1 … x_s)),   b = W (x_s+1 … x_C)
y = f1×1(sigmoid(BN(w b)) · a + sigmoid(mean DW3×3(a)) · b)        feature complementary mapping
"""

from __future__ import annotations

from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.depthwise import depthwise
from detrkit.registry import MODULES, Traits


@MODULES.register(
    family="module",
    paper="AAAI 2025 (FBRT-YOLO)",
    venue="AAAI 2025",
    example={"in_channels": 16},
    traits=Traits(),
)
class FCM(nn.Module):
    """Convolved and plain channels, each weighed by the other. (B, C, H, W) -> (B, out, H, W).

    Args:
        in_channels: C.
        out_channels: None: C.
        ratio: share of the channels that is convolved; the paper's FCM has 1/4, its FCM_2 and
            FCM_3, for shallower stages, 3/4.
        last: whether a 1×1 layer follows; only FCM has it, and only it changes the width.

    Raises:
        ValueError: a share without channels, or another width without the last layer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        ratio: float = 0.25,
        last: bool = True,
    ) -> None:
        super().__init__()
        c, convolved = in_channels, int(in_channels * ratio)
        self.out_channels = out_channels or c
        if not 0 < convolved < c:
            raise ValueError(f"ratio {ratio} convolves {convolved} of {c} channels")
        if not last and self.out_channels != c:
            raise ValueError(f"without the last layer out_channels is {c}, got {out_channels}")
        self.widths = [convolved, c - convolved]
        self.convolve = nn.Sequential(
            ConvNormAct(convolved, convolved, 3, act="silu"),
            ConvNormAct(convolved, convolved, 3, act="silu"),
            ConvNormAct(convolved, c, 1, act="silu"),
        )
        self.plain = ConvNormAct(c - convolved, c, 1, act="silu")
        self.place = ConvNormAct(c, 1, 1, bias=True, act="sigmoid")
        self.channel = nn.Sequential(depthwise(c, 3), nn.AdaptiveAvgPool2d(1), nn.Sigmoid())
        self.last = ConvNormAct(c, self.out_channels, 1, act="silu") if last else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.split(self.widths, dim=1)
        a, b = self.convolve(first), self.plain(second)
        return self.last(self.place(b) * a + self.channel(a) * b)
