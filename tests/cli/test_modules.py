"""`detrkit modules` and `detrkit info MODULE`: the catalogue of components."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detrkit.cli.app import main
from detrkit.engine.module_catalogue import measure, summary
from detrkit.registry import MODULES


def listed(capsys: Any, *args: str) -> list[dict[str, Any]]:
    assert main(["modules", *args, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["modules"]
    return found


def test_a_family_named_either_way(capsys: Any) -> None:
    names = [entry["name"] for entry in listed(capsys, "graph")]
    assert {"Conv", "Concat", "SPPF"} <= set(names)
    assert names == [entry["name"] for entry in listed(capsys, "--family", "graph")]
    assert main(["modules", "graph", "--family", "graph"]) == 2
    assert main(["modules", "--family", "grap"]) == 2
    assert "did you mean `graph`" in capsys.readouterr().err


def test_search_reads_names_titles_and_papers(capsys: Any) -> None:
    for word in ("simam", "parameter-free", "pmlr v139"):
        assert "SimAM" in [entry["name"] for entry in listed(capsys, "--search", word)]
    assert main(["modules", "--search", "nosuchword"]) == 2
    assert "nosuchword" in capsys.readouterr().err


def test_every_line_says_what_a_module_does(capsys: Any) -> None:
    shapes = [e["name"] for e in listed(capsys) if e["summary"][:1] in ("", "(", "[")]
    assert not shapes


def test_measured_table_and_page(tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "modules.md"
    assert main(["modules", "--search", "sppf", "--measure", "--markdown", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "## graph" in text
    assert "| `SPPF` SPPF: spatial pyramid pooling" in text
    assert "ECCV 2014" in text
    (found,) = listed(capsys, "--search", "sppf", "--measure")
    assert found["cost"]["output"] == [[1, 64, 40, 40]]
    # 64 -> 32 and 4 x 32 -> 64 with norms: weights, and a weight and a bias each
    assert found["cost"]["parameters"] == 64 * 32 + 128 * 64 + 2 * (32 + 64)
    assert found["cost"]["flops"] == 2 * 1600 * (64 * 32 + 128 * 64)
    # four maps of 32 channels, the four joined, the last convolution's and its activation's
    assert found["cost"]["peak_bytes"] == 4 * 1600 * (128 + 128 + 64 + 64)


def test_info_says_what_a_module_asks_for(capsys: Any) -> None:
    assert main(["info", "Upsample"]) == 0
    out = capsys.readouterr().out
    assert "any size" in out
    assert "[[1, 64, 80, 80]]" in out
    assert main(["info", "SimAM", "--json"]) == 0
    module = json.loads(capsys.readouterr().out)["module"]
    assert module["traits"]["float32"] == "squares of small differences"
    assert module["traits"]["smallest"] == 2
    assert module["venue"] == "ICML 2021"
    assert module["cost"]["parameters"] == 0


def test_only_modules_of_maps_are_measured() -> None:
    with pytest.raises(ValueError, match="AdamW is no module of maps"):
        measure(MODULES.get("AdamW"))


def test_every_module_says_what_it_does() -> None:
    silent = [entry.name for entry in MODULES if entry.traits and not summary(entry)]
    assert not silent
