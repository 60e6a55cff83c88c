"""A configuration in the words of transformers, where one of its classes is the same model.

authors' decoder        class                       not the same, and refused
DFINETransformer        DFineForObjectDetection     DEIM's: SiLU in the box heads
RTDETRTransformerv2     RTDetrV2ForObjectDetection  DEIM's: SiLU, a deeper position head
DEIMTransformer         none                        see `DEIMV2_DIFFERS`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from detrkit.config import Config
from detrkit.engine.conversion.hf_folder import DEIMV2_DIFFERS
from detrkit.engine.conversion.rules import HFModel
from detrkit.engine.recognise import component
from detrkit.errors import WeightsError
from detrkit.structures import ClassMap

Arguments = Mapping[str, Any]


def hf_config(cfg: Config, class_map: ClassMap | None = None) -> tuple[HFModel, dict[str, Any]]:
    """The `model_type` and the entries of `config.json`.

    Args:
        cfg: of a detector.
        class_map: becomes `id2label`.

    Raises:
        WeightsError: no class of transformers computes the same; lists why.
    """
    (kind, decoder), (encoder_kind, encoder) = component(cfg, "decoder"), component(cfg, "encoder")
    backbone_kind, backbone = component(cfg, "backbone")
    if kind == "DEIMTransformer":
        raise WeightsError(f"{cfg.name} has no counterpart: {DEIMV2_DIFFERS}")
    reasons: list[str] = []
    model: HFModel = "d_fine" if kind == "DFINETransformer" else "rt_detr_v2"
    if kind not in ("DFINETransformer", "RTDETRTransformerv2"):
        reasons.append(f"its decoder is a {kind}")
    if encoder_kind != "HybridEncoder":
        reasons.append(f"its encoder is a {encoder_kind}")
    if backbone_kind not in _BACKBONES:
        reasons.append(f"its backbone is a {backbone_kind}")
    if cfg.run.in_channels != 3:
        reasons.append(f"its images have {cfg.run.in_channels} channels, there always 3")
    reasons += _differences(model, encoder, decoder)
    if reasons:
        raise WeightsError(
            f"{cfg.name} has no counterpart in transformers: {'; '.join(reasons)}",
            hint="--to safetensors keeps the authors' names and loses nothing",
        )
    values: dict[str, Any] = {
        "backbone_config": _BACKBONES[backbone_kind](backbone),
        "freeze_backbone_batch_norms": True,
        **_encoder(encoder),
        **_decoder(model, decoder, encoder["depth_mult"]),
    }
    if class_map is not None:
        values["id2label"] = dict(enumerate(class_map.names))
        values["label2id"] = {name: index for index, name in enumerate(class_map.names)}
    return model, values


def _differences(model: HFModel, encoder: Arguments, decoder: Arguments) -> list[str]:
    """What transformers' class has no switch for."""
    fixed: list[tuple[str, Any, Any]] = [
        ("mlp_act (box heads)", decoder.get("mlp_act", "relu"), "relu"),
        ("query_select_method", decoder.get("query_select_method", "default"), "default"),
        ("query_pos_method", decoder.get("query_pos_method", "default"), "default"),
        ("fuse_op", encoder.get("fuse_op", "cat"), "cat"),
        ("csp_type", encoder.get("csp_type", "csp"), "csp"),
        ("project_equal", encoder.get("project_equal", True), True),
    ]
    reasons = [
        f"{name} is `{value}`, there always `{wanted}`"
        for name, value, wanted in fixed
        if value != wanted
    ]
    version = encoder.get("version", "dfine")
    versions = ("dfine",) if model == "d_fine" else ("v1", "v2", "rt_detrv2")
    if version not in versions:
        reasons.append(f"the encoder's blocks are those of `{version}`")
    points = decoder["num_points"]
    if model == "rt_detr_v2":
        if not isinstance(points, int) and len(set(points)) > 1:
            reasons.append(f"num_points differ between levels: {list(points)}")
        if encoder.get("depth_mult", 1) != 1:
            reasons.append(f"the encoder's depth_mult is {encoder['depth_mult']}, there always 1")
    return reasons


