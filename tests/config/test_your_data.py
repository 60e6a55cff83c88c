"""Every kind of config trains on a data set that it has never heard of: `--data DIR`."""

from __future__ import annotations

from pathlib import Path

import pytest

from detrkit.config import build, load_config
from detrkit.engine.session import open_session
from tests.config.test_catalogue import SMALL
from tests.engine.tiny_data import write_coco


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("data") / "tiny")


@pytest.mark.parametrize("name", [*SMALL, "deimv2_atto_custom", "rtdetrv2_hgnetv2_l_custom"])
def test_classes_and_sizes_follow_the_data(name: str, data: Path) -> None:
    flags = {
        "data": str(data),
        "image_size": 64,
        "train_dataloader.total_batch_size": 4,
        "train_dataloader.num_workers": 0,
        "val_dataloader.num_workers": 0,
        "seed": 0,
    }
    session = open_session(load_config(name, overrides=flags))
    assert session.class_map.names == ("red", "green")
    assert session.image_spec.size == (64, 64)
    assert session.val is not None
    for part in ("model", "criterion", "postprocessor"):
        assert build(session.config, part).num_classes == 2
    batch = next(iter(session.train))
    assert batch.images.shape[:2] == (4, 3)
    assert max(int(target.labels.max()) for target in batch.targets if len(target.labels)) < 2
