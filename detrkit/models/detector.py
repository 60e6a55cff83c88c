"""A detector: backbone, encoder, decoder."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.errors import ConfigError
from detrkit.layers.conv import fold_sequences
from detrkit.layers.fused import use_onednn
from detrkit.models.decoders.two_stage import TwoStageDecoder
from detrkit.models.encoders.factored import take_joins_apart
from detrkit.models.encoders.hybrid_encoder import HybridEncoder
from detrkit.models.outputs import Outputs
from detrkit.registry import MODULES
from detrkit.structures import Target


@MODULES.register("DFINE", "RTDETR", inject=("backbone", "encoder", "decoder"))
class Detector(nn.Module):
    """images -> backbone -> maps -> encoder -> fused maps -> decoder -> outputs.

    The state dict has the authors' names: `backbone.…`, `decoder.…`, `encoder.…`.

    Args:
        backbone: images (B, C, H, W) -> maps, finest first.
        encoder: maps -> maps of one width.
        decoder: maps and targets -> `Outputs`.

    Raises:
        ConfigError: a part returns maps of other widths than the next one takes.
    """

    def __init__(self, backbone: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        _check_widths(backbone, encoder, "in_channels")
        _check_widths(encoder, decoder, "feat_channels")
        self.backbone = backbone
        self.decoder = decoder  # before the encoder: the authors' order of parameters
        self.encoder = encoder

    @property
    def num_classes(self) -> int:
        """K, the number of classes that are scored."""
        return int(self.decoder.num_classes)  # type: ignore[arg-type]

    @property
    def in_channels(self) -> int:
        """C of the images; 3 for a backbone that does not say."""
        return int(getattr(self.backbone, "in_channels", 3))

    def forward(self, images: Tensor, targets: Sequence[Target] | None = None) -> Outputs:
        """Detects.

        Args:
            images: (B, in_channels, H, W) float, as `ImageSpec.prepare` makes them; any size.
            targets: B targets, for denoising in training.
        """
        if images.device.type == "cpu" and not torch.compiler.is_compiling():
            # a third faster on CPUs in training and evaluation; on GPUs it depends
            images = images.contiguous(memory_format=torch.channels_last)
        return self.decoder(self.encoder(self.backbone(images)), targets)

    def deploy(self, *, fold_norms: bool = False, plain: bool = False) -> Detector:
        """A copy for inference: branches fused, training-only layers dropped.

        The copy is in evaluation mode and answers as this detector does in evaluation, up to
        rounding. This detector stays as it is.

        Args:
            fold_norms: fold every batch norm into the convolution before it, and merge what the
                encoder computes around its joins. The authors' `deploy()` does neither for the
                backbone and the projections, and the parameter counts that they publish are its.
            plain: only layers of PyTorch, in its own memory layout: what an exporter traces.
        """
        deployed = copy.deepcopy(self).eval()
        parts = (deployed,) if fold_norms else (deployed.encoder, deployed.decoder)
        for part in parts:
            for module in list(part.modules()):
                convert = getattr(module, "convert_to_deploy", None)
                if convert is not None:
                    convert()
        if fold_norms:
            fold_sequences(deployed)
            if isinstance(deployed.encoder, HybridEncoder):
                take_joins_apart(deployed.encoder)
        if plain:
            deployed = deployed.to(memory_format=torch.contiguous_format)
        elif next(deployed.parameters()).device.type == "cpu":
            # as the images come: else every convolution turns its kernel anew
            deployed = deployed.to(memory_format=torch.channels_last)
            if fold_norms:
                use_onednn(deployed)
        return deployed.requires_grad_(False)


@MODULES.register(inject=("backbone", "encoder", "decoder"), paper="arXiv:2412.04234")
class DEIM(Detector):
    """A detector as DEIM and DEIMv2 train it.

    Denoising is D-FINE's for every decoder, RT-DETRv2's included: boxes whose corners crossed are
    mirrored, and images without boxes get no dummy pairs.

    Args:
        backbone, encoder, decoder: see `Detector`.
    """

    def __init__(self, backbone: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__(backbone, encoder, decoder)
        if isinstance(decoder, TwoStageDecoder):
            decoder.mirror_crossed = True
            decoder.dummy_pairs = False


def _check_widths(source: nn.Module, target: nn.Module, argument: str) -> None:
    """Whether `target` takes the maps that `source` says it returns; either may say nothing."""
    given, wanted = getattr(source, "out_channels", None), getattr(target, argument, None)
    if given is None or wanted is None or list(given) == list(wanted):
        return
    a, b = type(source).__name__, type(target).__name__
    raise ConfigError(
        f"{b}.{argument} is {list(wanted)}, but the maps of {a} are {list(given)} wide",
        hint=f"set `{argument}: {list(given)}` in {b}, or let {a} return other maps",
    )
