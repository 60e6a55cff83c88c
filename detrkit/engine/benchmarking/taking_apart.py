"""Finds out where the time of a candidate goes, in its own process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from detrkit.engine.benchmarking.breakdown import Breakdown, Spent
from detrkit.engine.layerwise.onnx_nodes import NodeTime
from detrkit.engine.layerwise.operators import grouped, time_operators
from detrkit.engine.layerwise.times import time_layers
from detrkit.engine.onnx_runtime import OnnxRuntime
from detrkit.engine.program_runtime import ProgramRuntime
from detrkit.engine.runtime import Runtime, TorchRuntime
from detrkit.words import count

_PROFILER = (
    "Operations: own times by torch's profiler over {passes}; it slows every operation, small ones "
    "most, so look at the shares."
)


def take_apart(
    runtime: Runtime,
    call: Callable[[], object],
    batch: int,
    *,
    depth: int,
    seconds: float,
    compiled: bool = False,
) -> Breakdown:
    """Where the time of a call goes.

    Args:
        runtime: of the candidate.
        call: what is timed of it, see `Worker`.
        batch: images of a call.
        depth: of the names of layers.
        seconds: of timing layers.
        compiled: whether PyTorch compiled the model, which has no layers then.
    """
    if isinstance(runtime, TorchRuntime) and not compiled:
        return _of_layers(runtime, call, batch, depth, seconds)
    if isinstance(runtime, TorchRuntime | ProgramRuntime):
        operations = time_operators(call, runtime.device)
        how = "It is one program, without layers. " + _PROFILER.format(passes=count(5, "pass"))
        return Breakdown(batch, (), operations, [how])
    if isinstance(runtime, OnnxRuntime):
        return _of_nodes(runtime, batch, depth)
    return Breakdown(batch, how=[f"{runtime.name} is not taken apart"])


def _of_layers(
    runtime: TorchRuntime, call: Callable[[], object], batch: int, depth: int, seconds: float
) -> Breakdown:
    times = time_layers(runtime.model, call, seconds=seconds)
    kinds = {name: type(module).__name__ for name, module in runtime.model.named_modules()}
    rows = layer_rows(times.own, times.calls, kinds, depth)
    rows.append(Spent(OUTSIDE, times.outside, 1))
    how = [
        f"Layers: medians over {count(times.passes, 'pass')}. A pass took {times.plain:.2f} ms "
        f"without clocks and {times.clocked:.2f} ms with one on each layer; "
        f"{1000 * times.clock:.1f} µs per call of a layer are taken off. Their medians add up to "
        f"{sum(row.milliseconds for row in rows):.2f} ms, to less than a pass where the machine "
        "is disturbed.",
        _PROFILER.format(passes=count(5, "pass")),
    ]
    return Breakdown(batch, rows, time_operators(call, runtime.device), how)


#: What a call does besides running the model.
OUTSIDE = "selection of detections"


def layer_rows(
    own: Mapping[str, float], calls: Mapping[str, int], kinds: Mapping[str, str], depth: int
) -> list[Spent]:
    """Layers cut off at a depth, in the order in which they began.

    Args:
        own: milliseconds of layers outside those that they called, by dotted name.
        calls: of layers in a pass.
        kinds: class of each layer.
        depth: names of more parts belong to those of so many.
    """
    spent: dict[str, float] = {}
    for name, value in own.items():
        short = ".".join(name.split(".")[:depth])
        spent[short] = spent.get(short, 0.0) + value
    rows = []
    for name, value in spent.items():
        inner = any(each != name and (not name or each.startswith(f"{name}.")) for each in spent)
        shown = f"{name or 'model'}, itself" if inner else name or "model"
        rows.append(Spent(shown, value, calls.get(name, 0), kinds.get(name, "")))
    return rows


def _of_nodes(runtime: OnnxRuntime, batch: int, depth: int, passes: int = 10) -> Breakdown:
    nodes = runtime.timed_nodes(batch, passes)
    how = (
        f"Medians by ONNX Runtime's profiler over {count(passes, 'pass')}, of the graph as it "
        "optimized it; a fused node counts where its name says. Nodes that it added, e.g. to "
        f"change the layout of tensors, are under `{ADDED}`."
    )
    operations = grouped(((n.operator, n.milliseconds, n.calls) for n in nodes), 1)
    return Breakdown(batch, node_rows(nodes, depth), operations, [how])


#: Nodes that belong to no module of the detector.
ADDED = "runtime"


def node_rows(nodes: list[NodeTime], depth: int) -> list[Spent]:
    """Nodes by module, cut off at a depth, in the order of the file.

    Args:
        nodes: with their times.
        depth: names of more parts belong to those of so many.
    """
    own: dict[str, float] = {}
    calls: dict[str, int] = {}
    for node in nodes:
        scope = node.scope or ADDED
        own[scope] = own.get(scope, 0.0) + node.milliseconds
        short = ".".join(scope.split(".")[:depth])
        calls[short] = calls.get(short, 0) + round(node.calls)
    return [
        Spent(row.name, row.milliseconds, calls.get(row.name.removesuffix(", itself"), 0), "nodes")
        for row in layer_rows(own, {}, {}, depth)
    ]
