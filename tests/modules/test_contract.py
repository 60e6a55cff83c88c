"""What every paper module keeps, whatever it computes; over the registry, plug-ins' way.

That a module is the paper's is shown by the reference numbers (`test_reference.py`) and by the
tests of each family against a naive transcription of its equations.
"""

from __future__ import annotations

import copy
import io
import re
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detrkit.registry import MODULES, Entry, Traits

ENTRIES = [entry for entry in MODULES if entry.traits is not None]
#: Odd and different sides, for modules that take any.
SIZE = (17, 13)
#: Modules of all kinds that `torch.compile` is tried on.
COMPILED = (
    "SimAM",
    "CoordAtt",
    "DiverseBranchBlock",
    "WTConv2d",
    "DCNv2",
    "HWD",
    "DySample",
    "StarBlock",
    "RepHMS",
    "MFM",
    "PolaLinearAttention",
    "ConvolutionalGLU",
    "DynamicTanh",
)
#: More of them, that take longer to trace.
COMPILED_SLOWLY = (
    "UniRepLKNetBlock",
    "iRMB",
    "GDSAFusion",
    "HyperACE",
    "VMAMBA2Block",
    "BiLevelRoutingAttention",
    "DAttention",
)


def build(entry: Entry, seed: int = 0) -> nn.Module:
    """The example of an entry; what starts at zero is moved, so that it takes part."""
    torch.manual_seed(seed)
    module: nn.Module = entry.factory(**(entry.example or {}))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return module


def size_of(traits: Traits) -> tuple[int, int]:
    """A size that the module takes, the nearest to `SIZE`."""
    multiple = traits.multiple * round(1 / min(traits.sides))
    height, width = (max(side, traits.smallest) for side in SIZE)
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def inputs(entry: Entry, batch: int = 2, seed: int = 1) -> Any:
    """A map, or a list of maps, as the example's `in_channels` asks for."""
    assert entry.traits is not None
    widths = next(iter((entry.example or {}).values()))
    generator = torch.Generator().manual_seed(seed)
    height, width = size_of(entry.traits)
    if isinstance(widths, int):
        return torch.randn(batch, widths, height, width, generator=generator)
    sides = entry.traits.sides
    sides = sides if len(sides) == len(widths) else sides * len(widths)
    return [
        torch.randn(batch, c, round(height * side), round(width * side), generator=generator)
        for c, side in zip(widths, sides, strict=True)
    ]


def listed(value: Any) -> list[Tensor]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def part(value: Any, item: slice) -> Any:
    return value[item] if isinstance(value, Tensor) else [x[item] for x in value]


def typed(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) else [x.to(dtype) for x in value]


def watched(value: Any) -> Any:
    """As leaves that get a gradient."""
    for x in listed(value):
        x.requires_grad_()
    return value


def moved(leaf: Tensor) -> bool:
    """Whether a gradient arrived that is finite and not all zero."""
    return leaf.grad is not None and bool(leaf.grad.any() and leaf.grad.isfinite().all())


def near(a: Any, b: Any, tolerance: float) -> None:
    for one, other in zip(listed(a), listed(b), strict=True):
        scale = max(1.0, float(other.abs().max()))
        assert (one - other).abs().max() <= tolerance * scale


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(2)


def test_the_library_is_there() -> None:
    assert ENTRIES


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in ENTRIES])
class TestContract:
    def test_it_is_described(self, entry: Entry) -> None:
        assert next(iter(entry.parameters)) == "in_channels"
        assert next(iter(entry.example or {})) == "in_channels"
        assert entry.paper
        assert entry.factory.__doc__
        assert "->" in entry.factory.__doc__

    def test_widths_and_sizes(self, entry: Entry) -> None:
        module, x = build(entry).eval(), inputs(entry)
        with torch.no_grad():
            outputs = listed(module(x))
        widths = module.out_channels
        widths = [widths] if isinstance(widths, int) else list(widths)
        assert [y.shape[1] for y in outputs] == widths
        assert entry.traits is not None
        scales = entry.traits.scale
        scales = scales if isinstance(scales, tuple) else (scales,) * len(outputs)
        first = listed(x)[0]
        for y, scale in zip(outputs, scales, strict=True):
            assert y.shape[0] == first.shape[0]
            for side, before in zip(y.shape[2:], first.shape[2:], strict=True):
                assert abs(side - before * scale) < 1
            assert y.isfinite().all()

    def test_every_parameter_learns(self, entry: Entry) -> None:
        module, x = build(entry).train(), watched(inputs(entry))
        outputs = listed(module(x))
        sum((y * torch.randn_like(y)).sum() for y in outputs).backward()
        idle = [
            name
            for name, p in module.named_parameters()
            if p.requires_grad
            and (p.grad is None or not p.grad.any() or not p.grad.isfinite().all())
        ]
        assert not idle

    def test_images_do_not_mix(self, entry: Entry) -> None:
        module, x = build(entry).eval(), inputs(entry)
        with torch.no_grad():
            both, first = module(x), module(part(x, slice(0, 1)))
        near(part(both, slice(0, 1)), first, 1e-4)

    def test_saved_and_copied(self, entry: Entry) -> None:
        module, x = build(entry).eval(), inputs(entry)
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        other = build(entry, seed=9).eval()
        other.load_state_dict(torch.load(file, weights_only=True))
        with torch.no_grad():
            expected = module(x)
            near(other(x), expected, 0)
            near(copy.deepcopy(module)(x), expected, 0)

    def test_half_precision_is_finite(self, entry: Entry) -> None:
        module, x = build(entry).train(), watched(inputs(entry))
        with torch.autocast("cpu", torch.bfloat16):
            outputs = listed(module(x))
        assert all(y.isfinite().all() for y in outputs)
        sum(y.float().sum() for y in outputs).backward()
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)


