"""The list of transforms of a data set, and which of them are on in which epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from detrkit.data.sample import Sample
from detrkit.data.transforms.convert import ConvertPILImage, Normalize
from detrkit.data.transforms.geometry import PadToSize, Resize
from detrkit.errors import ConfigError, did_you_mean
from detrkit.registry import MODULES
from detrkit.structures import ImageSpec


class Transform(Protocol):
    """What a transform is: a function of a sample and a source of randomness.

    It may change the sample in place and must take all randomness from `rng`, which depends on
    (seed, epoch, index) alone.
    """

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The changed sample."""


@MODULES.register(family="transform", example={"ops": None})
class Compose:
    """Transforms in a row.

    Args:
        ops: transforms, or mappings of `type` and arguments; None for none.
        policy: None or `{name: default}` keeps all on; `{name: stop_epoch, epoch: E, ops: [...]}`
            turns the named ones off from epoch E (counted from 0) on. `epoch: [A, B, C]` is
            DEIM's plan: the named ones are on from epoch A to C, `Mosaic` from A to B only, there
            with probability `mosaic_prob` and then in place of `RandomZoomOut` and
            `RandomIoUCrop`.
        mosaic_prob: see above; Mosaic has a probability of its own besides.

    Raises:
        ConfigError: an unknown transform, policy, or name in the policy.
    """

    def __init__(
        self,
        ops: Sequence[Mapping[str, Any] | Transform] | None = None,
        policy: Mapping[str, Any] | None = None,
        mosaic_prob: float = -0.1,
    ) -> None:
        self.names: list[str] = []
        self.transforms: list[Transform] = []
        for op in ops or ():
            if isinstance(op, Mapping):
                arguments = dict(op)
                name = str(arguments.pop("type", ""))
                if not name:
                    raise ConfigError(f"transform without `type`: {dict(op)}")
                try:
                    transform = MODULES.create(name, **arguments)
                except (TypeError, ValueError) as error:
                    raise ConfigError(f"transform `{name}`: {error}") from error
            else:
                name, transform = type(op).__name__, op
            self.names.append(name)
            self.transforms.append(transform)
        self.policy = dict(policy or {})
        self.mosaic_prob = mosaic_prob
        self._start: int = 0
        self._stop: float = math.inf
        self._mosaic_until: int | None = None
        self._stopped = self._read_policy()

    def _read_policy(self) -> frozenset[str]:
        """Sets the stages; the names of the transforms that are off outside of them."""
        kind = self.policy.get("name", "default")
        if kind == "default":
            return frozenset()
        if kind != "stop_epoch":
            raise ConfigError(
                f"transforms: unknown policy `{kind}`"
                f"{did_you_mean(str(kind), ['stop_epoch', 'default'])}"
            )
        missing = {"epoch", "ops"} - set(self.policy)
        if missing:
            raise ConfigError(f"transforms: policy stop_epoch needs `{sorted(missing)[0]}`")
        epoch = self.policy["epoch"]
        stages = epoch if isinstance(epoch, Sequence) and len(epoch) == 3 else [epoch]
        if not all(isinstance(number, int) for number in stages):
            raise ConfigError(
                f"transforms: policy.epoch must be a number or three numbers: {epoch!r}"
            )
        self._stop = stages[-1]
        if len(stages) == 3:
            self._start, self._mosaic_until = stages[:2]
        for name in self.policy["ops"]:
            if name not in MODULES:
                raise ConfigError(
                    f"transforms: policy names the unknown transform `{name}`"
                    f"{did_you_mean(name, self.names)}"
                )
        return frozenset(self.policy["ops"])

    def active(self, epoch: int, *, mosaic: bool = False) -> list[Transform]:
        """The transforms that are on in `epoch`.

        Args:
            epoch: counted from 0.
            mosaic: whether the sample at hand becomes a mosaic, where the policy draws that.
        """
        off = set() if self._start <= epoch < self._stop else set(self._stopped)
        if self._mosaic_until is not None:
            off |= {"RandomZoomOut", "RandomIoUCrop"} if mosaic else {"Mosaic"}
        pairs = zip(self.names, self.transforms, strict=True)
        return [transform for name, transform in pairs if name not in off]

    def _draw_mosaic(self, epoch: int, rng: np.random.Generator) -> bool:
        """Whether the policy makes the sample at hand a mosaic."""
        end = self._mosaic_until
        if end is None or not self._start <= epoch < end:
            return False
        return bool(rng.random() < self.mosaic_prob)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Applies those that are on in the sample's epoch."""
        epoch = sample.key.epoch
        mosaic = self._draw_mosaic(epoch, rng)
        for transform in self.active(epoch, mosaic=mosaic):
            sample = transform(sample, rng)
        return sample

    def check_channels(self, in_channels: int) -> None:
        """Whether what has a value per channel has one for each.

        Raises:
            ConfigError: it has not.
        """
        for name, transform in zip(self.names, self.transforms, strict=True):
            for what in ("mean", "std", "fill"):
                values = getattr(transform, what, None)
                if isinstance(values, tuple) and len(values) not in (1, in_channels):
                    raise ConfigError(
                        f"{name}: {what} has {len(values)} values, but in_channels is "
                        f"{in_channels}",
                        hint="give one value, or one per channel",
                    )

    def image_spec(self, size: tuple[int, int] | None = None, in_channels: int = 3) -> ImageSpec:
        """The preprocessing that these transforms amount to, for validation and deployment.

        Args:
            size: (h, w) to use when no transform fixes it.
            in_channels: C of the images.

        Raises:
            ConfigError: they fix no size, are random, or are for another number of channels.
        """
        self.check_channels(in_channels)
        scale = 1.0
        mean: tuple[float, ...] = (0.0,)
        std: tuple[float, ...] = (1.0,)
        letterbox = False
        pad_value = 114
        for name, transform in zip(self.names, self.transforms, strict=True):
            if isinstance(transform, Resize):
                side = transform.size
                size = (side, side) if isinstance(side, int) else (int(side[0]), int(side[1]))
                letterbox = isinstance(side, int) and transform.max_size is not None
            elif isinstance(transform, PadToSize):
                size, letterbox, pad_value = transform.size, True, transform.fill[0]
            elif isinstance(transform, ConvertPILImage):
                scale = transform.factor
            elif isinstance(transform, Normalize):
                mean, std = transform.mean, transform.std
            elif name.startswith("Random") or name == "Mosaic":
                raise ConfigError(f"validation transforms must not be random, but hold `{name}`")
        if size is None:
            raise ConfigError(
                "validation transforms fix no image size", hint="add {type: Resize, size: [h, w]}"
            )
        return ImageSpec(
            size=size,
            resize="letterbox" if letterbox else "stretch",
            scale=scale,
            mean=mean,
            std=std,
            pad_value=pad_value,
            in_channels=in_channels,
        )
