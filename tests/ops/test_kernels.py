"""Compiled kernels of optional packages: that they are called as their authors call them.

The packages need a GPU and a compiler; here modules of the same names stand in their place, which
compute what theirs document, element by element.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from detrkit.ops import kernels
from detrkit.ops.selective_scan import selective_scan
from detrkit.registry import MODULES
from tests.modules.conv.test_deformable import aggregate
from tests.modules.naive import image, made, same
from tests.ops.naive_scan import stepwise
from tests.ops.test_selective_scan import arguments


@pytest.fixture(autouse=True)
def _forgets() -> Iterator[None]:
    kernels.installed.cache_clear()
    yield
    kernels.installed.cache_clear()


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`pretend(module, **names)`: a GPU, and a package with these names."""

    def make(module: str, **names: Any) -> None:
        monkeypatch.setattr(kernels, "on_gpu", lambda x: True)
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            path = ".".join(parts[:end])
            monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
        vars(sys.modules[module]).update(names)

    return make


class DCNv4Function:
    """The signature and layouts of DCNv4's operator."""

    calls = 0

    @classmethod
    def apply(
        cls,
        value: Tensor,
        offset_mask: Tensor,
        kernel_h: int,
        kernel_w: int,
        stride_h: int,
        stride_w: int,
        pad_h: int,
        pad_w: int,
        dilation_h: int,
        dilation_w: int,
        group: int,
        group_channels: int,
        offset_scale: float,
        im2col_step: int,
        remove_center: int,
    ) -> Tensor:
        cls.calls += 1
        assert value.is_contiguous()
        assert value.dtype == offset_mask.dtype == torch.float32
        assert offset_mask.shape[-1] % 8 == 0
        assert (kernel_h, kernel_w, remove_center) == (3, 3, 0)
        assert (stride_h, dilation_h, pad_h) == (stride_w, dilation_w, pad_w)
        assert pad_h == dilation_h
        assert group * group_channels == value.shape[-1]
        points = offset_mask[..., : group * 27].unflatten(-1, (group, 27))
        grid = {"stride": stride_h, "dilation": dilation_h, "scale": offset_scale}
        return torch.stack(
            [
                aggregate(v, p[..., :18].flatten(-2), p[..., 18:].flatten(-2), group, 3, **grid)
                for v, p in zip(value, points, strict=True)
            ]
        ).float()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("DCNv4", {"group": 1}),
        ("DCNv4", {"group": 2, "dilation": 2, "offset_scale": 0.7}),
        ("DCNv3", {"group": 2, "stride": 2, "offset_scale": 0.7}),
    ],
)
def test_dcnv4s_kernel(name: str, more: dict[str, Any], pretend: Any) -> None:
    module, x = made(name, in_channels=32, **more).float(), image(2, 32, 5, 4).float()
    with torch.no_grad():
        expected = module(x)
        before = DCNv4Function.calls
        pretend("DCNv4.functions", DCNv4Function=DCNv4Function)
        same(module(x), expected, 1e-5)
    assert DCNv4Function.calls == before + 1


@pytest.mark.parametrize("more", [{"group": 4}, {"group": 2, "kernel_size": 5}], ids=str)
def test_what_dcnv4s_kernel_cannot_do(
    more: dict[str, Any], pretend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pretend("DCNv4.functions")  # without the function: looking for it would warn
    module = MODULES.create("DCNv4", in_channels=32, **more)
    assert module(torch.randn(1, 32, 5, 4)).isfinite().all()
    assert not caplog.records


def test_mambas_scan(pretend: Any) -> None:
    seen: list[Tensor] = []

    def selective_scan_fn(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None = None,
        z: Tensor | None = None,
        delta_bias: Tensor | None = None,
        delta_softplus: bool = False,
        return_last_state: bool = False,
    ) -> Tensor:
        assert D is not None
        assert delta_bias is not None
        assert delta_softplus
        assert z is None
        assert all(t.dtype == torch.float32 for t in (u, delta, A, B, C, D, delta_bias))
        seen.append(u)
        return stepwise(u, delta, A, B, C, D, delta_bias)

    given = arguments(7, dtype=torch.float32)
    expected = selective_scan(*given)
    pretend("mamba_ssm.ops.selective_scan_interface", selective_scan_fn=selective_scan_fn)
    assert torch.allclose(selective_scan(*given), expected, atol=1e-5)
    half = [t.bfloat16() for t in given[:2]]
    assert selective_scan(*half, *given[2:]).dtype == torch.bfloat16
    assert len(seen) == 2
    selective_scan(*arguments(7))  # float64 stays with PyTorch
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (torch.jit, "is_tracing"),
        (torch.onnx, "is_in_onnx_export"),
        (torch.compiler, "is_compiling"),
    ],
    ids=["trace", "onnx", "compile"],
)
def test_graphs_have_none(
    owner: Any, name: str, pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend("some.package", kernel=print)
    x = torch.zeros(1)
    assert kernels.kernel_for(x, "some.package", "kernel") is print
    monkeypatch.setattr(owner, name, lambda: True)
    assert kernels.kernel_for(x, "some.package", "kernel") is None


def test_a_missing_package_is_silent_and_a_broken_one_named(
    pretend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pretend("some.package")
    x = torch.zeros(1)
    assert kernels.kernel_for(x, "no_such_package.functions", "kernel") is None
    assert not caplog.records
    for _ in range(2):
        assert kernels.kernel_for(x, "some.package", "kernel") is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "some.package cannot be used" in caplog.text
