"""Which tensor of the authors' models is called what in Hugging Face transformers.

A rule is a pair of templates; `{i}` and `{j}` stand for numbers, `{rest}` for the end of a name:

    encoder.fpn_blocks.{i}.cv1.{rest}    <->    model.encoder.fpn_blocks.{i}.conv1.{rest}

The first rule that fits decides, so special ones come before general ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

#: transformers' `model_type` of the three classes.
HFModel = Literal["d_fine", "rt_detr_v2", "deimv2"]

#: Tensors that the authors' models hold under two names.
ALIASES = {
    "decoder.up": "decoder.decoder.up",
    "decoder.reg_scale": "decoder.decoder.reg_scale",
}


@dataclass(frozen=True)
class Rule:
    """How one group of tensors is called.

    Attributes:
        ours: template of the authors' name.
        theirs: templates of transformers' names; several where the authors' tensor is packed.
        words: pairs (authors', transformers') of words that differ inside `{rest}`.
    """

    ours: str
    theirs: tuple[str, ...]
    words: tuple[tuple[str, str], ...] = ()

    def to_theirs(self, name: str) -> tuple[str, ...] | None:
        """transformers' names of the authors' `name`, or None if the rule does not fit."""
        values = _match(self.ours, name)
        if values is None:
            return None
        values = _translated(values, dict(self.words))
        return tuple(template.format(**values) for template in self.theirs)

    def to_ours(self, name: str) -> tuple[str, int] | None:
        """The authors' name of transformers' `name`, and which part of the tensor it is."""
        for part, template in enumerate(self.theirs):
            values = _match(template, name)
            if values is not None:
                back = {theirs: ours for ours, theirs in self.words}
                return self.ours.format(**_translated(values, back)), part
        return None


def _rule(ours: str, *theirs: str, words: tuple[tuple[str, str], ...] = ()) -> Rule:
    return Rule(ours, theirs, words)


_CONV_BN = (("conv", "convolution"), ("bn", "normalization"))
_CONV_NORM = (("conv", "convolution"), ("norm", "normalization"))
_SEQUENTIAL = (("conv", "0"), ("norm", "1"))


def _hgnetv2(prefix: str) -> Iterator[Rule]:
    yield _rule("backbone.stem.{rest}", f"{prefix}.embedder.{{rest}}", words=_CONV_BN)
    yield _rule("backbone.stages.{rest}", f"{prefix}.encoder.stages.{{rest}}", words=_CONV_BN)


def _rtdetr_hgnetv2() -> Iterator[Rule]:
    """What RT-DETRv2 calls otherwise in its HGNetv2 (L, X, H)."""
    theirs = "model.backbone.model"
    for stem in ("stem2a", "stem2b"):
        yield _rule(
            f"backbone.stem.{stem}.conv.1.{{rest}}",
            f"{theirs}.embedder.{stem}.convolution.{{rest}}",
        )
    block = "stages.{i}.blocks.{j}"
    for number, name in enumerate(("squeeze", "excitation")):
        yield _rule(
            f"backbone.{block}.aggregation_{name}_conv.{{rest}}",
            f"{theirs}.encoder.{block}.aggregation.{number}.{{rest}}",
            words=_CONV_BN,
        )


def _presnet() -> Iterator[Rule]:
    for i in (1, 2, 3):
        yield _rule(
            f"backbone.conv1.conv1_{i}.{{rest}}",
            f"model.backbone.model.embedder.embedder.{i - 1}.{{rest}}",
            words=_CONV_NORM,
        )
    ours = "backbone.res_layers.{i}.blocks.{j}"
    theirs = "model.backbone.model.encoder.stages.{i}.layers.{j}"
    # behind the average pooling of the "d" variants the convolution is one level deeper
    for inner in ("conv", "norm"):
        yield _rule(
            f"{ours}.short.conv.{inner}.{{rest}}",
            f"{theirs}.shortcut.1.{dict(_CONV_NORM)[inner]}.{{rest}}",
        )
    yield _rule(f"{ours}.short.{{rest}}", f"{theirs}.shortcut.{{rest}}", words=_CONV_NORM)
    for number, branch in enumerate(("branch2a", "branch2b", "branch2c")):
        yield _rule(
            f"{ours}.{branch}.{{rest}}", f"{theirs}.layer.{number}.{{rest}}", words=_CONV_NORM
        )


def _vit_tiny() -> Iterator[Rule]:
    """DEIMv2's ViT-Tiny with its adapter. The larger ViTs have no counterpart: other biases."""
    ours, theirs = "backbone.dinov3._model", "model.conv_encoder.backbone"
    yield _rule(f"{ours}.cls_token", f"{theirs}.embeddings.cls_token")
    yield _rule(
        f"{ours}.patch_embed.proj.{{rest}}", f"{theirs}.embeddings.patch_embeddings.{{rest}}"
    )
    block, layer = f"{ours}.blocks.{{i}}", f"{theirs}.model.layer.{{i}}"
    yield _rule(
        f"{block}.attn.qkv.{{rest}}",
        *(f"{layer}.attention.{part}_proj.{{rest}}" for part in "qkv"),
    )
    yield _rule(f"{block}.attn.proj.{{rest}}", f"{layer}.attention.o_proj.{{rest}}")
    yield _rule(f"{block}.mlp.fc1.{{rest}}", f"{layer}.mlp.up_proj.{{rest}}")
    yield _rule(f"{block}.mlp.fc2.{{rest}}", f"{layer}.mlp.down_proj.{{rest}}")
    for number in (1, 2):
        yield _rule(f"{block}.norm{number}.{{rest}}", f"{layer}.norm{number}.{{rest}}")
    adapter = "model.conv_encoder.spatial_tuning_adapter"
    # an activation comes before the convolutions 3 and 4 and moves their numbers
    for part, name, first in (
        ("stem", "stem_conv", 0),
        ("conv2", "conv2", 0),
        ("conv3", "conv3", 1),
        ("conv4", "conv4", 1),
    ):
        for offset, kind in enumerate(("conv", "norm")):
            yield _rule(
                f"backbone.sta.{part}.{first + offset}.{{rest}}",
                f"{adapter}.{name}.{kind}.{{rest}}",
            )
    yield _rule("backbone.convs.{i}.{rest}", "model.conv_encoder.fusion_proj.{i}.conv.{rest}")
    yield _rule("backbone.norms.{i}.{rest}", "model.conv_encoder.fusion_proj.{i}.norm.{rest}")