def _encoder(encoder: Arguments) -> dict[str, Any]:
    return {
        "encoder_in_channels": list(encoder["in_channels"]),
        "feat_strides": list(encoder["feat_strides"]),
        "encoder_hidden_dim": encoder["hidden_dim"],
        "encoder_attention_heads": encoder["nhead"],
        "encoder_ffn_dim": encoder["dim_feedforward"],
        "encoder_activation_function": encoder["enc_act"],
        "encode_proj_layers": list(encoder["use_encoder_idx"]),
        "encoder_layers": encoder["num_encoder_layers"],
        "positional_encoding_temperature": int(encoder["pe_temperature"]),
        "hidden_expansion": float(encoder["expansion"]),
        "activation_function": encoder["act"],
        "dropout": encoder["dropout"],
    }


def _decoder(model: HFModel, decoder: Arguments, depth_mult: float) -> dict[str, Any]:
    points = decoder["num_points"]
    layers, last = decoder["num_layers"], decoder["eval_idx"]
    values = {
        "d_model": decoder["hidden_dim"],
        "num_queries": decoder["num_queries"],
        "decoder_in_channels": list(decoder["feat_channels"]),
        "num_feature_levels": decoder["num_levels"],
        "decoder_ffn_dim": decoder["dim_feedforward"],
        "decoder_attention_heads": decoder["nhead"],
        "decoder_activation_function": decoder["activation"],
        "decoder_method": decoder["cross_attn_method"],
        "num_denoising": decoder["num_denoising"],
        "label_noise_ratio": float(decoder["label_noise_ratio"]),
        "box_noise_scale": float(decoder["box_noise_scale"]),
        "learn_initial_query": decoder["learn_query_content"],
        "anchor_image_size": None,
    }
    if model == "rt_detr_v2":
        # it answers with its last layer: those behind the layer that answers are left out
        values |= {
            "decoder_layers": (last if last >= 0 else layers + last) + 1,
            "decoder_n_levels": decoder["num_levels"],
            "decoder_n_points": points if isinstance(points, int) else points[0],
        }
        return values
    values |= {
        "decoder_layers": layers,
        "eval_idx": last,
        "decoder_n_points": points if isinstance(points, int) else list(points),
        "max_num_bins": decoder["reg_max"],
        "reg_scale": float(decoder["reg_scale"]),
        "layer_scale": decoder["layer_scale"],
        "depth_mult": float(depth_mult),
    }
    return values


def _hgnetv2(arguments: Arguments) -> dict[str, Any]:
    from detrkit.models.backbones.hgnetv2 import ARCHITECTURES

    architecture = ARCHITECTURES[arguments["name"]]
    stages, (inner, stem) = architecture.stages, architecture.stem
    outputs = [stage.out_channels for stage in stages]
    return {
        "model_type": "hgnet_v2",
        "stem_channels": [3, inner, stem],
        "stage_in_channels": [stem, *outputs[:-1]],
        "stage_mid_channels": [stage.mid_channels for stage in stages],
        "stage_out_channels": outputs,
        "stage_num_blocks": [stage.blocks for stage in stages],
        "stage_numb_of_layers": [stage.layers for stage in stages],
        "stage_light_block": [stage.light for stage in stages],
        "stage_kernel_size": [stage.kernel_size for stage in stages],
        "stage_downsample": [stage.downsample for stage in stages],
        "stage_downsample_strides": [2] * len(stages),
        "hidden_sizes": outputs,
        "depths": [stage.blocks for stage in stages],
        "use_learnable_affine_block": bool(arguments["use_lab"]),
        **_outputs(arguments["return_idx"]),
    }


def _presnet(arguments: Arguments) -> dict[str, Any]:
    from detrkit.models.backbones.presnet import DEPTHS

    depth, widths = arguments["depth"], [64, 128, 256, 512]
    if arguments["variant"] != "d":
        raise WeightsError(f"PResNet's variant `{arguments['variant']}` is not in transformers")
    return {
        "model_type": "rt_detr_resnet",
        "embedding_size": 64,
        "hidden_sizes": [4 * w for w in widths] if depth >= 50 else widths,
        "depths": list(DEPTHS[depth][0]),
        "layer_type": "bottleneck" if depth >= 50 else "basic",
        "hidden_act": arguments["act"],
        **_outputs(arguments["return_idx"]),
    }


def _outputs(stages: Sequence[int]) -> dict[str, Any]:
    """transformers counts the stem as stage 0."""
    return {"out_indices": [i + 1 for i in stages]}


_BACKBONES: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    "HGNetv2": _hgnetv2,
    "PResNet": _presnet,
}
