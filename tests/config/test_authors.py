"""The authors' own files: they load unmodified, and ours resolve to the same values."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from detrkit.config import load_config
from tests.config.authors import AuthorsFile, authors_files, differences, in_use
from tests.config.test_catalogue import build_parts

FILES = authors_files()

#: The first RT-DETR: its files load as the others do, but none of ours trains it.
NOT_OURS = "rtdetr/"

pytestmark = pytest.mark.skipif(not FILES, reason="DETRKIT_AUTHORS_CONFIGS is not set")


def files(*, parts: bool) -> list[Any]:
    """Test parameters: complete files, and parts if wanted."""
    return [pytest.param(f, id=str(f)) for f in FILES if parts or not f.is_part]


@pytest.mark.parametrize("file", files(parts=True))
def test_they_load_and_check_unmodified(file: AuthorsFile) -> None:
    load_config(file.path, strict=not file.is_part)


@pytest.mark.parametrize("file", files(parts=False))
def test_they_build(file: AuthorsFile) -> None:
    config = load_config(file.path)
    with torch.device("meta"):  # every part is made, no weight is drawn
        build_parts(config)


@pytest.mark.parametrize("file", files(parts=False))
def test_ours_resolve_to_their_values(file: AuthorsFile) -> None:
    if file.key.startswith(NOT_OURS):
        pytest.skip("the first RT-DETR is not in the catalogue")
    ours = load_config(file.ours, strict=False).tree
    theirs = load_config(file.path, strict=False).tree
    assert differences(ours, file, theirs) == []


def test_a_difference_is_found() -> None:
    file = next(file for file in FILES if not file.is_part and not file.is_copy)
    theirs = load_config(file.path, strict=False).tree
    changed = load_config(file.path, strict=False).with_values({"optimizer.lr": 1.0}).tree
    assert differences(theirs, file, theirs) == []
    assert differences(changed, file, theirs) == ["optimizer.lr"]


def test_sections_that_nothing_names_do_not_count() -> None:
    tree = {"model": "Net", "Net": {"part": "Used"}, "Used": {"a": 1}, "Unused": {"b": 2}}
    assert set(in_use(tree)) == {"model", "Net", "Used"}
