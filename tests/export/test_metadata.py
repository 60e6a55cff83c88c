"""The description inside an exported file."""

from __future__ import annotations

import json

import pytest

from detrkit.errors import WeightsError
from detrkit.export.metadata import Metadata
from detrkit.structures import ClassMap, ImageSpec

FULL = Metadata(
    ImageSpec((320, 480), resize="letterbox", mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0)),
    ClassMap.from_names(["Größe", "猫"]),
    {"task": "detection", "HybridEncoder": {"hidden_dim": 32}},
    "fp16",
    "raw",
)


def test_it_comes_back_as_it_was() -> None:
    assert Metadata.from_json(FULL.to_json(), "x.onnx") == FULL


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"format": 1, "image_spec": 3}'])
def test_damage_is_named(text: str) -> None:
    with pytest.raises(WeightsError, match=r"x\.onnx: its description is damaged"):
        Metadata.from_json(text, "x.onnx")


def test_what_a_newer_version_wrote_is_refused() -> None:
    newer = json.dumps({**json.loads(FULL.to_json()), "format": 99, "version": "9.1"})
    with pytest.raises(WeightsError, match=r"newer detrkit \(9\.1\)"):
        Metadata.from_json(newer, "x.onnx")
