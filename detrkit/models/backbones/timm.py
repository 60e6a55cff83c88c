"""Any backbone of timm, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from detrkit.errors import ConfigError, MissingExtraError, WeightsError, did_you_mean
from detrkit.models.backbones.pyramid import channels_first, check_strides
from detrkit.registry import MODULES


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "timm", "TimmBackbone") from error
    return timm


@MODULES.register(
    share=("in_channels",), paper="PyTorch Image Models, Wightman, doi:10.5281/zenodo.4414861"
)
class TimmBackbone(nn.Module):
    """A model of timm as feature extractor. images (B, in, H, W) -> one map per `return_idx`.

    The constructor never downloads: where `pretrained` asks for it, the trainer loads what
    `pretrained_state` brings.

    Args:
        name: timm's name, with or without a tag: "convnext_tiny", "convnext_tiny.in12k_ft_in1k".
        return_idx: levels of the feature pyramid, as timm's `out_indices`; negative ones count
            from the coarsest. Most models have strides 2 to 32, or 4 to 32.
        pretrained: whether training from scratch starts with timm's weights; or a file of them,
            of the extractor or of the whole model.
        freeze_norm: batch norms become constants.
        options: further arguments of `timm.create_model`, such as `{drop_path_rate: 0.1}`, or
            `{strict_img_size: false}` for Swin at sizes other than its own.
        in_channels: of the images.

    Attributes:
        out_channels, out_strides: of the returned maps.
        pretrained_part: the module that weights are for.

    Raises:
        ConfigError: timm has no such model, level or option, or the levels do not fit encoders.
        MissingExtraError: timm is not installed.
    """

    def __init__(
        self,
        name: str,
        return_idx: Sequence[int] = (-3, -2, -1),
        pretrained: bool | str = False,
        freeze_norm: bool = False,
        options: Mapping[str, Any] | None = None,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        timm = _timm()
        family = name.partition(".")[0]
        if not timm.is_model(family):
            raise ConfigError(
                f"TimmBackbone.name: timm has no `{name}`"
                f"{did_you_mean(family, timm.list_models())}",
                hint=f"timm.list_models('*{family.partition('_')[0]}*') lists what there is",
            )
        if "in_chans" in (options or {}):
            raise ConfigError("TimmBackbone.options: `in_chans` is called `in_channels` here")
        self.name = name
        self.in_channels = in_channels
        self.pretrained = pretrained
        self._arguments = {
            **(options or {}), "features_only": True, "out_indices": tuple(return_idx),
        }  # fmt: skip
        try:
            self.model = timm.create_model(
                name, pretrained=False, exportable=True, in_chans=in_channels, **self._arguments
            )
        except Exception as error:  # whatever a model says to what it does not know
            raise ConfigError(
                f"TimmBackbone: timm cannot build `{name}` with {self._arguments}: {error}"
            ) from error
        self.out_channels = list(self.model.feature_info.channels())
        self.out_strides = list(self.model.feature_info.reduction())
        check_strides(f"timm's {name}", self.out_strides)
        self._channels_last = str(getattr(self.model, "output_fmt", "")).endswith("NHWC")
        if freeze_norm:
            self.model = timm.layers.freeze_batch_norm_2d(self.model)

    @property
    def pretrained_part(self) -> nn.Module:
        """The module that weights are for."""
        return self.model

    def pretrained_state(self) -> dict[str, Tensor]:
        """timm's weights of 3 channels, in the names of `pretrained_part`; timm may download them.

        Raises:
            WeightsError: there are none, or they cannot be downloaded.
        """
        timm = _timm()
        if not timm.models.is_model_pretrained(self.name):
            raise WeightsError(
                f"timm has no pretrained weights for `{self.name}`",
                hint="start from random weights: --update TimmBackbone.pretrained=False",
            )
        try:
            model = timm.create_model(self.name, pretrained=True, **self._arguments)
        except Exception as error:  # whatever the libraries below it raise without a network
            raise WeightsError(
                f"timm cannot load the weights of `{self.name}`: {error}",
                hint="it keeps downloads in Hugging Face's cache (HF_HOME); or give a file: "
                "--update TimmBackbone.pretrained=FILE",
            ) from error
        return dict(model.state_dict())

    def pretrained_names(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A file of timm's whole model in the names of `pretrained_part`.

        timm's extractors keep the model in `model.`, or call `stages_0` what it calls `stages.0`.
        """
        own = self.model.state_dict().keys()

        def name_here(name: str) -> str:
            known = (name, f"model.{name}", name.replace(".", "_", 1))
            return next((each for each in known if each in own), name)

        return {name_here(name): value for name, value in state.items()}

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, in, H, W) -> maps (B, C_i, H/s_i, W/s_i), finest first."""
        maps = self.model(images)
        return [channels_first(x) for x in maps] if self._channels_last else list(maps)
