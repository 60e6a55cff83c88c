"""What `detrkit modules` and `detrkit info MODULE` say of modules of maps."""

from __future__ import annotations

import inspect
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detrkit.registry import Entry

#: (C, H, W) that modules are measured at.
MEASURED_AT = (64, 40, 40)
_WARM_UP, _REPEATS = 2, 5


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a module at `MEASURED_AT`, for one image.

    Attributes:
        arguments: that it was built with.
        output: shapes of what it returns.
        parameters: that learn, in training.
        deployed: once its branches are fused.
        flops: of a forward pass by torch's counter, two for a multiply-add.
        milliseconds: median of a forward pass on the CPU in evaluation.
        threads: of these passes.
    """

    arguments: dict[str, Any]
    output: list[list[int]]
    parameters: int
    deployed: int
    flops: int
    milliseconds: float
    threads: int


def measure(entry: Entry) -> Cost:
    """Builds a module 64 channels wide, or as its example is where it cannot be, and runs it.

    Args:
        entry: of a module of maps.

    Raises:
        ValueError: it is none.
    """
    module, x, arguments = built_with_input(entry)
    learning = sum(p.numel() for p in module.parameters() if p.requires_grad)
    module.eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fuse_branches(module)
        deployed = sum(p.numel() for p in module.parameters())
        with FlopCounterMode(display=False) as counter:
            module(x)
        seconds = []
        for turn in range(_WARM_UP + _REPEATS):
            start = time.perf_counter()
            out = module(x)
            if turn >= _WARM_UP:
                seconds.append(time.perf_counter() - start)
    outputs: Sequence[Tensor] = [out] if isinstance(out, Tensor) else out
    return Cost(
        arguments,
        [list(y.shape) for y in outputs],
        learning,
        deployed,
        int(counter.get_total_flops()),
        round(1000 * statistics.median(seconds), 3),
        torch.get_num_threads(),
    )


def built_with_input(entry: Entry) -> tuple[nn.Module, Any, dict[str, Any]]:
    """A module of maps, its argument at `MEASURED_AT`, and what it was built with.

    Raises:
        ValueError: it is none.
    """
    if entry.traits is None:
        raise ValueError(f"{entry.name} is no module of maps")
    module, arguments = _built(entry)
    return module, _input(entry, arguments), arguments


def fuse_branches(module: nn.Module) -> None:
    """Turns branches of training into what is deployed, in place; in evaluation mode."""
    for layer in list(module.modules()):
        convert = getattr(layer, "convert_to_deploy", None)
        if convert is not None:
            convert()


def facts(entry: Entry) -> dict[str, Any]:
    """What the registry knows of a module of maps, as plain values."""
    assert entry.traits is not None
    traits = entry.traits
    return {
        "scale": traits.scale,
        "inputs": len(traits.sides) if len(traits.sides) > 1 else None,
        "multiple": traits.multiple,
        "smallest": traits.smallest,
        "any_size": traits.multiple == 1,
        "onnx": not traits.onnx,
        "onnx_reason": traits.onnx or None,
        "float32": traits.float32 or None,
    }


def summary(entry: Entry) -> str:
    """What a component does, in a line; its file's title where the class gives shapes only."""
    line = _first_line(entry.factory)
    return title(entry) if line.startswith("(") else line.partition(" (B, ")[0]


def title(entry: Entry) -> str:
    """The first line of the file that defines a component: the paper's title, as a rule."""
    return _first_line(inspect.getmodule(entry.factory))


def _first_line(documented: object) -> str:
    lines = (inspect.getdoc(documented) or "").splitlines()
    return lines[0] if lines else ""


def _built(entry: Entry) -> tuple[nn.Module, dict[str, Any]]:
    example = dict(entry.example or {})
    given = example["in_channels"]
    width = MEASURED_AT[0]
    wide: dict[str, Any] = {
        **{key: value for key, value in example.items() if key != "out_channels"},
        "in_channels": width if isinstance(given, int) else [width] * len(given),
    }
    torch.manual_seed(0)
    try:
        module = entry.factory(**wide)
        with torch.no_grad():
            module.eval()(_input(entry, wide))
        return module, wide
    except (ValueError, TypeError, RuntimeError):
        return entry.factory(**example), example


def _input(entry: Entry, arguments: dict[str, Any]) -> Any:
    assert entry.traits is not None
    _, height, width = MEASURED_AT
    widths, sides = arguments["in_channels"], entry.traits.sides
    generator = torch.Generator().manual_seed(1)
    if isinstance(widths, int):
        return torch.randn(1, widths, height, width, generator=generator)
    sides = sides if len(sides) == len(widths) else sides * len(widths)
    return [
        torch.randn(1, c, round(height * side), round(width * side), generator=generator)
        for c, side in zip(widths, sides, strict=True)
    ]
