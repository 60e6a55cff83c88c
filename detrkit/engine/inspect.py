"""What a model costs: parameters, floating-point operations, memory and time, layer by layer.

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

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from detrkit.engine.layerwise import calflops_count
from detrkit.engine.layerwise.calflops_count import Calflops
from detrkit.engine.layerwise.counting import Pass, run_counted, tensors_in
from detrkit.engine.layerwise.flow import ModelGraph, model_graph
from detrkit.engine.layerwise.kinds import by_kind
from detrkit.engine.layerwise.running import above, totals
from detrkit.engine.layerwise.times import LayerTimes, time_layers
from detrkit.engine.layerwise.training import training_memory
from detrkit.engine.model_report import Flops, GraphRow, Layer, ModelReport, Timing
from detrkit.engine.module_catalogue import built_with_input, fuse_branches
from detrkit.models.graph import Graph
from detrkit.ops import onednn
from detrkit.registry import Entry


@dataclass(frozen=True)
class Subject:
    """A model and what it is given.

    Attributes:
        model: as it trains.
        deployed: as it is counted, in evaluation.
        inputs: its arguments, one image.
        name: as the user called it.
    """

    model: nn.Module
    deployed: nn.Module
    inputs: tuple[Any, ...]
    name: str = ""

    @classmethod
    def of(cls, model: nn.Module, size: tuple[int, int], name: str = "") -> Subject:
        """A model of images, unchanged.

        Args:
            model: a detector, or another one that takes images.
            size: (h, w) of the image.
            name: for the report.
        """
        deploy = getattr(model, "deploy", None)
        deployed = copy.deepcopy(model).eval() if deploy is None else deploy()
        channels = int(getattr(model, "in_channels", 3))
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        return cls(model, deployed, (torch.zeros(1, channels, *size, device=device),), name)

    @classmethod
    def of_component(cls, entry: Entry) -> Subject:
        """A module of maps, as `detrkit modules` measures it.

        Raises:
            ValueError: it is none.
        """
        module, x, _ = built_with_input(entry)
        deployed = copy.deepcopy(module).eval()
        fuse_branches(deployed)
        return cls(module, deployed, (x,), entry.name)

    def as_run(self) -> nn.Module:
        """As `infer` runs it: the norms of a detector are folded, and oneDNN is used on a CPU."""
        deploy = getattr(self.model, "deploy", None)
        return self.deployed if deploy is None else deploy(fold_norms=True)

    def graph(self, depth: int) -> ModelGraph:
        """Its layers and the tensors that flow between them; see `model_graph`."""
        with onednn.left_out():
            return model_graph(self.deployed, self.inputs, depth=depth, name=self.name)


def inspect_model(model: nn.Module, size: tuple[int, int], name: str = "") -> ModelReport:
    """Counts a model of images; see `inspect`.

    Args:
        model: unchanged.
        size: (h, w) of the input.
        name: for the report.
    """
    return inspect(Subject.of(model, size, name))


def inspect(subject: Subject, *, seconds: float = 0.0, training: bool = False) -> ModelReport:
    """Counts a model.

    Args:
        subject: the model and its input.
        seconds: of timing its layers; 0: they are not timed.
        training: whether the memory that training saves is measured, in a pass of training.
    """
    model, deployed, inputs = subject.model, subject.deployed, subject.inputs
    with onednn.left_out():
        calflops = calflops_count.count(deployed, inputs)  # first: it fills caches of positions
        counted = run_counted(deployed, inputs)
    times = _times(subject, seconds) if seconds else None
    layers = _layers(deployed, counted, calflops, times)
    kinds = {n: type(m).__name__ for n, m in deployed.named_modules() if n in counted.calls}
    by_operation = counted.flops_by_kind
    report = ModelReport(
        name=subject.name,
        inputs=tuple(tuple(tensor.shape) for tensor in tensors_in(inputs)),
        parameters=count_parameters(model),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        deployed=count_parameters(deployed),
        parts={part: count_parameters(child) for part, child in model.named_children()},
        flops=Flops(
            calflops.flops,
            calflops.macs,
            sum(by_operation.values()),
            by_operation,
            calflops.problem,
            by_kind(kinds, counted.flops, None if calflops.flops is None else calflops.own),
        ),
        layers=layers,
        graphs=_graphs(deployed, layers),
        timing=None if times is None else _timing(times, inputs),
    )
    return replace(report, training=training_memory(model, inputs)) if training else report


def _times(subject: Subject, seconds: float) -> LayerTimes:
    model = subject.as_run()
    return time_layers(model, lambda: model(*subject.inputs), seconds=seconds)


def _timing(times: LayerTimes, inputs: Sequence[Any]) -> Timing:
    return Timing(
        device=str(tensors_in(inputs)[0].device),
        threads=torch.get_num_threads(),
        passes=times.passes,
        plain=times.plain,
        clocked=times.clocked,
        clock=times.clock,
        whole=times.whole,
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


def _layers(
    model: nn.Module, counted: Pass, calflops: Calflops, times: LayerTimes | None
) -> tuple[Layer, ...]:
    """Every module, parents before children, siblings in the order in which they ran."""
    own = {name: sum(kinds.values()) for name, kinds in counted.flops.items()}
    flops = totals(own)
    by_calflops = totals(
        {name: sum(f for f, _ in functions.values()) for name, functions in calflops.own.items()}
    )
    own_times = {} if times is None else times.own
    milliseconds = totals(own_times)
    layers = [
        Layer(
            name=name,
            kind=type(module).__name__,
            output=counted.shapes.get(name, ()),
            parameters=count_parameters(module),
            flops=flops.get(name, 0),
            depth=name.count(".") + 1 if name else 0,
            calls=counted.calls.get(name, 0),
            own_flops=own.get(name, 0),
            calflops=None if calflops.flops is None else by_calflops.get(name, 0),
            kept_bytes=counted.kept.get(name, 0),
            peak_bytes=counted.peak.get(name),
            milliseconds=milliseconds.get(name),
            own_milliseconds=own_times.get(name),
        )
        for name, module in model.named_modules()
    ]
    never = len(counted.first)
    used: dict[str, int] = {}
    for layer in layers:
        order = counted.first.get(layer.name, never)
        for each in above(layer.name):
            used[each] = min(used.get(each, never), order)
    return tuple(sorted(layers, key=lambda layer: [(used[p], p) for p in above(layer.name)]))
