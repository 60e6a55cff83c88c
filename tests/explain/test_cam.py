"""Class activation maps against naive transcriptions of their equations, and their laws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from detrkit.errors import UsageError
from detrkit.explain.cam import METHODS, TITLES, first_component, grid_of, map_of

Array = npt.NDArray[np.float64]


def maps(seed: int, c: int = 5, h: int = 4, w: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.rand(c, h, w, generator=generator),
        torch.randn(c, h, w, generator=generator),
    )


def naive(weight: Callable[[Array, Array], float]) -> Callable[[Array, Array], Array]:
    """sum_c w_c A_c, place by place."""

    def cam(a: Array, g: Array) -> Array:
        weights = [weight(a[c], g[c]) for c in range(len(a))]
        out = np.zeros(a.shape[1:])
        for c, i, j in np.ndindex(*a.shape):
            out[i, j] += weights[c] * a[c, i, j]
        return out

    return cam


def plus_plus(a: Array, g: Array) -> float:
    total, weight = a.sum(), 0.0
    for i, j in np.ndindex(*a.shape):
        below = 2 * g[i, j] ** 2 + total * g[i, j] ** 3
        weight += g[i, j] ** 2 / below * max(g[i, j], 0)
    return weight


NAIVE: dict[str, Callable[[Array, Array], Array]] = {
    "gradcam": naive(lambda a, g: float(g.mean())),
    "gradcam++": naive(plus_plus),
    "xgradcam": naive(lambda a, g: float((g * a).sum() / a.sum())),
    "hirescam": lambda a, g: np.einsum("cij,cij->ij", a, g),
    "layercam": lambda a, g: np.einsum("cij,cij->ij", a, np.maximum(g, 0)),
}


@pytest.mark.parametrize("method", NAIVE)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_the_equations(method: str, seed: int) -> None:
    a, g = maps(seed)
    expected = NAIVE[method](a.double().numpy(), g.double().numpy())
    np.testing.assert_allclose(METHODS[method](a.double(), g.double()), expected, rtol=1e-9)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_eigencam_is_the_first_singular_vector(seed: int) -> None:
    a, g = maps(seed, c=3)
    rows = a.flatten(1).T.double().numpy()
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    expected = (u[:, 0] * s[0]).reshape(a.shape[1:])
    np.testing.assert_allclose(first_component(a).abs(), np.abs(expected), atol=1e-5)
    found = METHODS["eigencam"](a, g)
    assert found.sum() >= 0
    agreeing = METHODS["eigengradcam"](a, g)
    assert (agreeing * METHODS["hirescam"](a, g)).sum() >= 0


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_activation(method: str) -> None:
    """One channel is active in one place and speaks for the answer: the map is that place."""
    a, g = torch.zeros(3, 5, 7), torch.zeros(3, 5, 7)
    a[1, 2, 4] = 2.0
    g[1] = 0.5
    found = METHODS[method](a, g).relu()
    assert found[2, 4] > 0
    assert (found > 0).sum() == 1


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_a_map_of_zeros(method: str) -> None:
    a, g = maps(0)
    assert not METHODS[method](torch.zeros_like(a), g).any()
    found = METHODS[method](a, torch.zeros_like(g))
    assert torch.isfinite(found).all()
    assert method == "eigencam" or not found.any()  # which asks no gradient


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_even_gradients_make_three_methods_one(seed: int) -> None:
    a, g = maps(seed)
    even = g[:, :1, :1].expand_as(g).contiguous()
    one = METHODS["gradcam"](a, even)
    for other in ("hirescam", "xgradcam"):
        torch.testing.assert_close(METHODS[other](a, even), one, atol=1e-5, rtol=1e-4)


def test_all_methods_have_titles() -> None:
    assert set(METHODS) <= set(TITLES)


def test_maps_of_layers() -> None:
    tensor = torch.rand(1, 3, 4, 6)
    assert torch.equal(map_of("encoder", tensor, (64, 96)), tensor[0])
    tokens = tensor.flatten(2).mT
    assert torch.equal(map_of("encoder.layers.0", tokens, (64, 96)), tensor[0])
    before = torch.cat([torch.rand(1, 5, 3), tokens], 1)
    assert torch.equal(map_of("backbone.blocks.0", before, (64, 96), prefix=5), tensor[0])
    for name, wrong in (
        ("decoder.layers.0", tokens),
        ("encoder", tokens[:, :-1]),
        ("x", before[0]),
    ):
        with pytest.raises(UsageError, match="no map of the image"):
            map_of(name, wrong, (64, 96))


def test_grids_of_tokens() -> None:
    assert grid_of(24, (64, 96)) == (4, 6)
    assert grid_of(6, (64, 96)) == (2, 3)
    assert grid_of(12, (70, 100)) == (3, 4)  # rounded up
    assert grid_of(7, (64, 96)) is None
    assert grid_of(0, (64, 96)) is None
