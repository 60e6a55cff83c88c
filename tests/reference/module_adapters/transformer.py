"""Adapters of the family `transformer`."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from detrkit.layers.tokens import from_tokens, tokens_of
from detrkit.modules.transformer.fssa import FSSA, FrequencyAttention, SpatialAttention
from detrkit.ops.spectrum import ifft2_magnitude
from tests.reference.module_adapters.adapter import (
    Adapter,
    Build,
    by_variant,
    called,
    filled_by_shape,
    grid,
    named,
    tokens,
    tokens_or_maps,
    with_linear,
)


def pola(case: Any) -> nn.Module:
    return named("PolaLinearAttention", drop=("num_patches",), dim="in_channels", size=grid(case))(
        case
    )


def cascaded(case: Any) -> nn.Module:
    side = case.kwargs.get("window_resolution", case.kwargs.get("resolution"))
    return named(
        "CascadedGroupAttention",
        drop=("attn_ratio", "resolution", "window_resolution"),
        dim="in_channels",
        window_resolution=side,
    )(case)


def dattention(case: Any) -> nn.Module:
    kwargs = case.kwargs
    position = "dwc" if kwargs["dwc_pe"] else "log_cpb" if kwargs["log_cpb"] else "table"
    names = ("stride", "offset_range_factor")
    drop = tuple(key for key in kwargs if key not in names)
    return named(
        "DAttention",
        drop=drop,
        in_channels=kwargs["n_heads"] * kwargs["n_head_channels"],
        num_heads=kwargs["n_heads"],
        num_groups=kwargs["n_groups"],
        kernel_size=kwargs["ksize"],
        position=position,
        size=case.inputs[0][0][2:],
    )(case)


def twenty_rows(module: nn.Module, case: Any, inputs: list[Tensor]) -> list[Tensor]:
    """Tokens of a group with 20 rows."""
    (x,) = inputs
    size = (20, x.shape[1] // 20)
    return [tokens_of(y) for y in called(module, case, [from_tokens(x, size)])]


def adaptive_sparse(case: Any) -> nn.Module:
    kwargs = case.kwargs
    side = kwargs["win_size"]
    return named(
        "AdaptiveSparseSA",
        drop=("win_size", "sparseAtt", "shift_size"),
        dim="in_channels",
        window_size=side if isinstance(side, int) else side[0],
        shift_size=kwargs.get("shift_size", 0),
        sparse=kwargs.get("sparseAtt", True),
    )(case)


class LiteralFrequencyAttention(FrequencyAttention):
    """The published inverse: over a head's channels and all pixels."""

    def inverse(self, real: Tensor, imag: Tensor, size: tuple[int, int]) -> Tensor:
        return ifft2_magnitude(real, imag).flatten(1, 2).unflatten(2, size)


def frequency(case: Any) -> nn.Module:
    kwargs = case.kwargs
    return LiteralFrequencyAttention(kwargs["dim"], kwargs["num_heads"], kwargs["bias"])


def spatial(case: Any) -> nn.Module:
    kwargs = case.kwargs
    return SpatialAttention(kwargs["dim"], kwargs["num_heads"], kwargs["bias"])


def fssa(case: Any) -> nn.Module:
    module = named("FSSA", dim="in_channels")(case)
    assert isinstance(module, FSSA)
    module.frequency = frequency(case)  # type: ignore[assignment]
    return module


def masked_window(case: Any) -> nn.Module:
    """With the published mask, which counts from the corner of the keys' window."""
    module: Any = named("DilatedMWSA", dim="in_channels")(case)
    even = module._distance() % 2 == 0
    module.allowed = (even[:, None, :, None] & even[None, :, None, :]).flatten(2).flatten(0, 1)
    return module  # type: ignore[no-any-return]


def shsa_of_copies(case: Any) -> nn.Module:
    return named("SHSA", dim="in_channels", partial_channels=case.kwargs["dim"] // 2, act="silu")(
        case
    )


