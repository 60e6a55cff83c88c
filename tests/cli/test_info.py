"""`detrkit info`: configs, weights, components."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detrkit.cli.app import main
from tests.engine.bright import small_detector


def test_config_in_numbers(capsys: Any) -> None:
    assert main(["info", "dfine_n_coco", "--size", "64x96", "--json"]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    assert model["input"] == [1, 3, 64, 96]
    assert model["parameters"]["total"] == 3_782_693
    assert model["parameters"]["deployed"] == 3_753_799
    assert sum(model["parameters"]["parts"].values()) == 3_782_693
    assert model["flops"]["calflops"] > 1e8
    assert "layers" not in model


def test_tables(capsys: Any) -> None:
    args = ["info", "dfine_n_coco", "--size", "96", "--layers", "--depth", "1"]
    assert main([*args, "-u", "num_classes=2"]) == 0
    out = capsys.readouterr().out
    assert "FLOPs by calflops" in out
    assert "does not see fused attention" in out
    order = [out.rindex(f"  {part} ") for part in ("backbone", "encoder", "decoder")]
    assert order == sorted(order)
    assert "input_proj" not in out


def test_weights(tmp_path: Path, capsys: Any) -> None:
    path = small_detector(tmp_path / "best.pth")
    assert main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["input"] == [1, 3, 64, 96]


def test_a_backbone_of_layers_is_shown_row_by_row(capsys: Any) -> None:
    assert main(["info", "dfine_yolo11_n_coco", "--size", "64"]) == 0
    out = capsys.readouterr().out
    assert "C2PSA" in out
    assert "image" in out
    assert main(["info", "dfine_yolo11_n_coco", "--size", "64x96", "--json"]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    rows = model["graphs"]["backbone"]
    assert len(rows) == 11
    assert rows[10]["output"] == [1, 256, 2, 3]
    assert rows[2]["arguments"] == {
        "out_channels": 64, "c3k": False, "expansion": 0.25, "num_blocks": 1,
    }  # fmt: skip
    assert sum(row["parameters"] for row in rows) > 1e6


def test_component(capsys: Any) -> None:
    assert main(["info", "HybridEncoder"]) == 0
    out = capsys.readouterr().out
    assert "arXiv:2304.08069" in out
    assert "hidden_dim" in out
    assert main(["info", "DFINE", "--json"]) == 0
    module = json.loads(capsys.readouterr().out)["module"]
    assert module["arguments"]["backbone"] == {
        "type": "nn.Module", "required": True, "default": None, "from": "component",
    }  # fmt: skip


TINY = ["info", "deimv2_hgnetv2_atto_coco", "--size", "64"]


def test_a_component_whose_name_has_a_dot(capsys: Any) -> None:
    assert main(["info", "nn.Upsample"]) == 0
    assert "Doubles the sides" in capsys.readouterr().out


def test_layers_in_numbers(capsys: Any, tmp_path: Path) -> None:
    table = tmp_path / "new" / "layers.csv"
    assert (
        main([*TINY, "--layers", "--depth", "1", "--training", "--csv", str(table), "--json"]) == 0
    )
    model = json.loads(capsys.readouterr().out)["model"]
    rows = {row["name"]: row for row in model["layers"]}
    assert list(rows) == ["", "backbone", "encoder", "decoder"]
    parts = [row for name, row in rows.items() if name]
    for key in ("flops", "calflops", "milliseconds", "parameters"):
        assert sum(row[key] for row in parts) <= rows[""][key] * (1 + 1e-9)
    assert rows[""]["peak_bytes"] == model["activations"]["peak_bytes"]
    assert rows[""]["saved_bytes"] == model["training"]["saved_bytes"] > 1e6
    assert model["training"]["boxes"] == 8
    timing = model["timing"]
    assert timing["whole"] == pytest.approx(rows[""]["milliseconds"])
    assert timing["passes"] >= 5
    kinds = {kind["kind"]: kind for kind in model["flops"]["layer_kinds"]}
    assert kinds["Conv2d"]["reason"] == "torch does not count the bias of conv2d"
    lines = table.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("name,kind,output,parameters,flops,")
    assert lines[0].endswith(",saved_bytes")
    assert lines[2].startswith("backbone,HGNetv2,")


def test_layers_sorted(capsys: Any) -> None:
    assert main([*TINY, "--sort", "flops", "--no-time", "--json"]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    flops = [row["flops"] for row in model["layers"]]
    assert flops == sorted(flops, reverse=True)
    assert sum(flops) == model["flops"]["torch"]
    assert "timing" not in model
    assert main([*TINY, "--sort", "flops", "--no-time"]) == 0
    out = capsys.readouterr().out
    head, first = out[out.index("layer (deployed)") :].splitlines()[:2]
    assert "ms" not in head.split()
    assert first.startswith(model["layers"][0]["name"])
    assert "because" in out


def test_layers_of_a_component(capsys: Any) -> None:
    assert main(["info", "LSKBlock", "--layers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cost"]["input"] == [1, 64, 40, 40]
    assert found["cost"]["layers"][0]["kind"] == found["module"]["name"] == "LSKBlock"
    assert main(["info", "WFU", "--layers", "--no-time"]) == 0
    assert "layer (deployed)" in capsys.readouterr().out


def test_graphs(capsys: Any, tmp_path: Path) -> None:
    files = [tmp_path / "new" / f"graph{kind}" for kind in (".svg", ".pdf", ".png", ".mmd", ".dot")]
    files.append(tmp_path / "graph.json")
    options = [part for file in files for part in ("--graph", str(file))]
    assert main([*TINY, "--depth", "1", *options, "--json"]) == 0
    graph = json.loads(capsys.readouterr().out)["graph"]
    names = [node["name"] for node in graph["nodes"]]
    assert names == ["input", "backbone", "encoder", "decoder", "output"]
    assert [(edge["source"], edge["target"]) for edge in graph["edges"]] == [
        (0, 1), (1, 2), (2, 3), (3, 4),
    ]  # fmt: skip
    svg, pdf, png, mmd, dot, written = (file.read_bytes() for file in files)
    assert b">backbone</text>" in svg
    assert (pdf[:4], png[1:4]) == (b"%PDF", b"PNG")
    assert b"flowchart TD" in mmd
    assert dot.startswith(b"digraph")
    assert json.loads(written)["nodes"] == graph["nodes"]


def test_the_graph_of_a_backbone_of_layers_has_the_edges_of_its_rows(
    capsys: Any, tmp_path: Path
) -> None:
    path = tmp_path / "graph.json"
    options = ["--size", "64", "--depth", "2", "--graph", str(path), "--json"]
    assert main(["info", "dfine_yolo11_n_coco", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    graph, rows = found["graph"], found["model"]["graphs"]["backbone"]
    name = {node["index"]: node["name"] for node in graph["nodes"]}
    drawn = {
        (name[edge["source"]], name[edge["target"]])
        for edge in graph["edges"]
        if name[edge["target"]].startswith("backbone")
    }
    listed = {
        (f"backbone.layers.{source}" if source >= 0 else "input", f"backbone.layers.{row['index']}")
        for row in rows
        for source in row["sources"]
    }
    assert drawn == listed


def test_all_configs_of_a_folder(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "base").mkdir()
    files = {
        "base/part.yml": "lr: 1.0",
        "large.yml": "__include__: [quickstart]\nnum_classes: 300",
        "small.yaml": "__include__: [quickstart]\nnum_classes: 2",
        "wrong.yml": "__include__: [quickstart]\nDFINETransformer: {hiden_dim: 3}",
        "settings.yml": "epochs: 3",
    }
    from detrkit.config.catalogue import find

    for name, text in files.items():
        text = text.replace("quickstart", f"'{find('quickstart').path.as_posix()}'")
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert main(["info", "--all", str(tmp_path), "--size", "64", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [model["name"] for model in found["models"]] == ["small", "large"]
    small, large = found["models"]
    assert small["parameters"]["deployed"] < large["parameters"]["deployed"]
    assert small["input"] == [1, 3, 64, 64]
    assert found["parts"] == ["base/part", "settings"]
    assert "hidden_dim" in found["problems"]["wrong"]
    assert "wrong is left out" in captured.err
    assert main(["info", str(tmp_path), "--all", "--size", "64"]) == 0
    out = capsys.readouterr().out
    assert out.index("small") < out.index("large")
    assert "2 models, deployed" in out
    assert main(["info", str(small["input"]), "--all"]) == 2
    assert main(["info", str(tmp_path / "base"), "--all"]) == 3
    assert main(["info", str(tmp_path), "--all", "--layers"]) == 2


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["dfine_q_coco"], 3, "did you mean `dfine_"),
        (["dyt"], 3, "no config and no component called `dyt`, did you mean `DyT`?"),
        (["RepHM"], 3, "did you mean `RepHMS`?"),
        (["missing.yml"], 3, "no such config file: missing.yml"),
        (["missing.pth"], 5, "missing.pth"),
        (["dfine_hgnetv2_s_hsfpn_custom", "--size", "128"], 3, "multiples of 20, got 8x8"),
        (["dfine_n_coco", "--sort", "tme"], 2, "did you mean `time`?"),
        (["dfine_n_coco", "--sort", "time", "--no-time"], 2, "exclude each other"),
        (["dfine_n_coco", "--sort", "saved"], 2, "needs --training"),
        (["dfine_n_coco", "--graph", "a.gif"], 2, "no format ends in `.gif`"),
        (["HybridEncoder", "--layers"], 2, "no module of maps"),
        (["LSKBlock", "--layers", "--size", "640"], 2, "on a map of 40x40"),
        (["dfine_n_coco", "--size", "big"], 2, "expected a number or HxW"),
    ],
)
def test_mistakes(capsys: Any, args: list[str], code: int, message: str) -> None:
    assert main(["info", *args]) == code
    assert message in capsys.readouterr().err
