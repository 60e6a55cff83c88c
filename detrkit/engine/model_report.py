"""What a model is made of and costs: the numbers of `detrkit info`."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from detrkit.engine.layerwise.kinds import KindFlops
from detrkit.engine.layerwise.running import above

#: What bytes of activations are, for people who read the numbers.
MEMORY_MEANS = (
    "bytes of tensors that the forward pass makes, each storage once, batch 1, in the type that "
    "they have; without weights, the input and work space of kernels"
)


#: Ends the kind of a layer that stands without those below it.
_ITSELF = ", itself"

#: What layers can be sorted by.
SORTED_BY = ("time", "flops", "parameters", "memory", "saved")


@dataclass(frozen=True, slots=True)
class Layer:
    """One module of the deployed model.

    "In it and below" goes by names, so that the layers below a layer and what it does itself add up
    to it, also where a layer is called from elsewhere in the model.

    Attributes:
        name: dotted path; "" is the whole model.
        kind: class name.
        output: shapes of the tensors it returned, (1, 64, 80, 80); empty if it never ran.
        parameters: in it and below.
        flops: by torch's counter, in it and below.
        depth: dots in the path, plus one; 0 is the whole model.
        calls: how often it ran.
        own_flops: without those of the layers below.
        calflops: by calflops, in it and below; None when that failed.
        kept_bytes: of the new tensors that its calls left behind: its outputs. Views of its input
            and results in the input's place are none.
        peak_bytes: most bytes of activations alive at one time while it ran, other branches' that
            wait for it included; None: it never ran.
        milliseconds: in it and below; None: not timed, or not a layer of its own in the model that
            was timed.
        own_milliseconds: without those of the layers below.
    """

    name: str
    kind: str
    output: tuple[tuple[int, ...], ...]
    parameters: int
    flops: int
    depth: int
    calls: int = 0
    own_flops: int = 0
    calflops: int | None = None
    kept_bytes: int = 0
    peak_bytes: int | None = None
    milliseconds: float | None = None
    own_milliseconds: float | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """How layers were timed. Milliseconds are medians.

    Attributes:
        device, threads: that computed; threads count on a CPU.
        passes: with a clock on every layer; as many without took turns with them.
        plain: of a pass without clocks.
        clocked: of a pass with clocks.
        clock: milliseconds that a clock adds to a call; taken off the times of layers.
        whole: the sum of the times of layers.
    """

    device: str
    threads: int
    passes: int
    plain: float
    clocked: float
    clock: float
    whole: float


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """What autograd keeps between the forward and the backward pass of one image.

    Attributes:
        boxes: in the image; denoising makes queries of them.
        whole: bytes of the storages that the model saves, each once; without parameters, the input
            and what losses add.
        own: by layer of the model in training, bytes that it was the first to save.
        problem: why it could not be measured.
    """

    boxes: int
    whole: int | None
    own: dict[str, int] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Flops:
    """Floating-point operations of one forward pass.

    Attributes:
        calflops: by calflops, or None when it failed.
        macs: multiply-adds by calflops.
        torch: by torch's counter.
        torch_by_kind: the same per kind: "convolution", "matrix product", "attention".
        problem: why calflops failed.
        kinds: both by class of layers, and why they differ.
    """

    calflops: int | None
    macs: int | None
    torch: int
    torch_by_kind: dict[str, int] = field(default_factory=dict)
    problem: str = ""
    kinds: tuple[KindFlops, ...] = ()

    @property
    def unseen_attention(self) -> int:
        """What calflops misses, by torch's counter: multiply-adds it did not find."""
        return 0 if self.macs is None else self.torch - 2 * self.macs

    @property
    def elementwise(self) -> int:
        """What only calflops counts: activations, pooling, interpolation, sums."""
        return 0 if self.calflops is None or self.macs is None else self.calflops - 2 * self.macs

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "calflops": self.calflops,
            "calflops_macs": self.macs,
            "torch": self.torch,
            "torch_by_kind": self.torch_by_kind,
            "calflops_problem": self.problem or None,
            "unseen_by_calflops": self.unseen_attention,
            "uncounted_by_torch": self.elementwise,
            "layer_kinds": [
                {
                    "kind": kind.kind,
                    "layers": kind.layers,
                    "calflops": kind.calflops,
                    "calflops_macs": kind.macs,
                    "torch": kind.torch,
                    "difference": kind.difference,
                    "reason": kind.reason or None,
                }
                for kind in self.kinds
            ],
        }


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
        inputs: shapes of what it was given.
        parameters: all, in training.
        trainable: those that train.
        deployed: of the model that runs after training.
        parts: parameters of the direct children in training, e.g. {"backbone": …}.
        flops: of the deployed model, one image.
        layers: the deployed model's, in the order of the modules.
        graphs: rows of the parts that are written as lists of layers, by the part's name.
        timing: how the times of layers came about; None: not timed.
        training: memory of training; None: not measured.
    """

    name: str
    inputs: tuple[tuple[int, ...], ...]
    parameters: int
    trainable: int
    deployed: int
    parts: dict[str, int]
    flops: Flops
    layers: tuple[Layer, ...] = ()
    graphs: dict[str, list[GraphRow]] = field(default_factory=dict)
    timing: Timing | None = None
    training: TrainingMemory | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) of the input."""
        return self.inputs[0][-2], self.inputs[0][-1]

    def rows(self, depth: int) -> list[Layer]:
        """Layers down to a depth."""
        return [layer for layer in self.layers if layer.depth <= depth]

    def cut(self, depth: int, sort: str) -> list[Layer]:
        """The model in pieces that add up to it, the largest first.

        Pieces are the layers at a depth and those above it that have none below them; what other
        layers do themselves is a piece called "itself".

        Args:
            depth: of the layers.
            sort: one of `SORTED_BY`.
        """
        rows = self.rows(depth)
        inside = [above(layer.name)[-2] for layer in rows if layer.name]
        pieces = [layer if layer.name not in inside else self._itself(layer) for layer in rows]
        pieces = [p for p in pieces if p.parameters or p.flops or p.milliseconds or p.kept_bytes]
        value = {
            "time": lambda layer: layer.milliseconds or 0.0,
            "flops": lambda layer: layer.flops,
            "parameters": lambda layer: layer.parameters,
            "memory": lambda layer: layer.kept_bytes,
            "saved": self.saved_by,
        }[sort]
        return sorted(pieces, key=value, reverse=True)

    def _itself(self, layer: Layer) -> Layer:
        """A layer without those below it."""
        below = [each for each in self.layers if each.name and above(each.name)[-2] == layer.name]
        calflops = layer.calflops
        if calflops is not None:
            calflops -= sum(each.calflops or 0 for each in below)
        return replace(
            layer,
            kind=f"{layer.kind}{_ITSELF}",
            parameters=layer.parameters - sum(each.parameters for each in below),
            flops=layer.own_flops,
            calflops=calflops,
            kept_bytes=0,
            peak_bytes=None,
            milliseconds=layer.own_milliseconds,
        )

    def saved_by(self, layer: Layer) -> int:
        """Bytes that a layer and those below it by name save for the backward pass."""
        own = self.training.own if self.training is not None else {}
        if layer.kind.endswith(_ITSELF):
            return own.get(layer.name, 0)
        return sum(size for each, size in own.items() if layer.name in above(each))

    def csv(self, rows: Sequence[Layer]) -> str:
        """Layers as a table with a head; shapes as `1x64x80x80`, several apart by spaces."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        names = [field.name for field in fields(Layer)]
        saves = self.training is not None and self.training.whole is not None
        writer.writerow([*names, *(["saved_bytes"] if saves else [])])
        for layer in rows:
            values = asdict(layer)
            values["output"] = " ".join("x".join(map(str, shape)) for shape in layer.output)
            more = [self.saved_by(layer)] if saves else []
            writer.writerow(["" if values[n] is None else values[n] for n in names] + more)
        return file.getvalue()

    def to_dict(self, rows: Sequence[Layer] | None = None) -> dict[str, Any]:
        """Plain values for JSON, with layers where they are given."""
        found: dict[str, Any] = {
            "name": self.name,
            "input": self.inputs[0] if len(self.inputs) == 1 else self.inputs,
            "parameters": {
                "total": self.parameters,
                "trainable": self.trainable,
                "deployed": self.deployed,
                "parts": self.parts,
            },
            "flops": self.flops.to_dict(),
            "activations": {
                "peak_bytes": self.layers[0].peak_bytes if self.layers else None,
                "meaning": MEMORY_MEANS,
            },
            "graphs": {part: [asdict(row) for row in rows] for part, rows in self.graphs.items()},
        }
        if self.timing is not None:
            found["timing"] = asdict(self.timing)
        if self.training is not None:
            found["training"] = {
                "boxes": self.training.boxes,
                "saved_bytes": self.training.whole,
                "problem": self.training.problem or None,
            }
        if rows is not None:
            found["layers"] = [self._row(layer) for layer in rows]
        return found

    def _row(self, layer: Layer) -> dict[str, Any]:
        row = asdict(layer)
        if self.training is not None and self.training.whole is not None:
            row["saved_bytes"] = self.saved_by(layer)
        return row