def convertible(module: nn.Module) -> list[Any]:
    """The layers that `deploy` fuses."""
    return [layer for layer in module.modules() if hasattr(layer, "convert_to_deploy")]


@pytest.mark.parametrize(
    "entry", [pytest.param(e, id=e.name) for e in ENTRIES if convertible(build(e))]
)
def test_deployed_it_is_the_same(entry: Entry) -> None:
    module, x = build(entry).double(), typed(inputs(entry), torch.float64)
    with torch.no_grad():
        module.train()
        for _ in range(2):  # statistics other than 0 and 1
            module(x)
        module.eval()
        expected = module(x)
        before = len(list(module.parameters()))
        for layer in convertible(module):
            layer.convert_to_deploy()
        near(module(x), expected, 1e-5)
    assert len(list(module.parameters())) < before


def wants_a_multiple(entry: Entry) -> bool:
    traits = entry.traits
    return traits is not None and traits.multiple > 1 and len(traits.sides) == 1


@pytest.mark.parametrize(
    "entry", [pytest.param(e, id=e.name) for e in ENTRIES if wants_a_multiple(e)]
)
def test_a_wrong_size_is_named(entry: Entry) -> None:
    assert entry.traits is not None
    module = build(entry).eval()
    height, width = size_of(entry.traits)
    widths = next(iter((entry.example or {}).values()))
    with pytest.raises(ValueError, match=re.escape(str(width + 1))):
        module(torch.randn(1, widths, height, width + 1))


@pytest.mark.parametrize(
    "name", [*COMPILED, *(pytest.param(name, marks=pytest.mark.slow) for name in COMPILED_SLOWLY)]
)
def test_traced_it_is_the_same(name: str) -> None:
    """As `torch.compile` takes it apart, forward and back, without making machine code."""
    compiled_is_the_same(MODULES.get(name), "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_it_is_the_same(name: str) -> None:
    compiled_is_the_same(MODULES.get(name), "inductor")


def compiled_is_the_same(entry: Entry, backend: str) -> None:
    """Outputs and gradients, in one graph."""
    torch._dynamo.reset()
    module, x = build(entry).eval(), watched(inputs(entry))
    compiled = torch.compile(copy.deepcopy(module), backend=backend, fullgraph=True)
    outputs = [listed(one(x)) for one in (module, compiled)]
    near(*([y.detach() for y in out] for out in outputs), 1e-4)
    leaves = [x] if isinstance(x, Tensor) else list(x)
    expected, found = (
        torch.autograd.grad(sum(y.sin().sum() for y in out), leaves, allow_unused=True)
        for out in outputs
    )
    near([g for g in found if g is not None], [g for g in expected if g is not None], 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in ENTRIES])
def test_onnx_is_the_same(entry: Entry) -> None:
    import onnxruntime

    assert entry.traits is not None
    if entry.traits.onnx:
        pytest.skip(entry.traits.onnx)
    module, x = build(entry).eval(), inputs(entry)
    file = io.BytesIO()
    exported(module, x, file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    feed = {
        node.name: value.numpy()
        for node, value in zip(session.get_inputs(), listed(x), strict=True)
    }
    with torch.no_grad():
        expected = listed(module(x))
    near([torch.from_numpy(y) for y in session.run(None, feed)], expected, 1e-4)


class Separate(nn.Module):
    """A module of a list of maps, called with the maps: what an ONNX file's inputs are."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *maps: Tensor) -> Any:
        return self.module(list(maps))


def exported(module: nn.Module, x: Tensor | Sequence[Tensor], file: io.BytesIO) -> None:
    single = isinstance(x, Tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module if single else Separate(module).eval(),
            (x,) if single else tuple(x),
            file,
            opset_version=17,
            dynamo=False,
        )