def _attention(ours: str, theirs: str) -> Iterator[Rule]:
    for kind in ("weight", "bias"):
        yield _rule(
            f"{ours}.self_attn.in_proj_{kind}",
            *(f"{theirs}.self_attn.{part}_proj.{kind}" for part in "qkv"),
        )
    yield _rule(f"{ours}.self_attn.out_proj.{{rest}}", f"{theirs}.self_attn.o_proj.{{rest}}")


def _feed_forward(ours: str, theirs: str, model: HFModel) -> Iterator[Rule]:
    names = ("fc1", "fc2") if model == "rt_detr_v2" else ("layers.0", "layers.1")
    for number, name in enumerate(names, start=1):
        yield _rule(f"{ours}.linear{number}.{{rest}}", f"{theirs}.mlp.{name}.{{rest}}")


def _encoder(model: HFModel) -> Iterator[Rule]:
    layer, theirs = "encoder.encoder.{i}.layers.{j}", "model.encoder.aifi.{i}.layers.{j}"
    yield from _attention(layer, theirs)
    yield from _feed_forward(layer, theirs, model)
    yield _rule(f"{layer}.norm1.{{rest}}", f"{theirs}.self_attn_layer_norm.{{rest}}")
    yield _rule(f"{layer}.norm2.{{rest}}", f"{theirs}.final_layer_norm.{{rest}}")
    yield _rule("encoder.lateral_convs.{rest}", "model.encoder.lateral_convs.{rest}")
    if model == "rt_detr_v2":
        for name in ("fpn_blocks", "pan_blocks", "downsample_convs"):
            yield _rule(f"encoder.{name}.{{rest}}", f"model.encoder.{name}.{{rest}}")
        yield _rule(
            "encoder.input_proj.{i}.{rest}",
            "model.encoder_input_proj.{i}.{rest}",
            words=_SEQUENTIAL,
        )
        return
    for block in ("fpn_blocks.{i}", "pan_blocks.{i}", "fpn_block", "pan_block"):
        yield from _aggregation(f"encoder.{block}", f"model.encoder.{block}", model)
    for number in (1, 2):
        yield _rule(
            f"encoder.downsample_convs.{{i}}.0.cv{number}.{{rest}}",
            f"model.encoder.downsample_convs.{{i}}.conv{number}.{{rest}}",
        )
    if model == "d_fine":
        yield _rule(
            "encoder.input_proj.{i}.{rest}",
            "model.encoder_input_proj.{i}.{rest}",
            words=_SEQUENTIAL,
        )


def _aggregation(ours: str, theirs: str, model: HFModel) -> Iterator[Rule]:
    """The block of four convolutions of D-FINE's encoder (RepNCSPELAN)."""
    yield _rule(f"{ours}.cv1.{{rest}}", f"{theirs}.conv1.{{rest}}")
    for number in (2, 3):
        path = f"{theirs}.csp_rep{number - 1}"
        trailing = f"{path}.conv2" if model == "deimv2" else f"{theirs}.conv{number}"
        yield _rule(f"{ours}.cv{number}.1.{{rest}}", f"{trailing}.{{rest}}")
        yield _rule(f"{ours}.cv{number}.0.{{rest}}", f"{path}.{{rest}}")
    if model == "deimv2":
        # without a convolution behind them, the two paths are not numbered
        for number in (2, 3):
            yield _rule(f"{ours}.cv{number}.{{rest}}", f"{theirs}.csp_rep{number - 1}.{{rest}}")
    last = "conv2" if model == "deimv2" else "conv4"
    yield _rule(f"{ours}.cv4.{{rest}}", f"{theirs}.{last}.{{rest}}")


