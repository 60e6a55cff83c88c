"""Adapters of the family `module`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.conv import ConvNormAct
from detrkit.layers.response_norm import GlobalResponseNorm, response_norm
from detrkit.modules.module.ap_bottleneck import PinwheelConv
from detrkit.modules.module.camixer import CAMixer, Predictor
from detrkit.modules.module.faster_block import FasterBlock
from detrkit.modules.module.irmb import iRMB
from detrkit.modules.module.jdpm import JDPM
from detrkit.modules.module.legm import LEGMBlock
from detrkit.modules.module.nnwnet import OPE, LocalBlock
from tests.reference.module_adapters.adapter import Adapter, Build, by_variant, named, with_linear


def ap_bottleneck(case: Any) -> nn.Module:
    side, second = case.kwargs["k"]
    assert side == second
    return named(
        "APBottleneck",
        drop=("k",),
        c1="in_channels",
        c2="out_channels",
        g="groups",
        e="expansion",
        kernel_size=side,
    )(case)


def pinwheel(case: Any) -> nn.Module:
    kwargs = case.kwargs
    return PinwheelConv(kwargs["c1"], kwargs["c2"], kwargs["k"], kwargs["s"])


class WithShortcut(nn.Module):
    """x + f(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def faster_block(case: Any) -> nn.Module:
    """The GLU of collections adds its own input."""
    kwargs = case.kwargs
    glu = kwargs.get("ffn") == "ConvolutionalGLU"
    module = FasterBlock(
        kwargs.get("dim", kwargs.get("inc")),
        kwargs.get("ouc"),
        n_div=kwargs["n_div"],
        mlp_ratio=kwargs.get("mlp_ratio", 1),
        act=kwargs.get("act_layer", "silu"),
        mlp="ConvolutionalGLU" if glu else None,
        layer_scale=kwargs.get("layer_scale_init_value") or None,
    )
    if glu:
        module.mlp = WithShortcut(module.mlp)
    return module


def strip_block(case: Any) -> nn.Module:
    strip = (case.kwargs["k1"], case.kwargs["k2"])
    return named("StripBlock", ("k1", "k2", "norm"), dim="in_channels", kernel_size=strip)(case)


def fcm(case: Any) -> nn.Module:
    second = case.variant.startswith("FCM_2")
    return named(
        "FCM", ("dim_out",), dim="in_channels", ratio=0.75 if second else 0.25, last=not second
    )(case)


def arf(case: Any) -> nn.Module:
    module = named("ARF", c1="in_channels", c2="out_channels")(case)
    if case.variant.endswith("as_copied"):
        module.masks.act = nn.Identity()
    return module


class ChannelsLastResponseNorm(GlobalResponseNorm):
    """With weights of the shape that maps (B, H, W, C) have."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gamma, self.beta = (nn.Parameter(torch.zeros(1, 1, 1, channels)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return response_norm(x, self.gamma.movedim(3, 1), self.beta.movedim(3, 1))


def unireplk(case: Any) -> nn.Module:
    drop = ("deploy", "attempt_use_lk_impl")
    build = named(
        "UniRepLKNetBlock",
        drop,
        dim="in_channels",
        ffn_factor="mlp_ratio",
        layer_scale_init_value="layer_scale",
    )
    module = with_linear(build, "fc1", "fc2")(case)
    module.response = ChannelsLastResponseNorm(module.fc1.out_features)
    return module


def darkir(name: str) -> Build:
    return named(
        name,
        c="in_channels",
        DW_Expand="expansion",
        FFN_Expand="mlp_ratio",
        extra_depth_wise="extra",
    )


def pki_block(case: Any) -> nn.Module:
    if not case.variant.startswith("PKIBlock"):
        return named("PKIModule", ("with_caa",))(case)
    drop = ("out_channels", "ffn_kernel_size")
    return named("PKIBlock", drop, ffn_scale="mlp_ratio")(case)


def vheat(case: Any) -> nn.Module:
    """Heat2D, or HeatBlock whose operator stands first in a branch, or behind its norm."""
    if case.variant.startswith("Heat2D"):
        build, path = (
            named("Heat2D", ("hidden_dim", "freq_embed"), dim="in_channels", res="size"),
            "",
        )
    else:
        drop = ("norm_layer", "freq_embed")
        build = named("HeatBlock", drop, hidden_dim="in_channels", res="size")
        path = f"branches.0.{int(not case.kwargs['post_norm'])}."
    return with_linear(build, f"{path}enter", f"{path}leave")(case)


def legm(case: Any) -> nn.Module:
    kwargs = case.kwargs
    if "depth" in kwargs:
        return named("LEGM", ("network_depth", "attn_loc"), dim="in_channels")(case)
    return LEGMBlock(
        kwargs["dim"],
        kwargs["num_heads"],
        kwargs.get("mlp_ratio", 4.0),
        kwargs["window_size"],
        kwargs["shift_size"],
        kwargs["use_attn"],
        kwargs["conv_type"],
    )


def nnwnet(case: Any) -> nn.Module:
    kwargs = case.kwargs
    if case.variant.startswith("global"):
        return named("GlobalBlock", in_dim="in_channels", dim="out_channels")(case)
    if case.variant.startswith("ope"):
        return OPE(kwargs["inplanes"], kwargs["planes"])
    return LocalBlock(
        kwargs["inplanes"], kwargs["planes"], kwargs["hidden_planes"], kwargs["down_or_up"]
    )


def leg_block(case: Any) -> nn.Module:
    prior = "gaussian" if case.kwargs["stage"] else "edge"
    renames = {"dim": "in_channels", "act_layer": "act"}
    return named("LEGBlock", ("stage", "norm_layer"), prior=prior, **renames)(case)


def channel_norm_of_sequences(case: Any) -> nn.Module:
    """With the norm's weights in the shape (1, C, 1)."""
    module = named("EfficientViMBlock", dim="in_channels")(case)
    mixer = module.steps[1][1]
    module.steps[1][0] = SequenceNorm(module.out_channels)
    conv = mixer.bcdt[0]
    mixer.bcdt[0] = SequenceConv(conv.out_channels, conv.in_channels)
    return module


class SequenceConv(nn.Module):
    """A 1×1 convolution without bias whose weight is that of a Conv1d."""

    def __init__(self, out_channels: int, in_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[..., None])


class SequenceNorm(nn.Module):
    """Layer norm of the channels, with weights for (B, C, L)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.ones(1, channels, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.flatten(), self.bias.flatten()
        y = F.layer_norm(x.movedim(1, 3), weight.shape, weight, bias, eps=1e-5)
        return y.movedim(3, 1)


def jdpm(case: Any) -> nn.Module:
    """The authors' class ends with a head of one channel."""
    width = case.kwargs["in_channels"]
    module = JDPM(case.kwargs["channels"], width)
    module.norms = nn.ModuleList([module.norms[0]] * 4)  # there the four scales share one
    if not case.kwargs["with_head"]:
        return module
    head = (ConvNormAct(width, width // 2, 3, bias=True, act="relu"), nn.Conv2d(width // 2, 1, 1))
    return nn.Sequential(module, *head)


def irmb(case: Any) -> nn.Module:
    given = dict(case.kwargs)
    assert given.pop("norm_in", True)
    norms = {"bn_2d": "batch", "ln_2d": "layer"}
    names = {
        "dim_in": "in_channels",
        "dim_out": "out_channels",
        "exp_ratio": "expansion",
        "dw_ks": "kernel_size",
        "act_layer": "act",
        "attn_s": "attn",
    }
    norm = norms[given.pop("norm_layer", "bn_2d")]
    return iRMB(norm=norm, **{names.get(key, key): value for key, value in given.items()})


def dynamic_filter(case: Any) -> nn.Module:
    drop = ("bias", "weight_resize")
    renames = {"expansion_ratio": "expansion", "reweight_expansion_ratio": "route_ratio"}
    return named("DynamicFilter", drop, dim="in_channels", **renames)(case)


def repvit(case: Any) -> nn.Module:
    kwargs = case.kwargs
    return named(
        "RepViTBlock",
        drop=("hidden_dim", "use_hs"),
        inp="in_channels",
        oup="out_channels",
        expansion=kwargs["hidden_dim"] / kwargs["inp"],
    )(case)


def fat_block(case: Any) -> nn.Module:
    return with_linear(
        named(
            "FATBlock",
            drop=("drop_path", "type"),
            trans_dim="in_channels",
            head_dim="num_heads",
            window_size_fm="tile_size",
            shifted=case.kwargs["type"] == "SW",
        ),
        "mlp.fc1",
        "mlp.fc2",
    )(case)


class ConditionedMixer(CAMixer):
    """With the official global condition, two channels between values and places."""

    given: Tensor

    def condition(self, x: Tensor, v: Tensor) -> Tensor:
        own = super().condition(x, v)
        return torch.cat([own[:, : v.shape[1]], self.given, own[:, v.shape[1] :]], dim=1)


def camixer(case: Any) -> nn.Module:
    arguments = {"in_channels": case.kwargs["dim"], "window_size": 8, "ratio": case.kwargs["ratio"]}
    if "condition_global" not in case.kwargs:
        return CAMixer(**arguments)
    from fill import feature  # type: ignore[import-not-found]

    module = ConditionedMixer(**arguments)
    width = case.kwargs["dim"]
    module.predictor = Predictor(width + 4, width, 8)
    module.given = feature(1, 2, *case.inputs[0][0][2:], seed=11)
    return module


ADAPTERS = {
    "FATBlock": Adapter(fat_block),
    "camixer": Adapter(camixer, corrected="no random choice in evaluation"),
    "DynamicFilter": Adapter(dynamic_filter),
    "ESC": Adapter(
        named(
            "ESCBlock",
            drop=("attn_type",),
            dim="in_channels",
            pdim="partial_channels",
            exp_ratio="expansion",
        )
    ),
    "FATBlock_FASA": Adapter(named("FATBlock_FASA", drop=("out_dim", "stride"), dim="in_channels")),
    "JDPM": Adapter(jdpm, corrected="a norm for each dilation"),
    "LEGBlock": Adapter(leg_block, corrected="filters stay fixed"),
    "LEGM": Adapter(legm),
    "PKIModule": Adapter(pki_block),
    "RepViTBlock": Adapter(repvit),
    "efficientVIM": Adapter(channel_norm_of_sequences),
    "elgca": Adapter(named("ELGCABlock", dim="in_channels", heads="num_groups")),
    "iRMB": Adapter(irmb),
    "nnWNet": Adapter(nnwnet),
    "vHeat": Adapter(vheat),
    "APBottleneck": Adapter(by_variant(PConv=pinwheel, other=ap_bottleneck)),
    "fasterblock": Adapter(faster_block, corrected="no second shortcut around the GLU"),
    "starblock": Adapter(named("StarBlock", dim="in_channels")),
    "DWR": Adapter(
        named("DWR", inc="in_channels", ouc="out_channels", dense=True),
        corrected="the paper's depthwise branches",
    ),
    "mambaout": Adapter(with_linear(named("GatedCNNBlock", dim="in_channels"), "fc1", "fc2")),
    "StripBlock": Adapter(strip_block),
    "IDWB": Adapter(
        named(
            "MetaNeXtBlock",
            drop=("token_mixer", "act_layer"),
            dim="in_channels",
            ls_init_value="layer_scale",
        )
    ),
    "FCM": Adapter(fcm),
    "ARF": Adapter(arf, corrected="masks with their sigmoid"),
    "UniRepLKBlock": Adapter(unireplk),
    "RCB": Adapter(
        named("RepConvBlock", drop=("deploy",), dim="in_channels", ls_init_value="layer_scale")
    ),
    "MSBlock": Adapter(
        named(
            "MSBlock",
            in_channel="in_channels",
            out_channel="out_channels",
            layers_num="num_layers",
        )
    ),
    "MSCB": Adapter(
        named("MSCB", expansion_factor="expansion", dw_parallel="parallel", activation="act")
    ),
    "EBlock": Adapter(darkir("EBlock")),
    "DBlock": Adapter(darkir("DBlock")),
    "FMB": Adapter(named("FMB", dim="in_channels", ffn_scale="mlp_ratio")),
    "LFE": Adapter(named("LFE", inp_channels="in_channels", exp_ratio="expansion", act_type="act")),
}
