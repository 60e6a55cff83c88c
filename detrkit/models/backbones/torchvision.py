"""Any classification model of torchvision, cut at the end of its stages."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean
from detrkit.layers.norm import freeze_batch_norm
from detrkit.models.backbones.pyramid import channels_first
from detrkit.registry import MODULES

#: Height and width of the image that finds the stages: divisible by every stride, and different.
_PROBE = (64, 96)


class Stage(NamedTuple):
    """The module that ends a stage: stride and width of its output, and whether (B, H, W, C)."""

    node: str
    stride: int
    channels: int
    channels_last: bool


@MODULES.register(share=("in_channels",), paper="torchvision.models")
class TorchvisionBackbone(nn.Module):
    """A model of torchvision as feature extractor. images (B, in, H, W) -> one map per stride.

    Stages are found by running the model once on a small empty image: of the blocks in its trunk,
    the last one whose result has the stride. The constructor never downloads: `pretrained` and
    `pretrained_url` say what the trainer shall load.

    Args:
        name: torchvision's name: "resnet50", "convnext_tiny", "swin_t", "efficientnet_b0".
        strides: of the returned maps, finest first.
        pretrained: whether training from scratch starts with torchvision's weights; or a file.
        weights: which of torchvision's weights: "DEFAULT", "IMAGENET1K_V1", …
        freeze_norm: batch norms become constants.
        in_channels: of the images. Other than 3, the model's first convolution is made for them.

    Attributes:
        out_channels, out_strides: of the returned maps.
        nodes: where the model is cut, e.g. ("layer2", "layer3", "layer4").
        pretrained_url: where these weights are, or None.
        pretrained_part: the module that they are for.

    Raises:
        ConfigError: torchvision has no such model or weights, or the model has no such strides.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int] = (8, 16, 32),
        pretrained: bool | str = False,
        weights: str = "DEFAULT",
        freeze_norm: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        from torchvision import models
        from torchvision.models.feature_extraction import create_feature_extractor

        known = models.list_models(module=models)
        if name not in known:
            raise ConfigError(
                f"TorchvisionBackbone.name: torchvision has no classification model `{name}`"
                f"{did_you_mean(str(name), known)}",
                hint="torchvision.models.list_models(module=torchvision.models) lists them",
            )
        offered = models.get_model_weights(name).__members__
        if weights not in offered and (weights != "DEFAULT" or pretrained is True):
            raise ConfigError(
                f"TorchvisionBackbone.weights: `{name}` has no `{weights}`"
                f"{did_you_mean(str(weights), offered)}",
                hint=f"known: {', '.join(offered) or 'none'}",
            )
        self.name = name
        self.in_channels = in_channels
        self.pretrained = pretrained
        self.pretrained_url = offered[weights].url if weights in offered else None
        self.out_strides = list(strides)
        model = _build(name)
        if in_channels != 3:
            _widen_stem(model, name, in_channels)
        stages = _stages(model, name, in_channels)
        missing = [stride for stride in strides if stride not in stages]
        if missing or sorted(set(strides)) != list(strides):
            raise ConfigError(
                f"TorchvisionBackbone.strides: {list(strides)} must be growing strides of `{name}`",
                hint=f"it has {sorted(stages) or 'no maps'}",
            )
        chosen = [stages[stride] for stride in strides]
        self.nodes = tuple(stage.node for stage in chosen)
        self.out_channels = [stage.channels for stage in chosen]
        self._channels_last = tuple(stage.channels_last for stage in chosen)
        with warnings.catch_warnings():  # that nodes of training differ; modules' names do not
            warnings.simplefilter("ignore")
            self.body = create_feature_extractor(model, {node: node for node in self.nodes})
        if freeze_norm:
            freeze_batch_norm(self.body)

    @property
    def pretrained_part(self) -> nn.Module:
        """The module that weights are for."""
        return self.body

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, in, H, W) -> maps (B, C_i, H/s_i, W/s_i), finest first."""
        maps = self.body(images)
        return [
            channels_first(maps[node]) if last else maps[node]
            for node, last in zip(self.nodes, self._channels_last, strict=True)
        ]

    def __deepcopy__(self, memo: dict[int, Any]) -> TorchvisionBackbone:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        # torchvision's extractor always comes out of a copy in training mode
        twin.body.train(self.body.training)
        for own, copied in zip(self.body.modules(), twin.body.modules(), strict=True):
            copied.training = own.training
        return twin


def _build(name: str) -> nn.Module:
    """The classifier with random weights, without the advice that some constructors give."""
    from torchvision import models

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: nn.Module = models.get_model(name, weights=None)
    return model


def _widen_stem(model: nn.Module, name: str, in_channels: int) -> None:
    """Makes the first convolution take another number of channels, with random weights."""
    stem = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    if stem.in_channels != 3 or stem.groups != 1:
        raise ConfigError(f"TorchvisionBackbone: `{name}` takes images of 3 channels only")
    stem.in_channels = in_channels
    stem.weight = nn.Parameter(
        stem.weight.new_empty(len(stem.weight), in_channels, *stem.kernel_size)
    )
    stem.reset_parameters()


@torch.no_grad()
def _stages(model: nn.Module, name: str, in_channels: int) -> dict[int, Stage]:
    """The stage that ends at each stride.

    Raises:
        ConfigError: the model does not take images of any size.
    """
    maps: dict[str, Stage] = {}

    def record(path: str, output: Any) -> None:
        found = _stage_of(path, output)
        if found is not None:
            maps[path] = found

    hooks = [
        module.register_forward_hook(lambda _m, _i, output, path=path: record(path, output))
        for path, module in model.named_modules()
    ]
    try:
        model.eval()(torch.zeros(1, in_channels, *_PROBE))
    except Exception as error:  # whatever a model does with a size that it was not made for
        raise ConfigError(
            f"TorchvisionBackbone: `{name}` does not take images of any size: {error}",
            hint="choose a convolutional model or Swin",
        ) from error
    finally:
        model.train()
        for hook in hooks:
            hook.remove()
    trunk = _trunk(maps)
    depth = trunk.count(".")
    blocks = [m for m in maps.values() if m.node.startswith(trunk) and m.node.count(".") == depth]
    return {block.stride: block for block in blocks}  # in order of execution: the last one stays


def _stage_of(path: str, output: Any) -> Stage | None:
    """What a module's output says about it; None for what is no feature map."""
    if not isinstance(output, Tensor) or output.dim() != 4 or not path:
        return None
    _, a, b, c = output.shape
    for last, (h, w), channels in ((False, (b, c), a), (True, (a, b), c)):
        stride = _PROBE[0] // h if h else 0
        if stride > 1 and (h * stride, w * stride) == _PROBE:
            return Stage(path, stride, channels, last)
    return None


def _trunk(maps: dict[str, Stage]) -> str:
    """Prefix of the innermost module in which the model's strides change: "", "features.", …"""
    strides = {m.stride for m in maps.values() if m.stride > 4}
    trunk = ""
    while True:
        inside: dict[str, set[int]] = {}
        for path, found in maps.items():
            head, dot, _ = path[len(trunk) :].partition(".")
            if path.startswith(trunk) and dot:
                inside.setdefault(head, set()).add(found.stride)
        deeper = [head for head, seen in inside.items() if len(strides) > 1 and strides <= seen]
        if not deeper:
            return trunk
        trunk += f"{deeper[0]}."
