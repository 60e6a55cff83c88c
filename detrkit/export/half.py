"""16-bit ONNX models that keep what needs 32 bits.

Convolutions and matrix products, nearly all of the work, are computed in 16 bits, and so is what
lies between them without needing more (activations, sums, concatenations, …) as long as all of its
inputs come in 16 bits. Everything else stays in float32: norms, softmax, the distribution of box
edges, the decoding of boxes, sampling and ranking; and products with a single column, which are
weighted sums. Inputs and outputs of the model keep their types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from detrkit.errors import UsageError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

#: The work itself.
_HEAVY = {"Conv", "ConvTranspose", "MatMul", "Gemm"}

#: What follows its inputs: it moves numbers, or loses no more than these have lost.
_FOLLOWS = {
    "Add", "AveragePool", "Clip", "Concat", "Expand", "Flatten", "Gather", "Gelu",
    "GlobalAveragePool", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "MaxPool", "Mish",
    "Mul", "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Tanh",
    "Transpose", "Unsqueeze",
}  # fmt: skip

#: Inputs that are no numbers to compute with: sizes and scales of `Resize`.
_SETTINGS = {"Resize": (1, 2)}


def halved(model: ModelProto, kind: Literal["fp16", "bf16"] = "fp16") -> ModelProto:
    """A copy of a float32 model that computes in 16 bits where that is safe.

    Args:
        model: with inputs and outputs in float32.
        kind: fp16; or bf16, which has float32's range and fewer digits.

    Raises:
        UsageError: weights are larger than fp16 can hold.
    """
    import onnx

    result = onnx.shape_inference.infer_shapes(model)
    _Halving(result, kind).run()
    del result.graph.value_info[:]
    onnx.checker.check_model(result)
    return result


class _Halving:
    """One conversion.

    Args:
        model: changed in place.
        kind: fp16 or bf16.
    """

    def __init__(self, model: ModelProto, kind: Literal["fp16", "bf16"]) -> None:
        from onnx import TensorProto

        self.graph: GraphProto = model.graph
        self.kind = kind
        self.low = TensorProto.FLOAT16 if kind == "fp16" else TensorProto.BFLOAT16
        self.full = TensorProto.FLOAT
        graph = self.graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.floats = {t.name for t in graph.initializer if t.data_type == self.full}
        self.columns: dict[str, int | None] = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            tensor_type = value.type.tensor_type
            if tensor_type.elem_type == self.full:
                self.floats.add(value.name)
            sides = tensor_type.shape.dim
            self.columns[value.name] = sides[-1].dim_value if len(sides) else None
        self.lowered: set[str] = set()  # values that are computed in 16 bits
        self.casts: dict[tuple[str, int], str] = {}
        self.nodes: list[NodeProto] = []

    def run(self) -> None:
        """Converts the graph."""
        from onnx import helper

        outputs = {value.name for value in self.graph.output}
        for node in list(self.graph.node):
            low = self._is_low(node)
            wanted = self.low if low else self.full
            for i, name in enumerate(node.input):
                if name in self.floats and i not in _SETTINGS.get(node.op_type, ()):
                    node.input[i] = self._as(name, wanted)
            self.nodes.append(node)
            for i, name in enumerate(node.output):
                if not low or name not in self.floats:
                    continue
                if name in outputs:  # keeps its name and type
                    node.output[i] = f"{name}/{self.kind}"
                    self.nodes.append(
                        helper.make_node("Cast", [node.output[i]], [name], to=self.full)
                    )
                else:
                    self.lowered.add(name)
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        kept += [t for t in self.constants.values() if t.name in used and t not in kept]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def _is_low(self, node: NodeProto) -> bool:
        """Whether a node computes in 16 bits."""
        if node.op_type in _HEAVY:
            return self.columns.get(node.output[0]) != 1
        if node.op_type not in _FOLLOWS:
            return False
        settings = _SETTINGS.get(node.op_type, ())
        flowing = [
            name
            for i, name in enumerate(node.input)
            if name in self.floats and name not in self.constants and i not in settings
        ]
        return bool(flowing) and all(name in self.lowered for name in flowing)

    def _as(self, name: str, kind: int) -> str:
        """The name of a value in a type; makes it where it is not there yet."""
        from onnx import helper

        if (kind == self.low) == (name in self.lowered):
            return name
        key = (name, kind)
        if key not in self.casts:
            new = f"{name}/{self.kind if kind == self.low else 'fp32'}"
            self.casts[key] = new
            if name in self.constants:
                self.constants[new] = self._constant(self.constants[name], new)
            else:
                self.nodes.append(
                    helper.make_node("Cast", [name], [new], to=kind, name=f"{new}/Cast")
                )
        return self.casts[key]

    def _constant(self, tensor: TensorProto, name: str) -> TensorProto:
        from onnx import helper, numpy_helper

        values = numpy_helper.to_array(tensor)
        if self.kind == "bf16":
            return helper.make_tensor(name, self.low, values.shape, values.ravel())
        finite = values[np.isfinite(values)]
        if finite.size and np.abs(finite).max() > np.finfo(np.float16).max:
            raise UsageError(
                f"{tensor.name} holds numbers beyond fp16's range (65504)",
                hint="export in float32, or for TensorRT in bf16 (--bf16)",
            )
        return numpy_helper.from_array(values.astype(np.float16), name)
