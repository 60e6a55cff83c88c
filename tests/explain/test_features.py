"""Feature maps: their numbers, their one map, their figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detrkit.errors import UsageError
from detrkit.explain import features
from detrkit.explain.features import ENERGIES, ENERGY_TITLES, FeatureMap, principal
from detrkit.explain.layers import network
from detrkit.explain.opened import open_picture
from tests.engine.bright import picture
from tests.explain.detectors import FAMILIES, Channels, detector, of_model
from tests.explain.likeness import assert_like

PICTURE = picture((90, 120), (20, 30, 80, 70))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, tmp_path: Path) -> None:
    opened = detector(name)
    found = features(opened, PICTURE, layers=["backbone", "encoder", "decoder"])
    with torch.no_grad():
        expected = network(opened).get_submodule("backbone")(open_picture(opened, PICTURE).input)
    mine = [one.values for one in found.maps if one.layer.startswith("backbone")]
    assert len(mine) == len(expected)
    for values, tensor in zip(mine, expected, strict=True):
        np.testing.assert_allclose(values, tensor[0], atol=1e-4)
    arrays = np.load(found.save_numbers(tmp_path / "a.npz"))
    assert arrays.files == [one.layer for one in found.maps]
    summary = found.to_dict()["layers"]
    assert [entry["shape"] for entry in summary] == [list(o.values.shape) for o in found.maps]


def test_tokens_are_maps() -> None:
    found = features(detector("deimv2_vit"), PICTURE, layers=["backbone.dinov3.*blocks.?"])
    assert {one.values.shape[1:] for one in found.maps} == {(4, 6)}


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_energies(seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(5, 3, 4)).astype(np.float32)
    one = FeatureMap("x", values)
    np.testing.assert_allclose(one.energy("mean"), np.abs(values).mean(0), rtol=1e-5)
    np.testing.assert_allclose(one.energy("l2"), np.sqrt((values**2).sum(0)), rtol=1e-5)
    np.testing.assert_allclose(one.energy("max"), values.max(0))
    rows = (values - values.mean((1, 2), keepdims=True)).reshape(5, -1)
    _, s, v = np.linalg.svd(rows, full_matrices=False)
    np.testing.assert_allclose(np.abs(one.energy("pca")).ravel(), np.abs(s[0] * v[0]), atol=1e-4)
    assert one.energy("pca").max() >= -one.energy("pca").min()


def test_the_first_component_of_equal_values_is_zero() -> None:
    assert not principal(torch.ones(3, 2, 2)).any()


def test_the_strongest_channels() -> None:
    values = np.zeros((4, 2, 2), np.float32)
    values[2] = [[0, 9], [0, 0]]
    values[1] = [[1, 0], [0, 0]]
    values[0] = 100  # the same everywhere
    one = FeatureMap("x", values)
    assert one.strongest(2) == [2, 1]
    assert one.strongest(9) == [2, 1, 0, 3]


def test_every_energy_has_a_title() -> None:
    assert set(ENERGIES) == set(ENERGY_TITLES)


def test_mistakes() -> None:
    opened = detector("dfine")
    with pytest.raises(UsageError, match="no layer `backbon`, did you mean `backbone`"):
        features(opened, PICTURE, layers=["backbon"])
    with pytest.raises(UsageError, match="no map of the image"):
        features(opened, PICTURE, layers=["decoder.query_pos_head"])
    found = features(opened, PICTURE, layers=["encoder"])
    with pytest.raises(UsageError, match="no energy `mena`, did you mean `mean`"):
        found.figure(energy="mena")
    with pytest.raises(UsageError, match="no layer `encoder`"):
        found.channels_figure("encoder")


def test_figures(tmp_path: Path) -> None:
    found = features(detector("dfine"), PICTURE)
    assert_like(found.figure(energy=["mean", "pca"]), "features_energies", tmp_path)
    layer = found.maps[0].layer
    assert_like(found.channels_figure(layer, channels=11), "features_channels", tmp_path)
    assert found.save(tmp_path / "plain.png", on_picture=False, width="column").stat().st_size
    black = picture((64, 96), (0, 0, 0, 0))
    dead = features(of_model(Channels(torch.zeros(3, 4, 6))), black, layers=["backbone"])
    assert dead.save(tmp_path / "dead.png").stat().st_size
