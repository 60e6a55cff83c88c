"""Heat maps of detectors whose derivatives are known, and of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detrkit
from detrkit.data.detect import open_dataset
from detrkit.engine.predictor import Predictor
from detrkit.errors import UsageError
from detrkit.explain import attention, heatmap
from detrkit.explain.heatmap import ALL_METHODS, HeatMaps, share_inside
from detrkit.explain.layers import choose, list_layers
from detrkit.structures import ImageSpec
from tests.conftest import reference_folder
from tests.engine.bright import picture
from tests.explain.detectors import FAMILIES, Channels, detector, of_model
from tests.explain.likeness import assert_like

PICTURE = picture((90, 120), (20, 30, 80, 70))


def known(spec: ImageSpec | None = None) -> Predictor:
    """Class 0 is the sum of red on the left half, class 1 of all green; 8 x 12 cells."""
    weights = torch.zeros(3, 8, 12)
    weights[0, :, :6] = weights[1] = 1.0
    return of_model(Channels(weights), spec or ImageSpec((64, 96)))


def test_a_known_map() -> None:
    """The bright cells that class 0 counts, and no others."""
    shown = picture((64, 96), (24, 16, 80, 40))
    maps = heatmap(known(), shown, method="hirescam", layers=["backbone"], classes=["cat"])
    assert maps.found.names == ["cat"]
    (one,) = maps.maps
    expected = np.zeros((8, 12), np.float32)
    expected[2:5, 3:6] = 1
    np.testing.assert_allclose(one.values, expected)
    assert (one.method, one.layer, one.detection) == ("hirescam", "backbone", None)
    assert maps.on_picture().max() == 1
    assert maps.on_picture()[28, 36] == 1
    assert not maps.on_picture()[:, 60:].any()


def test_letterboxed_pictures_get_their_own_place() -> None:
    """A portrait picture fills the left of the input; its map fills all of it."""
    spec = ImageSpec((64, 96), resize="letterbox", pad_value=0)
    shown = picture((128, 64), (0, 32, 64, 64))  # 32 pixels wide in the input: cells 0 to 3
    maps = heatmap(known(spec), shown, method="layercam", layers=["backbone"], classes=["cat"])
    values = maps.on_picture()
    assert values.shape == (128, 64)
    assert values[40:56, :48] == pytest.approx(1, abs=1e-5)  # to the last cell's centre
    assert values[80:].max() < 0.02  # resizing the picture softens its edges


def test_the_whole_image_is_the_sum_of_its_detections() -> None:
    shown = Image.fromarray(np.full((64, 96, 3), 255, np.uint8))
    together = heatmap(known(), shown, method="hirescam", layers=["backbone"], conf=0.9)
    each = heatmap(known(), shown, method="hirescam", layers=["backbone"], conf=0.9, each=True)
    assert sorted(together.found.names) == ["cat", "猫"]
    assert each.targets == (0, 1)
    np.testing.assert_allclose(together.maps[0].values, each.maps[0].values + each.maps[1].values)


def test_an_edge_is_explained_without_sign() -> None:
    """The box moves right with red in the first cell: left shrinks, right grows."""
    shown = Image.fromarray(np.full((64, 96, 3), 255, np.uint8))
    options = {"method": "hirescam", "layers": ["backbone"], "classes": ["cat"]}
    for edge, value in (("left", 1.0), ("right", 1.0), ("top", 0.0), ("box", 0.5)):
        (one,) = heatmap(known(), shown, explained=edge, **options).maps  # type: ignore[arg-type]
        assert one.values[0, 0] == pytest.approx(value)
        assert not one.values[1:].any()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, tmp_path: Path) -> None:
    opened = detector(name)
    methods = [m for m in ALL_METHODS if m != "rollout"]
    maps = heatmap(
        opened, PICTURE, method=methods, layers=["backbone", "encoder", "decoder"], conf=0,
        max_det=2,
    )  # fmt: skip
    expected = opened.predict(PICTURE, conf=0, max_det=2)
    np.testing.assert_allclose(maps.found.boxes_xyxy, expected.boxes_xyxy, atol=1e-2)
    assert maps.found.names == expected.names
    parts = {one.layer.split(".")[0] for one in maps.maps}
    assert parts == {"backbone", "encoder", "decoder"}
    for one in maps.maps:
        assert np.isfinite(one.values).all()
        assert (one.values >= 0).all()
    boxes = heatmap(
        opened, PICTURE, method="hirescam", layers=["backbone", "encoder"], explained="box", conf=0,
        detections=[1],
    )  # fmt: skip
    for one in boxes.maps:
        assert one.values.any(), one.layer
    assert not any(p.grad is not None for p in opened.runtime.model.parameters())  # type: ignore[attr-defined]
    arrays = np.load(maps.save_numbers(tmp_path / "a.npz"))
    assert len(arrays.files) == 3 + len(maps.maps)
    assert arrays["scores"].shape == (2,)


@pytest.mark.parametrize(
    ("name", "part"), [("dfine", "encoder"), ("rtdetrv2", "encoder"), ("deimv2_vit", "backbone")]
)
def test_rollout(name: str, part: str) -> None:
    maps = heatmap(detector(name), PICTURE, method="rollout", conf=0, max_det=2, each=True)
    assert [one.layer for one in maps.maps] == [part] * 2
    for one in maps.maps:
        assert one.values.sum() <= 1 + 1e-5
        assert one.values.any()


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_queries_sample(name: str) -> None:
    """The same attention as that of `attention`, a map for each layer of the decoder."""
    opened = detector(name)
    maps = heatmap(opened, PICTURE, method="cross-attention", conf=0, detections=[1])
    looked = attention(opened, PICTURE, conf=0, detections=[1])
    assert maps.found.scores[1] == looked.found.scores[0]
    assert [one.layer for one in maps.maps] == [layer.name for layer in looked.layers]
    for number, one in enumerate(maps.maps):
        inside = sum(float(part.sum()) for part in looked.layers[number].splat(0))
        assert one.values.mean() == pytest.approx(inside, rel=1e-4)
        assert one.values.shape == looked.layers[number].shapes[0]
    together = heatmap(opened, PICTURE, method="cross-attention", conf=0, max_det=2)
    each = heatmap(opened, PICTURE, method="cross-attention", conf=0, max_det=2, each=True)
    count = len(together.maps)
    for one, first, second in zip(together.maps, each.maps[:count], each.maps[count:], strict=True):
        np.testing.assert_allclose(one.values, (first.values + second.values) / 2, rtol=1e-5)


def test_tokens_are_maps_too() -> None:
    maps = heatmap(
        detector("deimv2_vit"), PICTURE, layers=["backbone.dinov3.*blocks.1"], conf=0, max_det=1
    )
    assert [one.values.shape for one in maps.maps] == [(4, 6)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pattern_means_maps(name: str) -> None:
    """Of all layers those over the image; queries, vectors and pooled maps are passed over."""
    opened = detector(name)
    maps = heatmap(opened, PICTURE, layers=["*"], conf=0, max_det=1)
    names = {one.layer for one in maps.maps}
    assert {layer.name for layer in choose(list_layers(opened), ["encoder", "backbone"])} <= names
    assert not any(layer.startswith("decoder.decoder") for layer in names)
    with pytest.raises(UsageError, match="no map of the image"):
        heatmap(opened, PICTURE, layers=["decoder.query_pos_hea?"], conf=0)


def test_nothing_found() -> None:
    maps = heatmap(detector("dfine"), PICTURE, conf=1)
    assert (len(maps.found), maps.maps, maps.targets) == (0, (), ())
    assert maps.to_dict()["maps"] == []
    with pytest.raises(UsageError, match="nothing was found"):
        maps.on_picture()
    assert len(maps.figure().axes) == 1


def test_mistakes() -> None:
    opened = detector("deimv2_hgnet")
    with pytest.raises(UsageError, match="no method `gradcan`, did you mean `gradcam`"):
        heatmap(opened, PICTURE, method="gradcan")
    with pytest.raises(UsageError, match="no explained number `clas`, did you mean"):
        heatmap(opened, PICTURE, explained="clas")
    with pytest.raises(UsageError, match="no layer `encodr`, did you mean `encoder`"):
        heatmap(opened, PICTURE, layers=["encodr"], conf=0)
    with pytest.raises(UsageError, match="no map of the image"):
        heatmap(opened, PICTURE, layers=["decoder.query_pos_head"], conf=0)
    with pytest.raises(UsageError, match="no attention among the places"):
        heatmap(opened, PICTURE, method="rollout", conf=0)
    with pytest.raises(UsageError, match="no detection 7: 2 were found, 0 to 1"):
        heatmap(opened, PICTURE, detections=[7], conf=0, max_det=2)


def test_share_inside_boxes() -> None:
    values = np.zeros((10, 10), np.float32)
    values[2:4, 2:6] = 1
    inside = share_inside(values, [(0, 0, 4, 10), (2, 2, 4, 4)])
    assert inside == {"inside": pytest.approx(0.5), "area": pytest.approx(0.4)}
    assert share_inside(np.zeros((4, 4), np.float32), [])["inside"] is None


def test_figures(tmp_path: Path) -> None:
    maps = heatmap(
        detector("dfine"), PICTURE, method=["gradcam", "layercam"], conf=0, max_det=2, each=True
    )
    assert_like(maps.figure("page"), "heatmap_page", tmp_path)
    one = heatmap(known(), PICTURE, layers=["backbone"], classes=["cat"])
    assert_like(one.figure("column"), "heatmap_column", tmp_path)
    assert one.save(tmp_path / "a.pdf", per_layer=True).stat().st_size
    text = maps.save(tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "LayerCAM" in text
    assert maps.found.names[0] in text


def mass(maps: HeatMaps) -> tuple[float, float]:
    """Share of the maps inside the boxes, and of the boxes in the picture."""
    found = share_inside(maps.on_picture(), list(maps.found.boxes_xyxy))
    assert found["inside"] is not None
    assert found["area"] is not None
    return found["inside"], found["area"]


def test_the_mass_lies_on_the_objects(shared_data: Callable[[str], Path]) -> None:
    """With published weights on photographs: more than twice what an even map would have there."""
    weights = reference_folder() / "weights" / "deimv2_hgnetv2_atto_coco_from_onnx.pth"
    if not weights.exists():
        pytest.skip(f"no weights at {weights}")
    opened = detrkit.load(weights, config="deimv2_hgnetv2_atto_coco", device="cpu")
    photos = sorted((shared_data("coco_cc") / "images" / "val").glob("*.jpg"))[:12]
    shares = []
    for photo in photos:
        maps = heatmap(opened, photo, conf=0.5, max_det=3, method="layercam")
        if maps.maps and mass(maps)[1] < 0.4:
            shares.append(mass(maps))
    assert len(shares) >= 5
    inside, area = np.mean(shares, axis=0)
    assert inside > 2 * area, (inside, area)


@pytest.mark.slow
def test_the_mass_lies_on_the_objects_of_the_quickstart(tmp_path: Path) -> None:
    run = detrkit.train("quickstart", output=tmp_path / "run")
    opened = detrkit.load(run.best, device="cpu")
    index = open_dataset("shapes", "val")
    shares = []
    for path in list(index.paths)[:20]:
        maps = heatmap(opened, path, conf=0.5, method="layercam")
        if maps.maps:
            shares.append(mass(maps))
    inside, area = np.mean(shares, axis=0)
    assert inside > 2 * area, (inside, area)
