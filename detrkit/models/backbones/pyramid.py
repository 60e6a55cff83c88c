"""What backbones from other libraries have in common: maps chosen by stride."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from detrkit.errors import ConfigError


def check_strides(what: str, strides: Sequence[int]) -> None:
    """Encoders need maps each of which is coarser than the one before.

    Args:
        what: the backbone, for the message.
        strides: of its maps.

    Raises:
        ConfigError: they do not grow.
    """
    if sorted(set(strides)) != list(strides):
        raise ConfigError(
            f"{what} gives maps of strides {list(strides)}; an encoder needs growing strides",
            hint="choose fewer maps, or a backbone with stages (convolutional, Swin, …)",
        )


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), without copying: the memory stays channels-last."""
    return x.permute(0, 3, 1, 2)
