"""Which class is which: names, other names, files."""

from __future__ import annotations

from pathlib import Path

import pytest

from detrkit.engine.class_matching import SYNONYMS, match_classes, plain, read_class_map
from detrkit.engine.known_classes import (
    coco_classes,
    known_class_map,
    known_name,
    objects365_classes,
    voc_classes,
)
from detrkit.errors import WeightsError
from detrkit.structures import ClassMap

#: Index in Objects365, from 0, of each of COCO's classes, as D-FINE, DEIM and DEIMv2 copy them.
AUTHORS = (
    0, 46, 5, 58, 114, 55, 116, 65, 21, 40, 176, 127, 249, 24, 56, 139, 92, 78, 99, 96, 144, 295,
    178, 180, 38, 39, 13, 43, 120, 219, 148, 173, 165, 154, 137, 113, 145, 146, 204, 8, 35, 10, 88,
    84, 93, 26, 112, 82, 265, 104, 141, 152, 234, 143, 150, 97, 2, 50, 25, 75, 98, 153, 37, 73, 115,
    132, 106, 61, 163, 134, 277, 81, 133, 18, 94, 30, 169, 70, 328, 226,
)  # fmt: skip


def names(pairs: dict[int, int], mine: ClassMap, theirs: ClassMap) -> dict[str, str]:
    return {mine.names[a]: theirs.names[b] for a, b in pairs.items()}


def test_lists() -> None:
    assert [len(c()) for c in (coco_classes, objects365_classes, voc_classes)] == [80, 365, 20]
    assert objects365_classes().category_ids == tuple(range(1, 366))
    assert objects365_classes().names[37] == "Monitor/TV"
    assert coco_classes().category_ids[-1] == 90


def test_told_by_their_number() -> None:
    heads = known_class_map(366)
    assert heads is not None
    # the authors' index is the category id
    assert [heads.names[i] for i in (1, 47, 365)] == ["Person", "Bicycle", "Table Tennis"]
    assert [known_name(n) for n in (80, 365, 366, 20)] == ["COCO", *["Objects365"] * 2, None]
    assert known_class_map(20) is None


def test_objects365_to_coco_as_the_authors_do() -> None:
    pairs = match_classes(coco_classes(), objects365_classes())
    assert tuple(pairs[i] for i in range(80)) == AUTHORS


def test_voc_is_in_coco() -> None:
    found = names(match_classes(voc_classes(), coco_classes()), voc_classes(), coco_classes())
    assert len(found) == 20
    odd = {a: b for a, b in found.items() if plain(a) != plain(b)}
    assert odd == {
        "aeroplane": "airplane",
        "motorbike": "motorcycle",
        "sofa": "couch",
        "tvmonitor": "tv",
    }


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("Traffic_Light", "traffic light"),
        ("PERSONS", "person"),
        ("pedestrian", "person"),
        ("Television", "tv"),
        ("fire-hydrant", "fire hydrant"),
        ("bus", "bus"),
        ("raccoon", None),
        ("persona", None),
        ("", None),
        ("s", None),
    ],
)
def test_spelling(mine: str, theirs: str | None) -> None:
    own = ClassMap((mine,), (0,))
    found = names(match_classes(own, coco_classes()), own, coco_classes())
    assert found.get(mine) == theirs


def test_a_name_beats_a_synonym() -> None:
    theirs = ClassMap(("people", "person", "bicycle"), (0, 1, 2))
    assert match_classes(ClassMap(("person", "bike"), (0, 1)), theirs) == {0: 1, 1: 2}


def test_synonyms_are_unambiguous() -> None:
    words = [plain(name) for group in SYNONYMS for name in group]
    assert len({*words}) > len(SYNONYMS)
    for group in SYNONYMS:
        others = {plain(n) for other in SYNONYMS if other is not group for n in other}
        assert not {plain(n) for n in group} & others
    coco = {plain(n) for n in coco_classes().names}
    for group in SYNONYMS:  # no two classes of one data set become one
        assert len({plain(n) for n in group} & coco) <= 1


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "map.yml"
    file.write_text("RBC: donut\nWBC: 49\nperson: ~\n猫: Cat\n", encoding="utf-8")
    mine = ClassMap(("rbc", "WBC", "person", "猫", "dog"), tuple(range(5)))
    pairs = match_classes(mine, coco_classes(), read_class_map(file))
    assert names(pairs, mine, coco_classes()) == {
        "rbc": "donut",
        "WBC": "orange",
        "猫": "cat",
        "dog": "dog",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b", "no list of pairs"),
        ("a: {b: c}", "no list of pairs"),
        ("a: [", "cannot be read"),
        ("cat: kat", "no class `kat`, did you mean `cat`"),
        ("cat: 80", "no class `80`"),
        ("kat: cat", "the data has no class `kat`, did you mean `cat`"),
    ],
)
def test_mistakes_in_a_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "map.yml"
    file.write_text(text)
    with pytest.raises(WeightsError, match=message):
        match_classes(ClassMap(("cat",), (0,)), coco_classes(), read_class_map(file))
    with pytest.raises(WeightsError, match="not found"):
        read_class_map(tmp_path / "absent.yml")
