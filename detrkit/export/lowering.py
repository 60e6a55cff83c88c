"""Opset 17 from opset 18, the lowest that PyTorch writes.

Opset 18 gave some operators of 17 further forms: `Split` a number of outputs, reductions their axes
as an input, `Resize` and `Pad` a choice of axes. What a detector has of them is written in the old
form; anything else is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from detrkit.errors import UsageError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

#: What `lowered` writes, and what it starts from.
LOWEST, WRITTEN = 17, 18

_REDUCTIONS = {
    f"Reduce{name}"
    for name in (
        "L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare",
    )
}  # fmt: skip
#: Attributes of opset 18 whose values, where they are these, say what 17 does in any case.
_AS_BEFORE: dict[str, dict[str, int | bytes]] = {
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"},
    **{name: {"noop_with_empty_axes": 0} for name in _REDUCTIONS},
}


def lower(model: ModelProto) -> None:
    """Rewrites a model of opset 18 in place.

    Raises:
        UsageError: it has what opset 17 cannot say.
    """
    import onnx

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Split":
            _drop(node, "num_outputs")  # parts are equal then; the check below sees to it
        elif node.op_type in _REDUCTIONS and len(node.input) == 2:
            axes = constants.get(node.input.pop())
            if axes is not None:
                values = onnx.numpy_helper.to_array(axes).tolist()
                node.attribute.append(onnx.helper.make_attribute("axes", values))
        for name, value in _AS_BEFORE.get(node.op_type, {}).items():
            _drop(node, name, value)
    used = {name for node in model.graph.node for name in node.input}
    unused = [tensor for tensor in model.graph.initializer if tensor.name not in used]
    for tensor in unused:
        model.graph.initializer.remove(tensor)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = LOWEST
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UsageError(
            f"--opset {LOWEST}: this model cannot be written in it: {str(error).splitlines()[0]}",
            hint=f"--opset {WRITTEN}",
        ) from error


def _drop(node: NodeProto, name: str, only: int | bytes | None = None) -> None:
    """Removes an attribute; where `only` is given, if that is its value."""
    import onnx

    for attribute in node.attribute:
        if attribute.name == name:
            if only is None or onnx.helper.get_attribute_value(attribute) == only:
                node.attribute.remove(attribute)
            return