def sfa(**arguments: Any) -> Build:
    def build(case: Any) -> nn.Module:
        index = case.kwargs["b_idx"]
        shifted = index > 0 and (index - 2) % 4 == 0
        return named(
            "SFA",
            drop=("reso", "shift_size", "b_idx"),
            dim="in_channels",
            shift_size=tuple(case.kwargs["shift_size"]) if shifted else None,
            **arguments,
        )(case)

    return build


def viewed_or_tokens(module: nn.Module, case: Any, inputs: list[Tensor]) -> list[Tensor]:
    """The published MSLA views tokens as a map and does not transpose them."""
    if case.variant != "official":
        return tokens(module, case, inputs)
    (x,) = inputs
    height, width = grid(case)
    (y,) = called(module, case, [x.reshape(x.shape[0], x.shape[2], height, width)])
    return [y.reshape(x.shape)]


def msla(case: Any) -> nn.Module:
    """Its reference, the corrected one too, reads the heads as tokens without transposing them."""
    module: Any = named("MSLA", dim="in_channels")(case)
    module.attention.merge = lambda heads: heads.reshape(len(heads), heads.shape[2], -1)
    return module  # type: ignore[no-any-return]


def cpia(case: Any) -> nn.Module:
    """With the published share, of the whole batch, and a layer that nothing uses."""
    module: Any = named("CPIA_SA", dim="in_channels")(case)
    dim = case.kwargs["dim"]
    module.channel.linear_2 = nn.Conv2d(dim, dim, 1)
    module.channel.share = lambda gate: gate.mean().expand(len(gate))
    return module  # type: ignore[no-any-return]


def with_gate(module: nn.Module, case: Any) -> None:
    """Its fixed gate is no constant of the reference."""
    filled_by_shape(module.requires_grad_(), case)


ADAPTERS = {
    "PolaLinearAttention": Adapter(pola, tokens),
    "BiLevelRoutingAttention": Adapter(
        by_variant(
            official_legacy=with_linear(
                named("BiLevelRoutingAttention", drop=("auto_pad",), dim="in_channels"),
                "qkv",
                "proj",
            ),
            official_nchw=named("nchwBRA", dim="in_channels"),
        )
    ),
    "CascadedGroupAttention": Adapter(cascaded),
    "DAttention": Adapter(dattention),
    "DPBAttention": Adapter(
        named("DPBAttention", drop=("group_size",), dim="in_channels"), twenty_rows
    ),
    "AdaptiveSparseSA": Adapter(adaptive_sparse, tokens_or_maps),
    "GSA": Adapter(named("GSA", drop=("bias",), channels="in_channels")),
    "RSA": Adapter(
        named(
            "RSA",
            drop=("bias", "num_heads"),
            channels="in_channels",
            shifts="shift",
            window_sizes="window_size",
        )
    ),
    "FSSA": Adapter(
        by_variant(official_frequency=frequency, official_spatial=spatial, sum=fssa),
        corrected="inverse transform over rows and columns",
    ),
    "DilatedGCSA": Adapter(named("DilatedGCSA", dim="in_channels")),
    "DilatedMWSA": Adapter(masked_window, corrected="the mask shows the pixel itself"),
    "SHSA": Adapter(
        by_variant(
            official=named("SHSA", dim="in_channels", pdim="partial_channels"),
            fork_silu=shsa_of_copies,
        )
    ),
    "CTA": Adapter(
        by_variant(
            official=named("CTA", dim="in_channels"),
            fork=named("CTA", dim="in_channels", spatial_reduction=2),
        ),
        tokens_or_maps,
    ),
    "SFA": Adapter(by_variant(official=sfa(), fork=sfa(spatial_reduction=2)), tokens_or_maps),
    "MSLA": Adapter(msla, viewed_or_tokens, corrected="tokens and heads are transposed"),
    "CPIA_SA": Adapter(
        cpia, fill=with_gate, corrected="each image has its own share, at least one"
    ),
}
