"""Why two counters of FLOPs differ, for each kind of layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: Functions whose multiply-adds both counters know; what calflops adds to them is their bias.
_PRODUCTS = ("conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear")


@dataclass(slots=True)
class KindFlops:
    """FLOPs of all layers of a class, without those of layers below them.

    Attributes:
        kind: the class.
        layers: how many of them ran.
        calflops, macs: by calflops; None where it failed.
        torch: by torch's counter.
        operations: the same by kind of operation.
        functions: calflops' FLOPs and multiply-adds, by function of torch.
    """

    kind: str
    layers: int = 0
    calflops: int | None = 0
    macs: int | None = 0
    torch: int = 0
    operations: dict[str, int] = field(default_factory=dict)
    functions: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def difference(self) -> int | None:
        """What calflops counts more than torch."""
        return None if self.calflops is None else self.calflops - self.torch

    @property
    def reason(self) -> str:
        """Where the difference comes from, in words; empty without one."""
        if self.calflops is None or self.macs is None:
            return ""
        reasons = []
        unseen = self.torch - 2 * self.macs
        if unseen > 0:
            reasons.append(f"calflops does not see {self._unseen(unseen)}")
        elif unseen < 0:
            reasons.append("torch has no formula for some products that calflops counts")
        if extra := self._extra():
            reasons.append(f"torch does not count {', '.join(extra)}")
        return "; ".join(reasons)

    def _unseen(self, unseen: int) -> str:
        """What torch counts and calflops does not: fused attention as a rule."""
        if self.operations.get("attention") == unseen:
            return "fused attention"
        return "some " + " and ".join(f"{name}s" for name in self.operations if name != "attention")

    def _extra(self) -> list[str]:
        """What calflops counts beyond multiply-adds, the largest first."""
        extra = {name: flops - 2 * macs for name, (flops, macs) in self.functions.items()}
        known = sorted((n for n in extra if extra[n] > 0), key=lambda name: -extra[name])
        return [f"the bias of {name}" if name in _PRODUCTS else name for name in known]


def by_kind(
    kinds: Mapping[str, str],
    torch: Mapping[str, Mapping[str, int]],
    calflops: Mapping[str, Mapping[str, tuple[int, int]]] | None,
) -> tuple[KindFlops, ...]:
    """Adds layers of a class up; the most FLOPs first, without those that have none.

    Args:
        kinds: class of every layer that ran, by name.
        torch: own FLOPs of layers by kind of operation.
        calflops: own FLOPs and multiply-adds of layers by function; None: it failed.
    """
    found: dict[str, KindFlops] = {}
    for name, kind in kinds.items():
        known = found.setdefault(kind, KindFlops(kind))
        known.layers += 1
        for operation, count in torch.get(name, {}).items():
            known.torch += count
            known.operations[operation] = known.operations.get(operation, 0) + count
        for function, (flops, macs) in (calflops or {}).get(name, {}).items():
            before = known.functions.get(function, (0, 0))
            known.functions[function] = (before[0] + flops, before[1] + macs)
    for known in found.values():
        values = known.functions.values()
        known.calflops = None if calflops is None else sum(flops for flops, _ in values)
        known.macs = None if calflops is None else sum(macs for _, macs in values)
    some = [known for known in found.values() if known.torch or known.calflops]
    return tuple(sorted(some, key=lambda known: -max(known.torch, known.calflops or 0)))
