"""The layers of a detector by name, and what flows through them.

A layer is a tensor that a module returns. It has the module's name, `encoder.pan_blocks.0`; where
the module returns several, `encoder.outputs[0]`, `decoder.outputs[pred_boxes]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.engine.predictor import Predictor
from detrkit.engine.runtime import Runtime, TorchRuntime
from detrkit.errors import UsageError, did_you_mean

#: What `choose` takes for a part of the detector: what leaves it, or comes into the decoder.
SHORT_FORMS = {
    "backbone": r"backbone(\.outputs\[\d+\])?",
    "encoder": r"encoder(\.outputs\[\d+\])?",
    "decoder": r"decoder\.input_proj\.\d+",
}

_OUTPUTS = ".outputs"


@dataclass(frozen=True, slots=True)
class Layer:
    """A tensor that a module returns.

    Attributes:
        name: of the module, with `.outputs[…]` where it returns several.
        kind: class of the module.
        shape: for one image, (1, C, h, w) or (1, N, C) and others.
    """

    name: str
    kind: str
    shape: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"name": self.name, "kind": self.kind, "shape": list(self.shape)}


def torch_runtime(detector: Predictor | Runtime) -> TorchRuntime:
    """The PyTorch model behind a detector.

    Raises:
        UsageError: it is an exported file, whose layers cannot be looked at.
    """
    runtime = detector.runtime if isinstance(detector, Predictor) else detector
    if not isinstance(runtime, TorchRuntime):
        raise UsageError(
            "an exported file shows its answers only: its layers and gradients are closed",
            hint="give the checkpoint (.pth) that it was made from",
        )
    return runtime


def network(detector: Predictor | Runtime) -> nn.Module:
    """The model behind a detector, in evaluation mode; of a compiled one what was compiled.

    Raises:
        UsageError: see `torch_runtime`.
    """
    model = torch_runtime(detector).model
    original = getattr(model, "_orig_mod", model)
    assert isinstance(original, nn.Module)
    return original


def list_layers(detector: Predictor | Runtime) -> list[Layer]:
    """Every layer of a detector, in the order in which an image passes them.

    Modules whose weights are used without calling them have no output and are not listed.

    Raises:
        UsageError: see `torch_runtime`.
    """
    runtime = torch_runtime(detector)
    spec = runtime.image_spec
    image = torch.zeros(1, spec.in_channels, *spec.size, device=runtime.device)
    return layers_of(network(detector), image)


def layers_of(model: nn.Module, images: Tensor) -> list[Layer]:
    """Every layer of a model that runs for these images, in their order.

    Args:
        model: in evaluation mode.
        images: (1, C, H, W), its input.
    """
    found: dict[str, list[Layer]] = {}

    def begin(name: str, *_: object) -> None:
        found.setdefault(name, [])

    def end(name: str, module: nn.Module, _: object, output: Any) -> None:
        tensors = list(_tensors(output))
        ending = _OUTPUTS if len(tensors) > 1 or (tensors and tensors[0][0]) else ""
        found[name] = [
            Layer(name + ending + place, type(module).__name__, tuple(tensor.shape))
            for place, tensor in tensors
        ]

    with ExitStack() as stack, torch.inference_mode():
        for name, module in model.named_modules():
            if name:
                stack.enter_context(module.register_forward_pre_hook(partial(begin, name)))
                stack.enter_context(module.register_forward_hook(partial(end, name)))
        model(images)
    return [layer for layers in found.values() for layer in layers]


def choose(layers: Sequence[Layer], wanted: Iterable[str]) -> list[Layer]:
    """The layers that names, patterns and short forms mean, each once, in the order wanted.

    Args:
        layers: all there are.
        wanted: exact names; patterns with `*` and `?`; names of modules that return several
            tensors, for all of them; or `backbone`, `encoder` and `decoder` (`SHORT_FORMS`).

    Raises:
        UsageError: one of them means no layer.
    """
    chosen: dict[str, Layer] = {}
    for text in wanted:
        pattern = re.compile(SHORT_FORMS.get(text) or _pattern(text))
        found = [layer for layer in layers if pattern.fullmatch(layer.name)]
        if not found:
            names = [*SHORT_FORMS, *(layer.name for layer in layers)]
            raise UsageError(
                f"no layer `{text}`{did_you_mean(text, names)}",
                hint="`--layers` lists them; a pattern such as 'encoder.*' means several",
            )
        chosen.update((layer.name, layer) for layer in found)
    return list(chosen.values())


def _pattern(text: str) -> str:
    """`*` and `?` as in names of files, `[` as itself; or all outputs of the module."""
    escaped = re.escape(text).replace(r"\*", ".*").replace(r"\?", ".")
    return rf"{escaped}({re.escape(_OUTPUTS)}\[.*)?"


class Recorder:
    """Notes what layers return while it is entered, and how answers change with it.

        with Recorder(model, ["encoder.outputs[0]"]) as recorded:
            outputs = model(images)
        recorded["encoder.outputs[0]"]                             # (B, C, h, w)
        recorded.gradients(outputs["pred_logits"][0, 5, 2])        # the same names

    The model goes on with copies, so that what works in place behind a layer does not change
    what was noted. Its answers are the same, bit for bit. Of a module that runs several times
    the last run is noted. Gradients need images with `requires_grad`.

    Args:
        model: whose layers they are.
        names: of layers, as `list_layers` gives them.

    Raises:
        UsageError: a layer did not run, or there is no such module.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._modules: dict[str, nn.Module] = {}
        self._wanted: dict[str, set[str]] = {}
        for name in dict.fromkeys(names):
            module, found, place = name.partition(_OUTPUTS + "[")
            try:
                self._modules[module] = model.get_submodule(module)
            except AttributeError:
                raise UsageError(f"no layer `{name}`", hint="`--layers` lists them") from None
            self._wanted.setdefault(module, set()).add("[" * bool(found) + place)
        self._noted: dict[str, Tensor] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Recorder:
        self._noted.clear()
        for name, module in self._modules.items():
            self._stack.enter_context(module.register_forward_hook(partial(self._note, name)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._noted:
            raise UsageError(f"layer `{name}` did not run for this image")
        return self._noted[name]

    @property
    def activations(self) -> Mapping[str, Tensor]:
        """Name -> what the layer returned."""
        return dict(self._noted)

    def gradients(self, value: Tensor, *, keep_graph: bool = False) -> dict[str, Tensor]:
        """The derivative of a number by each noted layer, of its shape; zero without influence.

        Args:
            value: one number of the model's answer.
            keep_graph: whether more derivatives follow.
        """
        follows = {name: tensor for name, tensor in self._noted.items() if tensor.requires_grad}
        slopes: tuple[Tensor | None, ...] = ()
        if follows and value.requires_grad:
            slopes = torch.autograd.grad(
                value, list(follows.values()), allow_unused=True, retain_graph=keep_graph
            )
        known = dict(zip(follows, slopes, strict=False))
        return {
            name: torch.zeros_like(tensor) if (slope := known.get(name)) is None else slope
            for name, tensor in self._noted.items()
        }

    def _note(self, name: str, _module: nn.Module, _inputs: object, output: Any) -> Any:
        wanted = self._wanted[name]

        def kept(place: str, tensor: Tensor) -> Tensor:
            if place not in wanted:
                return tensor
            self._noted[name + (_OUTPUTS + place if place else "")] = tensor
            return tensor.clone()

        return _mapped(output, kept)


def _tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors in what a module returned, with their places: `[0]`, `[pred_boxes]`."""
    found: list[tuple[str, Tensor]] = []

    def note(place: str, tensor: Tensor) -> Tensor:
        found.append((place, tensor))
        return tensor

    _mapped(value, note)
    yield from found


def _mapped(value: Any, change: Callable[[str, Tensor], Tensor], place: str = "") -> Any:
    """The same lists, tuples and dicts with changed tensors; other objects stay as they are."""
    if isinstance(value, Tensor):
        return change(place, value)
    if isinstance(value, dict):
        return {key: _mapped(part, change, f"{place}[{key}]") for key, part in value.items()}
    if isinstance(value, list):
        return [_mapped(part, change, f"{place}[{i}]") for i, part in enumerate(value)]
    if type(value) is tuple:
        return tuple(_mapped(part, change, f"{place}[{i}]") for i, part in enumerate(value))
    return value
