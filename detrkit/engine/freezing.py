"""Parts of a model that keep their weights: `freeze: [backbone]`, `freeze_bn: true`.

A frozen parameter wants no gradient, so the optimizer, the exchange between processes and the
average leave it as it is, bit for bit. Batch norms of a frozen part also keep their running
statistics: they stay in evaluation mode, and nothing else does, because encoders and decoders do
other things in training (several image sizes, denoising). Dropout stays on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from detrkit.errors import ConfigError, Problem, did_you_mean


@dataclass(frozen=True)
class Frozen:
    """What is frozen in a model.

    Attributes:
        parts: as the user named them.
        batch_norms: whether all batch norms are, wherever they stand.
        norms: names of the batch norms that keep their statistics. Names, because modules are
            replaced (by synchronised ones) and copied.
        parameters, total: numbers in frozen parameters, and in all.
    """

    parts: tuple[str, ...] = ()
    batch_norms: bool = False
    norms: tuple[str, ...] = ()
    parameters: int = 0
    total: int = 0

    def keep(self, model: nn.Module) -> None:
        """Puts the norms back into evaluation mode; after each `model.train()`."""
        for name in self.norms:
            model.get_submodule(name).eval()

    def describe(self) -> str:
        """`frozen: backbone (3.1 M of 10.2 M parameters)`; empty where nothing is."""
        what = ", ".join([*self.parts, *(["all batch norms"] if self.batch_norms else [])])
        if not what:
            return ""
        return (
            f"frozen: {what} ({self.parameters / 1e6:.2f} M of {self.total / 1e6:.2f} M parameters)"
        )


def freeze(model: nn.Module, parts: Sequence[str], *, batch_norms: bool = False) -> Frozen:
    """Freezes parts of a model.

    Args:
        model: before its optimizer is built.
        parts: names of modules or parameters, with everything below them; `*` stands for any
            characters, dots as well.
        batch_norms: also all batch norms, as torchvision's FrozenBatchNorm2d does; the names in
            the state dict stay.

    Raises:
        ConfigError: a name matches nothing, or nothing is left to train.
    """
    matches = {part: list(_matching(model, part)) for part in parts}
    problems = [
        Problem(f"freeze: {part}", f"no part of the model has this name{_suggestion(model, part)}")
        for part, found in matches.items()
        if not found
    ]
    if problems:
        raise ConfigError(
            "nothing to freeze under "
            + ("this name" if len(problems) == 1 else f"{len(problems)} names"),
            problems=problems,
            hint=f"parts: {', '.join(name for name, _ in model.named_children())}; "
            "`detrkit info CFG --layers` lists what is inside them",
        )
    roots = {name for found in matches.values() for name in found}
    norms = []
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and (batch_norms or _below(name, roots)):
            norms.append(name)
    below = roots | set(norms)
    frozen = total = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        if _below(name, below):
            frozen += parameter.numel()
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"freeze: {', '.join(parts)}: nothing is left to train",
            hint="leave at least one part out, e.g. the decoder",
        )
    return Frozen(tuple(parts), batch_norms, tuple(norms), frozen, total)


def _names(model: nn.Module) -> Iterator[str]:
    yield from (name for name, _ in model.named_modules() if name)
    yield from (name for name, _ in model.named_parameters())


def _matching(model: nn.Module, part: str) -> Iterator[str]:
    return (name for name in _names(model) if fnmatchcase(name, part))


def _below(name: str, roots: set[str]) -> bool:
    """Whether a name is one of `roots` or inside of one."""
    pieces = name.split(".")
    return any(".".join(pieces[:end]) in roots for end in range(1, len(pieces) + 1))


def _suggestion(model: nn.Module, part: str) -> str:
    """A near name at the same depth: `backbon` is nearer to `backbone` than to its layers."""
    depth = part.count(".")
    return did_you_mean(part, {name for name in _names(model) if name.count(".") == depth})
