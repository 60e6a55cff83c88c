"""What the commands of `detrkit explain` share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import detrkit
from detrkit.cli.explain_options import FigureOptions, Format, checked_sources, print_layers
from detrkit.errors import UsageError
from detrkit.explain.figures.style import new_figure


def test_layers_are_listed(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    detector = detrkit.load(weights, device="cpu")
    print_layers(detector, json=False)
    shown = capsys.readouterr().out
    assert "encoder.outputs[0]" in shown
    assert "1 x 128 x 4 x 6" in shown
    print_layers(detector, json=True)
    answer = json.loads(capsys.readouterr().out)
    assert answer["kind"] == "layers"
    layers = {layer["name"]: layer for layer in answer["layers"]}
    assert layers["encoder.outputs[0]"]["shape"] == [1, 128, 4, 6]
    assert layers["encoder.outputs[0]"]["kind"] == "HybridEncoder"
    assert next(iter(layers)) == "backbone.outputs[0]"


def test_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert FigureOptions().folder("heatmap") == Path("explain/heatmap")
    (tmp_path / "explain" / "heatmap" / "a.png").touch()
    assert FigureOptions().folder("heatmap") == Path("explain/heatmap-2")
    assert FigureOptions(output=Path("mine")).folder("heatmap") == Path("mine")


def test_figures_in_every_format(tmp_path: Path) -> None:
    figure = new_figure("column")
    options = FigureOptions(formats=[Format.svg, Format.pdf, Format.svg])
    assert [f.name for f in options.save(figure, tmp_path, "a")] == ["a.svg", "a.pdf"]
    assert [f.name for f in FigureOptions().save(figure, tmp_path, "b")] == ["b.png"]


def test_sources_are_needed() -> None:
    assert checked_sources(["a.jpg"]) == ["a.jpg"]
    with pytest.raises(UsageError, match="no SOURCE"):
        checked_sources(None)
