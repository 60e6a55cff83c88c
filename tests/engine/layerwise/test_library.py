"""`info --layers` and `--graph` work for every module of the library and every configuration."""

from __future__ import annotations

import warnings

import pytest

from detrkit.config import load_config
from detrkit.config.catalogue import CatalogueEntry, catalogue, find
from detrkit.engine.inspect import Subject, inspect
from detrkit.engine.parts import build_model
from detrkit.registry import MODULES, Entry


def checked(subject: Subject) -> None:
    """Counts and traces, and holds the sums against each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = inspect(subject)
        graph = subject.graph(2)
    whole = report.layers[0]
    assert report.flops.problem == ""
    assert sum(layer.own_flops for layer in report.layers) == report.flops.torch == whole.flops
    assert sum(kind.torch for kind in report.flops.kinds) == report.flops.torch
    assert (whole.peak_bytes or 0) >= whole.kept_bytes > 0
    for kind in report.flops.kinds:
        assert bool(kind.reason) == bool(kind.difference), kind
    assert all(edge.source < edge.target for edge in graph.edges)
    reached = {0}
    for edge in graph.edges:  # by target
        if edge.source in reached:
            reached.add(edge.target)
    assert graph.nodes[-1].role == "output"
    assert graph.nodes[-1].index in reached, "the output does not depend on the input"


MAPS = [entry for entry in MODULES if entry.traits is not None]
CONFIGS = catalogue()
#: One of each kind of backbone, encoder and decoder.
SOME = (
    "dfine_n_coco",
    "deim_r18vd_120e_coco",
    "deimv2_hgnetv2_atto_coco",
    "deimv2_dinov3_s_coco",
    "rtdetrv2_r18vd_120e_coco",
    "dfine_yolo11_n_coco",
)
#: Every so-and-so-manieth module by default; `slow` takes them all.
STEP = 12


def check_config(entry: CatalogueEntry) -> None:
    side = 320 if "hsfpn" in entry.name else 128  # its pooling wants maps of 20 x 20 and multiples
    checked(Subject.of(build_model(load_config(entry.path)), (side, side), entry.name))


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in MAPS[::STEP]])
def test_some_modules(entry: Entry) -> None:
    checked(Subject.of_component(entry))


@pytest.mark.slow
@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in MAPS])
def test_every_module(entry: Entry) -> None:
    checked(Subject.of_component(entry))


@pytest.mark.parametrize("name", SOME)
def test_some_configs(name: str) -> None:
    check_config(find(name))


@pytest.mark.slow
@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in CONFIGS])
def test_every_config(entry: CatalogueEntry) -> None:
    check_config(entry)
