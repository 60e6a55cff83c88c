"""The list of transforms of a data set, and which of them are on in which epoch."""

from __future__ import annotations

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
            turns the named ones off from epoch E (counted from 0) on.

    Raises:
        ConfigError: an unknown transform, policy, or name in the policy.
    """

    def __init__(
        self,
        ops: Sequence[Mapping[str, Any] | Transform] | None = None,
        policy: Mapping[str, Any] | None = None,
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
        self._stopped = self._check_policy()

    def _check_policy(self) -> frozenset[str]:
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
        if not isinstance(self.policy["epoch"], int):
            raise ConfigError(
                f"transforms: policy.epoch must be a number: {self.policy['epoch']!r}"
            )
        for name in self.policy["ops"]:
            if name not in MODULES:
                raise ConfigError(
                    f"transforms: policy names the unknown transform `{name}`"
                    f"{did_you_mean(name, self.names)}"
                )
        return frozenset(self.policy["ops"])

    def active(self, epoch: int) -> list[Transform]:
        """The transforms that are on in `epoch`."""
        if not self._stopped or epoch < self.policy["epoch"]:
            return self.transforms
        pairs = zip(self.names, self.transforms, strict=True)
        return [t for name, t in pairs if name not in self._stopped]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Applies those that are on in the sample's epoch."""
        for transform in self.active(sample.key.epoch):
            sample = transform(sample, rng)
        return sample

    def image_spec(self, size: tuple[int, int] | None = None) -> ImageSpec:
        """The preprocessing that these transforms amount to, for validation and deployment.

        Args:
            size: (h, w) to use when no transform fixes it.

        Raises:
            ConfigError: they fix no size, or are random.
        """
        scale, mean, std = 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
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
            elif name.startswith("Random"):
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
        )
