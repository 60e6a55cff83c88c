"""What a model costs: parameters, floating-point operations, layer by layer.

Two counters look at the deployed model, because each misses something:

* calflops, the counter behind the numbers that papers of this family print. It patches
  `torch.nn.functional`, so it sees convolutions, linear layers, activations, pooling,
  interpolation and sums, but not fused attention, which is one operation of its own.
* torch's `FlopCounterMode`, which looks below at the operations that run: convolutions, matrix
  products and fused attention, but nothing element-wise.

A multiply-add is two operations in both. Neither counts `grid_sample`, the core of deformable
attention.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from detrkit.models.graph import Graph
from detrkit.ops import onednn

log = logging.getLogger("detrkit.inspect")


@dataclass(frozen=True, slots=True)
class Layer:
    """One module of the deployed model.

    Attributes:
        name: dotted path; "" is the whole model.
        kind: class name.
        output: shapes of the tensors it returned, (1, 64, 80, 80); empty if it never ran.
        parameters: in it and below.
        flops: by torch's counter, in it and below.
        depth: dots in the path, plus one; 0 is the whole model.
    """

    name: str
    kind: str
    output: tuple[tuple[int, ...], ...]
    parameters: int
    flops: int
    depth: int


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations of one forward pass.

    Attributes:
        calflops: by calflops, or None when it failed.
        macs: multiply-adds by calflops.
        torch: by torch's counter.
        torch_by_kind: the same per kind: "convolution", "matrix product", "attention".
        problem: why calflops failed.
    """

    calflops: int | None
    macs: int | None
    torch: int
    torch_by_kind: dict[str, int] = field(default_factory=dict)
    problem: str = ""

    @property
    def unseen_attention(self) -> int:
        """What calflops misses, by torch's counter: multiply-adds it did not find."""
        return 0 if self.macs is None else self.torch - 2 * self.macs

    @property
    def elementwise(self) -> int:
        """What only calflops counts: activations, pooling, interpolation, sums."""
        return 0 if self.calflops is None or self.macs is None else self.calflops - 2 * self.macs


