"""Mixed precision: bf16 where the device computes in it, fp16 with a loss scaler, or off."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from detrkit.errors import UsageError

#: Functions of `torch.cpu`; AMX's tiles come with bf16 on every CPU that has them.
_BF16_FEATURES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")

Amp = Literal["bf16", "fp16", "off"]
AMPS: tuple[Amp, ...] = get_args(Amp)


class LossScaler(GradScaler):
    """torch's scaler, with what it finds as tensors: reading one is left to whoever needs it."""

    @property
    def present_scale(self) -> Tensor:
        """() the factor of the losses, once one was scaled."""
        assert self._scale is not None
        return self._scale

    def overflowed(self, optimizer: Optimizer) -> Tensor:
        """() bool: whether `unscale_` found a gradient that is not finite."""
        found = self._per_optimizer_states[id(optimizer)]["found_inf_per_device"]
        return torch.stack([value.to(self.present_scale.device) for value in found.values()]).any()


@dataclass(frozen=True)
class Precision:
    """Number format of the forward pass; weights, losses and the optimizer stay float32.

    Attributes:
        amp: "bf16", "fp16" (with loss scaling) or "off".
    """

    amp: Amp = "off"

    @classmethod
    def choose(cls, asked: str | None, use_amp: bool, device: torch.device) -> Precision:
        """`--amp` if given; else bf16 where `use_amp` is set and the device computes in it.

        A CPU does so with AVX512-BF16 or AMX, where a step takes half the time; on others bf16 is
        slower than float32 and the default is off. A GPU without bf16 uses fp16.

        Raises:
            UsageError: an unknown name, or a format that the device lacks.
        """
        if asked is None:
            if not use_amp or device.type not in ("cuda", "cpu"):
                return cls("off")
            if device.type == "cpu":
                return cls("bf16" if cpu_computes_bf16() else "off")
            return cls("bf16" if torch.cuda.is_bf16_supported(False) else "fp16")
        amp = next((each for each in AMPS if each == asked), None)
        if amp is None:
            raise UsageError(f"--amp {asked}: choose bf16, fp16 or off")
        if amp == "fp16" and device.type == "cpu":
            raise UsageError(
                "--amp fp16 needs a GPU", hint="on a CPU use --amp off, or bf16 to save memory"
            )
        return cls(amp)

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.amp == "off":
            return nullcontext()
        dtype = torch.bfloat16 if self.amp == "bf16" else torch.float16
        return torch.autocast(device.type, dtype=dtype)

    def scaler(self, device: torch.device) -> LossScaler:
        """Scales losses for fp16; passes everything through otherwise."""
        return LossScaler(device.type, enabled=self.amp == "fp16")

    def safer(self, device: torch.device) -> Precision | None:
        """The next format with a wider range or more digits; None: float32 is the last.

        bf16 has the range of float32 and fewer digits than fp16, so it helps where fp16 ends.
        """
        if self.amp == "off":
            return None
        has_bf16 = device.type == "cpu" or (
            device.type == "cuda" and torch.cuda.is_bf16_supported(False)
        )
        return Precision("bf16" if self.amp == "fp16" and has_bf16 else "off")


def cpu_computes_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself (AVX512-BF16, AMX)."""
    asks = (getattr(torch.cpu, name, None) for name in _BF16_FEATURES)
    return any(ask() for ask in asks if ask is not None)
