"""What `detrkit modules` and `detrkit info MODULE` say of modules of maps."""

from __future__ import annotations

import inspect
import statistics
import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detrkit.engine.layerwise.memory import beside, kept_by, peak_of
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
        peak_bytes: of tensors alive at once in such a pass, beside weights and input.
        kept_bytes: what training keeps of a forward pass for the gradients, beside weights and
            input; float32. See `layerwise.memory` for what is counted.
    """

    arguments: dict[str, Any]
    output: list[list[int]]
    parameters: int
    deployed: int
    flops: int
    milliseconds: float
    threads: int
    peak_bytes: int
    kept_bytes: int


def measure(entry: Entry) -> Cost:
    """Builds a module 64 channels wide, or as its example is where it cannot be, and runs it.

    Args:
        entry: of a module of maps.

    Raises:
        ValueError: it is none.
    """
    module, x, arguments = built_with_input(entry)
    learning = sum(p.numel() for p in module.parameters() if p.requires_grad)
    kept = _kept(module, entry, arguments)
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
        peak = peak_of(lambda: module(x), beside(module, _listed(x)))
    return Cost(
        arguments,
        [list(y.shape) for y in _listed(out)],
        learning,
        deployed,
        int(counter.get_total_flops()),
        round(1000 * statistics.median(seconds), 3),
        torch.get_num_threads(),
        peak,
        kept,
    )


def _kept(module: nn.Module, entry: Entry, arguments: dict[str, Any]) -> int:
    """Per image; of two, because some norms see one value of each."""
    pair = _listed(_input(entry, arguments, 2))
    for x in pair:
        x.requires_grad_()
    module.train()
    given = pair[0] if isinstance(arguments["in_channels"], int) else pair
    return kept_by(lambda: module(given), beside(module, pair)) // 2


def _listed(x: Any) -> list[Tensor]:
    return [x] if isinstance(x, Tensor) else list(x)


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
    return title(entry) if line.startswith(("(", "[")) else line.partition(" (B, ")[0]


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


def _input(entry: Entry, arguments: dict[str, Any], images: int = 1) -> Any:
    assert entry.traits is not None
    _, height, width = MEASURED_AT
    widths, sides = arguments["in_channels"], entry.traits.sides
    generator = torch.Generator().manual_seed(1)
    if isinstance(widths, int):
        return torch.randn(images, widths, height, width, generator=generator)
    sides = sides if len(sides) == len(widths) else sides * len(widths)
    return [
        torch.randn(images, c, round(height * side), round(width * side), generator=generator)
        for c, side in zip(widths, sides, strict=True)
    ]
