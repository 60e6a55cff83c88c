"""Adapters of the family `attention`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detrkit.layers.conv import same_padding
from detrkit.modules.attention.fsa import FSA
from tests.reference.module_adapters.adapter import Adapter, named


def unit_or_block(unit: str, block: str) -> Any:
    """Both classes of a paper: the unit takes `dim`, the block around it `d_model`."""
    builds = {"dim": named(unit, dim="in_channels"), "d_model": named(block, d_model="in_channels")}

    def build(case: Any) -> nn.Module:
        (argument,) = case.kwargs
        return builds[argument](case)

    return build


def multi_seam(case: Any) -> nn.Module:
    act = "silu" if case.variant == "fork_silu" else "gelu"
    names = {"c1": "in_channels", "patch_size": "patch_sizes"}
    names = {name: ours for name, ours in names.items() if name in case.kwargs}
    return named("MultiSEAM", drop=("c2",), act=act, **names)(case)


class LiteralFSA(FSA):
    """The published form: a table as large as the map, of which the centre counts."""

    def __init__(self, channels: int, size: tuple[int, int], ratio: int) -> None:
        super().__init__(channels, ratio)
        self.window = nn.Parameter(torch.empty(channels, *size, 2))
        self.centre = tuple(slice(max(n // 2 - ratio, 0), n // 2 + ratio) for n in size)

    def filtered(self, x: Tensor) -> Tensor:
        """Shifts images and channels too, and back only rows and columns; scales by 1/sqrt(HW)."""
        spectrum = torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"))
        return torch.fft.ifft2(torch.fft.ifftshift(self.masked(spectrum), dim=(2, 3))).real

    def masked(self, spectrum: Tensor) -> Tensor:
        factor = torch.ones_like(spectrum[0])
        factor[:, self.centre[0], self.centre[1]] = torch.view_as_complex(self.window)[
            :, self.centre[0], self.centre[1]
        ]
        return spectrum * factor


class TableFSA(FSA):
    """The corrected form with the published table, of which our window is the centre."""

    def __init__(self, channels: int, size: tuple[int, int], ratio: int) -> None:
        super().__init__(channels, ratio)
        self.ratio = ratio
        del self.window
        self.table = nn.Parameter(torch.empty(channels, *size, 2))

    @property
    def window(self) -> Tensor:
        rows, columns = (
            slice(n // 2 - self.ratio, n // 2 + self.ratio) for n in self.table.shape[1:3]
        )
        return self.table[:, rows, columns]


def fsa(case: Any) -> nn.Module:
    form = TableFSA if "fixed" in case.variant else LiteralFSA
    (shape, _), *_ = case.inputs
    return form(case.kwargs["input_channel"], shape[2:], case.kwargs["ratio"])


def cdfa(case: Any) -> nn.Module:
    if case.variant.startswith("fork"):
        return named("CDFA", dim="in_channels")(case)
    widths = [case.kwargs["in_c"], case.kwargs["dim"], case.kwargs["dim"]]
    return named(
        "ContrastDrivenFeatureAggregation",
        drop=("in_c",),
        dim="out_channels",
        in_channels=widths,
    )(case)


def glsa(case: Any) -> nn.Module:
    act = "silu" if case.variant == "fork_silu" else "relu"
    module: Any = named("GLSA", input_dim="in_channels", embed_dim="out_channels", act=act)(case)
    module.context.score = nn.Conv2d(module.out_channels, 1, 1)  # with a bias that cancels
    return module  # type: ignore[no-any-return]


class ForkMCA(nn.Module):
    """The detectors' MCA: dense strips, no softmax, and the sum as a gate."""

    def __init__(self, channels: int, kernel_sizes: list[int], num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))
        self.strips = nn.ModuleList(
            nn.ModuleList(
                nn.Conv2d(channels, channels, side, padding=same_padding(side)) for side in sides
            )
            for sides in zip(*[((k, 1), (1, k)) for k in kernel_sizes], strict=True)
        )
        self.qkv = nn.ModuleList(nn.Conv2d(channels, 3 * channels, 1) for _ in range(2))
        self.out = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        (k1, q1, v1), (k2, q2, v2) = (
            qkv(sum(strip(norm(x)) for strip in strips))
            .unflatten(1, (self.num_heads, 3, -1))
            .flatten(3, 4)  # (B, M, 3, c·H, W)
            .unbind(2)
            for norm, strips, qkv in zip(self.norms, self.strips, self.qkv, strict=True)
        )
        channels, height = x.shape[1] // self.num_heads, x.shape[2]
        scale = channels * height**-0.5
        outs = [q @ k.transpose(-2, -1) * scale @ v for q, k, v in ((q1, k2, v1), (q2, k1, v2))]
        maps = [out.unflatten(2, (channels, height)).flatten(1, 2) for out in outs]
        gate = sum(conv(out) for conv, out in zip(self.out, maps, strict=True))
        return x * gate.sigmoid()


def mca(case: Any) -> nn.Module:
    if case.variant == "fork":
        kwargs = case.kwargs
        return ForkMCA(kwargs["chn"], kwargs["kernel_sizes"], kwargs["num_heads"])
    return named("MCA", drop=("LayerNorm_type",), dim="in_channels")(case)


ADAPTERS = {
    "SEAM": Adapter(named("SEAM", drop=("c2",), c1="in_channels", n="depth")),
    "MultiSEAM": Adapter(multi_seam),
    "CoordAtt": Adapter(named("CoordAtt", drop=("oup",), inp="in_channels")),
    "EMA": Adapter(named("EMA", channels="in_channels")),
    "SimAM": Adapter(named("SimAM", drop=("channels",), in_channels=64)),
    "LSKBlock": Adapter(unit_or_block("LSKUnit", "LSKBlock")),
    "DeformableLKA": Adapter(unit_or_block("DeformableLKA", "DeformableLKAAttention")),
    "MLCA": Adapter(named("MLCA", in_size="in_channels")),
    "FSA": Adapter(
        fsa, corrected="no exchange of images and channels by the shift, orthonormal inverse"
    ),
    "CDFA": Adapter(cdfa),
    "GLSA": Adapter(glsa),
    "MCA": Adapter(mca),
}
