"""What files of one repository leave out is filled in; what they say stays."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from detrkit.config import families
from detrkit.config.tree import Origin, Tree, walk


def completed(text: str) -> Tree:
    data: dict[str, Any] = yaml.safe_load(text)
    tree = Tree(data, {keys: Origin("file.yml", 1) for keys, _ in walk(data)})
    families.complete(tree)
    return tree


RTDETR = """
model: RTDETR
RTDETR: {backbone: PResNet, encoder: HybridEncoder, decoder: RTDETRTransformerv2}
"""


@pytest.mark.parametrize(
    ("text", "place", "version"),
    [
        (RTDETR, "HybridEncoder", "v2"),
        (RTDETR + "HybridEncoder: {hidden_dim: 384}", "HybridEncoder", "v2"),
        (RTDETR + "HybridEncoder:", "HybridEncoder", "v2"),
        (RTDETR + "HybridEncoder: {version: v1}", "HybridEncoder", "v1"),
        (RTDETR.replace("HybridEncoder", "neck") + "neck: {type: HybridEncoder}", "neck", "v2"),
    ],
)
def test_rtdetr_knows_only_its_own_fusion_blocks(text: str, place: str, version: str) -> None:
    assert completed(text).data[place]["version"] == version


def test_a_mapping_in_place_of_a_section() -> None:
    tree = completed("model: {type: RTDETR, encoder: {type: HybridEncoder, hidden_dim: 64}}")
    assert tree.data["model"]["encoder"] == {
        "type": "HybridEncoder",
        "hidden_dim": 64,
        "version": "v2",
    }
    assert str(tree.origins[("model", "encoder", "version")]) == "default of RTDETR"


def test_deimv2_is_known_by_its_decoder() -> None:
    text = "model: DEIM\nDEIM: {encoder: HybridEncoder, decoder: %s}"
    tree = completed(text % "DEIMTransformer")
    assert tree.data["HybridEncoder"] == {"project_equal": False}
    assert "HybridEncoder" not in completed(text % "DFINETransformer").data
    given = completed(text % "DEIMTransformer" + "\nHybridEncoder: {project_equal: true}")
    assert given.data["HybridEncoder"] == {"project_equal": True}


@pytest.mark.parametrize(
    "text",
    [
        "epochs: 3",
        "model: 3",
        "model: DFINE",
        "model: DFINE\nDFINE: {encoder: HybridEncoder}",
        "model: RTDETR\nRTDETR: {encoder: LiteEncoder}\nHybridEncoder: {hidden_dim: 64}",
        "model: RTDETR\nRTDETR: ~",
    ],
)
def test_everything_else_stays(text: str) -> None:
    found = completed(text).data
    found.pop("restart_from_best", None)
    assert found == yaml.safe_load(text)


def test_rtdetr_averages_and_goes_on_in_its_own_way() -> None:
    tree = completed(RTDETR + "ema: {type: ModelEMA, decay: 0.99}")
    assert tree.data["ema"] == {"type": "ModelEMA", "decay": 0.99, "warmups": 2000}
    assert tree.data["restart_from_best"] is False
    assert str(tree.origins["restart_from_best",]) == "default of RTDETR"
    said = completed(RTDETR + "ema: {type: ModelEMA, warmups: 5}\nrestart_from_best: true")
    assert said.data["ema"]["warmups"] == 5
    assert said.data["restart_from_best"] is True
    others = completed(RTDETR.replace("RTDETR", "DFINE") + "ema: {type: ModelEMA}")
    assert others.data["ema"] == {"type": "ModelEMA"}
    assert "restart_from_best" not in others.data
    assert "ema" not in completed(RTDETR).data