def _lite_encoder() -> Iterator[Rule]:
    """DEIMv2's encoder of two levels; both encoders call their projections `input_proj`."""
    for number in (1, 2):
        for position, kind in ((1, "conv"), (2, "norm")):
            yield _rule(
                f"encoder.down_sample{number}.{position}.{{rest}}",
                f"model.encoder.down_conv{number}.{kind}.{{rest}}",
            )
    yield _rule("encoder.bi_fusion.cv.{rest}", "model.encoder.bi_fusion_conv.{rest}")


def _decoder(model: HFModel) -> Iterator[Rule]:
    words = (("scale", "weight"),) if model == "deimv2" else ()
    layer, theirs = "decoder.decoder.layers.{i}", "model.decoder.layers.{i}"
    yield from _attention(layer, theirs)
    if model == "deimv2":
        yield _rule(
            f"{layer}.swish_ffn.w12.{{rest}}",
            f"{theirs}.mlp.gate_proj.{{rest}}",
            f"{theirs}.mlp.up_proj.{{rest}}",
        )
        yield _rule(f"{layer}.swish_ffn.w3.{{rest}}", f"{theirs}.mlp.down_proj.{{rest}}")
    else:
        yield from _feed_forward(layer, theirs, model)
    yield _rule(f"{layer}.cross_attn.{{rest}}", f"{theirs}.encoder_attn.{{rest}}")
    for ours, name in (
        ("norm1", "self_attn_layer_norm"),
        ("norm2", "encoder_attn_layer_norm"),
        ("norm3", "final_layer_norm"),
        ("gateway.norm", "gateway.norm"),
    ):
        yield _rule(f"{layer}.{ours}.{{rest}}", f"{theirs}.{name}.{{rest}}", words=words)
    yield _rule(f"{layer}.gateway.gate.{{rest}}", f"{theirs}.gateway.gate.{{rest}}")
    yield _rule("decoder.decoder.lqe_layers.{rest}", "model.decoder.lqe_layers.{rest}")
    for name in ALIASES:
        yield _rule(name, f"model.{name}")
    yield _rule(
        "decoder.input_proj.{i}.{rest}", "model.decoder_input_proj.{i}.{rest}", words=_SEQUENTIAL
    )
    if model != "deimv2":  # the authors' DEIMv2 has none
        yield _rule("decoder.enc_output.proj.{rest}", "model.enc_output.0.{rest}")
        yield _rule("decoder.enc_output.norm.{rest}", "model.enc_output.1.{rest}")
    for name in ("query_pos_head", "pre_bbox_head"):
        yield _rule(f"decoder.{name}.{{rest}}", f"model.decoder.{name}.{{rest}}")
    for name in ("denoising_class_embed", "enc_score_head", "enc_bbox_head"):
        yield _rule(f"decoder.{name}.{{rest}}", f"model.{name}.{{rest}}")
    yield _rule("decoder.tgt_embed.{rest}", "model.weight_embedding.{rest}")
    yield _rule("decoder.dec_score_head.{rest}", "class_embed.{rest}")
    yield _rule("decoder.dec_bbox_head.{rest}", "bbox_embed.{rest}")


@cache
def rules(model: HFModel, lite: bool = False) -> tuple[Rule, ...]:
    """All rules of one class of transformers.

    Args:
        model: its `model_type`.
        lite: with DEIMv2's encoder of two levels (Atto, Femto, Pico).
    """
    if model == "deimv2":
        projection = "model.encoder" if lite else "model.conv_encoder.encoder"
        separator = ".input_proj" if lite else "_input_proj"
        return (
            *_hgnetv2("model.conv_encoder.model"),
            *_vit_tiny(),
            _rule("encoder.input_proj.{rest}", f"{projection}{separator}.{{rest}}"),
            *_encoder(model),
            *_lite_encoder(),
            *_decoder(model),
        )
    own = (*_presnet(), *_rtdetr_hgnetv2()) if model == "rt_detr_v2" else ()
    return (*own, *_hgnetv2("model.backbone.model"), *_encoder(model), *_decoder(model))


@cache
def _pattern(template: str) -> re.Pattern[str]:
    text = re.escape(template)
    for field, expression in (("i", r"\d+"), ("j", r"\d+"), ("rest", r".+")):
        text = text.replace(re.escape("{" + field + "}"), f"(?P<{field}>{expression})")
    return re.compile(text)


def _match(template: str, name: str) -> dict[str, str] | None:
    found = _pattern(template).fullmatch(name)
    return found.groupdict() if found else None


def _translated(values: dict[str, str], words: Mapping[str, str]) -> dict[str, str]:
    if "rest" not in values or not words:
        return values
    rest = ".".join(words.get(word, word) for word in values["rest"].split("."))
    return {**values, "rest": rest}
