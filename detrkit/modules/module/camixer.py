"""CAMixerSR: Only Details Need More "Attention". Wang et al., CVPR 2024, arXiv:2402.19289.

v = pw x;  f = predictor of [v, place in the window]          offsets, gates, scores of windows
k = x + x warped by the offsets,  q = x
kept windows: softmax(q kᵀ) v;  others: v · SA
y = pw(o + CA · GELU(dw dw o))

In training every window takes both ways, weighed by a hard choice that lets gradients pass (in
order of the scores, as published, with noise). In evaluation the share of windows that the scores
choose, times 2 · ratio, is kept, the best of each image; the authors draw this share at random even
then, here it is the plain maximum. The logits of the attention are not scaled, as published.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detrkit.layers.norm import LayerNorm2d
from detrkit.layers.tokens import size_of
from detrkit.layers.windows import check_multiple, from_window_tokens, window_tokens
from detrkit.ops.deform_conv import sample
from detrkit.registry import MODULES, Traits

#: Farthest that a key is taken from, in pixels.
_REACH = 8.0


class Predictor(nn.Module):
    """Offsets, gates of channels and places, and scores of windows.

    Args:
        in_channels: of the condition.
        channels: C of the map.
        window_size: side of the windows.
    """

    def __init__(self, in_channels: int, channels: int, window_size: int) -> None:
        super().__init__()
        hidden, narrow = in_channels // 4, in_channels // 8
        self.enter = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1), LayerNorm2d(hidden), nn.LeakyReLU(0.1)
        )
        self.offsets = nn.Sequential(
            nn.Conv2d(hidden, narrow, 1), nn.LeakyReLU(0.1), nn.Conv2d(narrow, 2, 1)
        )
        self.channel_gate = nn.Conv2d(hidden, channels, 1)
        self.place_gate = nn.Conv2d(hidden, 1, 3, padding=1)
        self.scores = nn.Sequential(
            nn.Linear(window_size**2, window_size),
            nn.LeakyReLU(0.1),
            nn.Linear(window_size, 2),
        )
        self.window_size = window_size

    def forward(self, condition: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, in, H, W) -> offsets (B, 2, H, W), gates (B, C, 1, 1) and (B, 1, H, W), scores
        (B, windows, 2) that add up to one."""
        f = self.enter(condition)
        offsets = _REACH * self.offsets(f).tanh()
        by_channel = self.channel_gate(f.mean((2, 3), keepdim=True)).sigmoid()
        by_place = self.place_gate(f).sigmoid()
        pixels = window_tokens(f.mean(1, keepdim=True), self.window_size)[..., 0]
        return offsets, by_channel, by_place, self.scores(pixels).softmax(-1)


@MODULES.register(
    family="module",
    paper="arXiv:2402.19289",
    venue="CVPR 2024",
    example={"in_channels": 16, "window_size": 4},
    traits=Traits(multiple=4, float32="sampling positions"),
)
class CAMixer(nn.Module):
    """Attention for the windows that need it. (B, C, H, W) -> (B, C, H, W).

    Args:
        in_channels: C, at least 8.
        window_size: side of the windows, of which H and W are multiples.
        ratio: share of the windows that attend in evaluation where the scores choose half of
            them; from 1 on all do.
        temperature: of the noisy choice in training.
    """

    def __init__(
        self,
        in_channels: int,
        window_size: int = 8,
        ratio: float = 0.5,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if in_channels < 8:
            raise ValueError(f"in_channels must be at least 8, got {in_channels}")
        c = in_channels
        self.out_channels = c
        self.window_size = window_size
        self.ratio = ratio
        self.temperature = temperature
        self.to_v = nn.Conv2d(c, c, 1)
        self.to_q, self.to_k = nn.Linear(c, c), nn.Linear(c, c)
        self.predictor = Predictor(c + 2, c, window_size)
        self.mix = nn.Sequential(
            nn.Conv2d(c, c, 3, padding=1, groups=c),
            nn.Conv2d(c, c, 3, padding=2, dilation=2, groups=c),
            nn.GELU(),
        )
        self.project = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_multiple(x, self.window_size)
        v = self.to_v(x)
        offsets, by_channel, by_place, scores = self.predictor(self.condition(x, v))
        q, k, values, plain = (
            window_tokens(part, self.window_size)
            for part in (x, x + warped(x, offsets), v, v * by_place)
        )
        attended = (self.to_q(q) @ self.to_k(k).transpose(2, 3)).softmax(-1) @ values
        share = self.chosen(scores)[..., None]  # (B, windows, 1, 1)
        mixed = share * attended + (1 - share) * plain
        out = from_window_tokens(mixed, self.window_size, size_of(x))
        return self.project(out + by_channel * self.mix(out))

    def condition(self, x: Tensor, v: Tensor) -> Tensor:
        """What the predictor sees: values, and the place of each pixel in its window."""
        side = torch.linspace(-1, 1, self.window_size, device=x.device, dtype=x.dtype)
        place = torch.stack(torch.meshgrid(side, side, indexing="ij"))
        height, width = size_of(x)
        tiled = place.repeat(1, height // self.window_size, width // self.window_size)
        return torch.cat([v, tiled.expand(x.shape[0], -1, -1, -1)], dim=1)

    def chosen(self, scores: Tensor) -> Tensor:
        """(B, windows, 2) -> (B, windows, 1): 1 for windows that attend."""
        if self.training:
            return F.gumbel_softmax(scores, self.temperature, hard=True)[..., :1]
        count = scores.shape[1]
        if self.ratio >= 1:
            return torch.ones_like(scores[..., :1])
        wanted = (scores[..., 0] >= scores[..., 1]).to(scores.dtype).mean(1, keepdim=True)
        kept = (count * wanted * 2 * self.ratio).floor().clamp(max=count)
        rank = self._rank(scores[..., 0])
        return (rank < kept).to(scores.dtype)[..., None]

    @staticmethod
    def _rank(scores: Tensor) -> Tensor:
        """(B, n) -> how many of the n come before each: the higher, and of equals the earlier."""
        own, other = scores[:, :, None], scores[:, None]
        earlier = torch.ones(scores.shape[1], scores.shape[1], device=scores.device).tril(-1) > 0
        return ((other > own) | ((other == own) & earlier)).sum(2)


def warped(x: Tensor, offsets: Tensor) -> Tensor:
    """A map sampled beside its pixels; borders repeat.

    Args:
        x: (B, C, H, W).
        offsets: (B, 2, H, W) in pixels, x then y.
    """
    height, width = size_of(x)
    columns = torch.arange(width, device=x.device) + offsets[:, 0]
    rows = torch.arange(height, device=x.device)[:, None] + offsets[:, 1]
    return sample(x, rows, columns, padding_mode="border")