@dataclass(frozen=True, slots=True)
class GraphRow:
    """A row of a part that is written as a list of layers.

    Attributes:
        index: its number.
        sources: numbers of the layers that it takes; -1: the image.
        repeats: how often.
        module: its name.
        arguments: that it was built with.
        output: shape of its map.
        parameters, flops: as in `Layer`.
    """

    index: int
    sources: tuple[int, ...]
    repeats: int
    module: str
    arguments: dict[str, Any]
    output: tuple[int, ...]
    parameters: int
    flops: int


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What a model is made of and costs.

    Attributes:
        name: as the user called it.
        size: (h, w) of the input that was counted.
        in_channels: its channels.
        parameters: all, in training.
        trainable: those that train.
        deployed: of the model that runs after training.
        parts: parameters of the direct children in training, e.g. {"backbone": …}.
        flops: of the deployed model, one image.
        layers: the deployed model's, in the order of the modules.
        graphs: rows of the parts that are written as lists of layers, by the part's name.
    """

    name: str
    size: tuple[int, int]
    parameters: int
    trainable: int
    deployed: int
    parts: dict[str, int]
    flops: Flops
    layers: tuple[Layer, ...] = ()
    in_channels: int = 3
    graphs: dict[str, list[GraphRow]] = field(default_factory=dict)

    def to_dict(self, depth: int | None = None) -> dict[str, Any]:
        """Plain values for JSON; layers down to `depth`, None without."""
        return {
            "name": self.name,
            "input": [1, self.in_channels, *self.size],
            "parameters": {
                "total": self.parameters,
                "trainable": self.trainable,
                "deployed": self.deployed,
                "parts": self.parts,
            },
            "flops": {
                "calflops": self.flops.calflops,
                "calflops_macs": self.flops.macs,
                "torch": self.flops.torch,
                "torch_by_kind": self.flops.torch_by_kind,
                "calflops_problem": self.flops.problem or None,
            },
            "graphs": {part: [asdict(row) for row in rows] for part, rows in self.graphs.items()},
            **(
                {"layers": [asdict(layer) for layer in self.layers if layer.depth <= depth]}
                if depth is not None
                else {}
            ),
        }


def inspect_model(model: nn.Module, size: tuple[int, int], name: str = "") -> ModelReport:
    """Counts a detector.

    Args:
        model: unchanged.
        size: (h, w) of the input.
        name: for the report.
    """
    deploy = getattr(model, "deploy", None)
    deployed: nn.Module = deploy() if deploy is not None else model
    training = deployed.training
    deployed.eval()
    in_channels = int(getattr(model, "in_channels", 3))
    example = torch.zeros(1, in_channels, *size, device=next(model.parameters()).device)
    try:
        with onednn.left_out():
            layers, by_kind = _layers(deployed, example)
            calflops, macs, problem = _calflops(deployed, example)
    finally:
        deployed.train(training)
    return ModelReport(
        name=name,
        size=size,
        parameters=count_parameters(model),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        deployed=count_parameters(deployed),
        parts={part: count_parameters(child) for part, child in model.named_children()},
        flops=Flops(calflops, macs, sum(by_kind.values()), by_kind, problem),
        layers=layers,
        in_channels=in_channels,
        graphs=_graphs(deployed, layers),
    )


def _graphs(model: nn.Module, layers: Sequence[Layer]) -> dict[str, list[GraphRow]]:
    by_name = {layer.name: layer for layer in layers}
    found: dict[str, list[GraphRow]] = {}
    for part, module in model.named_modules():
        if not isinstance(module, Graph):
            continue
        found[part] = []
        for number, row in enumerate(module.rows):
            layer = by_name[f"{part}.layers.{number}"]
            found[part].append(
                GraphRow(
                    row.index, row.sources, row.repeats, row.name, dict(row.arguments),
                    layer.output[0] if layer.output else (), layer.parameters, layer.flops,
                )
            )  # fmt: skip
    return found


def count_parameters(module: nn.Module) -> int:
    """Numbers in the parameters; shared ones count once, buffers do not."""
    return sum(parameter.numel() for parameter in module.parameters())


def _layers(model: nn.Module, example: Tensor) -> tuple[tuple[Layer, ...], dict[str, int]]:
    """Every module with its output shapes and operations, and the operations per kind."""
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
    first_use: dict[str, int] = {}
    hooks = []
    for name, module in model.named_modules():
        hooks += [
            module.register_forward_pre_hook(lambda *_, name=name: _note(first_use, name)),
            module.register_forward_hook(
                lambda _module, _inputs, output, name=name: shapes.update({name: _shapes(output)})
            ),
        ]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    root = type(model).__name__
    flops = {
        name.removeprefix(f"{root}.") if name != root else "": sum(kinds.values())
        for name, kinds in counter.get_flop_counts().items()
        if name != "Global"
    }
    layers = [
        Layer(
            name=name,
            kind=type(module).__name__,
            output=shapes.get(name, ()),
            parameters=count_parameters(module),
            flops=int(_flops_of(name, module, flops)),
            depth=name.count(".") + 1 if name else 0,
        )
        for name, module in model.named_modules()
    ]
    by_kind: dict[str, int] = {}
    for operation, count in counter.get_flop_counts().get("Global", {}).items():
        kind = _kind(str(operation))
        by_kind[kind] = by_kind.get(kind, 0) + int(count)
    return tuple(_in_order_of_use(layers, first_use)), by_kind


def _note(first_use: dict[str, int], name: str) -> None:
    first_use.setdefault(name, len(first_use))


def _flops_of(name: str, module: nn.Module, flops: dict[str, int]) -> int:
    """Operations of a module; a list of modules never runs itself, so its members count."""
    if name in flops:
        return flops[name]
    prefix = f"{name}." if name else ""
    return sum(_flops_of(f"{prefix}{n}", child, flops) for n, child in module.named_children())


def _in_order_of_use(layers: list[Layer], first_use: dict[str, int]) -> list[Layer]:
    """Parents before children, siblings in the order in which they ran."""
    never = len(first_use)
    used: dict[str, int] = {}
    for layer in layers:
        order = first_use.get(layer.name, never)
        for parent in _path(layer.name):
            used[parent] = min(used.get(parent, never), order)
    return sorted(layers, key=lambda layer: [(used[p], p) for p in _path(layer.name)])


def _path(name: str) -> list[str]:
    """`a.b` -> ``, `a`, `a.b`."""
    parts = name.split(".") if name else []
    return [".".join(parts[:i]) for i in range(len(parts) + 1)]


def _kind(operation: str) -> str:
    """`aten.addmm` -> "matrix product"."""
    if "attention" in operation:
        return "attention"
    return "convolution" if "convolution" in operation else "matrix product"


def _shapes(output: Any) -> tuple[tuple[int, ...], ...]:
    """Shapes of the tensors in an output; dictionaries and lists one level deep."""
    if isinstance(output, Tensor):
        return (tuple(output.shape),)
    items = output.values() if isinstance(output, dict) else output
    if not isinstance(output, dict | list | tuple):
        return ()
    return tuple(tuple(item.shape) for item in items if isinstance(item, Tensor))


def _calflops(model: nn.Module, example: Tensor) -> tuple[int | None, int | None, str]:
    """Operations and multiply-adds by calflops, or why it failed."""
    # It prints, and importing it imports transformers, which warns about what is not installed.
    silence = (contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()))
    with warnings.catch_warnings(), silence[0], silence[1], _unpatched_after():
        warnings.simplefilter("ignore")
        try:
            from calflops import calculate_flops

            with torch.no_grad():
                flops, macs, _ = calculate_flops(
                    model,
                    args=[example],
                    print_results=False,
                    print_detailed=False,
                    output_as_string=False,
                )
        except Exception as error:  # an operation it cannot count, at any depth of its patches
            log.debug("calflops failed", exc_info=True)
            return None, None, f"{type(error).__name__}: {error}"
    return int(flops), int(macs), ""


@contextlib.contextmanager
def _unpatched_after() -> Iterator[None]:
    """Takes calflops' patches out of torch again, also when it fails in between."""
    before = [(owner, dict(vars(owner))) for owner in (F, torch, torch.Tensor)]
    try:
        yield
    finally:
        for owner, names in before:
            for name, value in names.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)
