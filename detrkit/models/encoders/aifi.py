"""Attention inside one scale, of chosen parts.

    HybridEncoder:
      aifi: {attention: PolaLinearAttention, mlp: ConvolutionalGLU, norm: DynamicTanh}

The layer of `blocks.TransformerEncoderLayer` with any of its three parts replaced by a module of
maps; what is not named stays as it is there.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from detrkit.errors import ConfigError, did_you_mean
from detrkit.layers.activations import get_activation
from detrkit.layers.attention import SelfAttention
from detrkit.layers.norm import LayerNorm2d
from detrkit.modules.part import Part, build_part

#: What can be replaced.
PARTS = ("attention", "mlp", "norm")


class AIFILayer(nn.Module):
    """Attention and a feed-forward part, each with a shortcut and a norm behind it.

    A module that replaces attention sees the map with the position embedding added.

    Args:
        parts: modules by the names of `PARTS`.
        channels: C.
        num_heads, dim_feedforward, dropout, activation: of what is not replaced; a module that
            has an argument `num_heads` gets that too.

    Raises:
        ConfigError: there is no such part, or no such module.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        channels: int,
        num_heads: int,
        dim_feedforward: int,
        dropout: float = 0.0,
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        where = "HybridEncoder.aifi"
        if not isinstance(parts, Mapping):
            raise ConfigError(f"{where}: expected {{{', '.join(PARTS)}}}, got {parts!r}")
        for name in parts:
            if name not in PARTS:
                raise ConfigError(
                    f"{where}: no part `{name}`{did_you_mean(str(name), PARTS)}",
                    hint=f"parts: {', '.join(PARTS)}",
                )

        def built(name: str, **given: int) -> nn.Module | None:
            part = parts.get(name)
            if part is None:
                return None
            return build_part(part, f"{where}.{name}", channels, channels, **given)

        self.attention = built("attention", num_heads=num_heads)
        if self.attention is None:
            self.self_attention = SelfAttention(channels, num_heads, dropout)
        self.mlp = built("mlp") or nn.Sequential(
            nn.Conv2d(channels, dim_feedforward, 1),
            get_activation(activation),
            nn.Dropout(dropout),
            nn.Conv2d(dim_feedforward, channels, 1),
        )
        self.norm1 = built("norm") or LayerNorm2d(channels, eps=1e-5)
        self.norm2 = built("norm") or LayerNorm2d(channels, eps=1e-5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """(B, C, H, W) with position (1, H·W, C) -> (B, C, H, W)."""
        x = self.norm1(x + self.dropout(self.attend(x, position)))
        return self.norm2(x + self.dropout(self.mlp(x)))

    def attend(self, x: Tensor, position: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), without the shortcut."""
        if self.attention is not None:
            return self.attention(x + position.transpose(1, 2).reshape(1, *x.shape[1:]))
        tokens = self.self_attention(x.flatten(2).transpose(1, 2), position)
        return tokens.transpose(1, 2).reshape(x.shape)
