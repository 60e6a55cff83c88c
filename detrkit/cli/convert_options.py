"""Options of `detrkit convert`'s commands, by what they mean."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

# Typer reads these at run time, on Python 3.10 as well: `Optional`, not `X | None`.
# ruff: noqa: UP045

DataSet = Annotated[
    Path,
    typer.Argument(
        metavar="SRC",
        help="A data set: COCO JSON, data.yaml, or a COCO, YOLO, Pascal VOC or CrowdHuman folder.",
    ),
]
Folder = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write.")]
CocoOut = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="PATH",
        help="Folder that gets annotations/instances_<split>.json, or a .json file for one split.",
    ),
]
Images = Annotated[
    Optional[Path],
    typer.Option(
        "--images", metavar="DIR", help="Where the images are, if not in a usual place around SRC."
    ),
]
Lists = Annotated[
    Optional[list[str]],
    typer.Option(
        "--list",
        metavar="SPLIT=NAME",
        help="Which list or file is which split, e.g. [bold]--list train=trainval[/]; repeatable.",
    ),
]
Ratios = Annotated[
    Optional[str],
    typer.Option(
        "--ratios",
        metavar="R,R[,R]",
        help="Divide all images anew: 0.8,0.2 (train, val), 8,1,1 (and test) or train=9,test=1. "
        "Without it, the splits of SRC stay.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Equal seeds choose equal images.")]
Stratify = Annotated[
    bool, typer.Option("--stratify", help="Give every part its share of each class.")
]
GroupBy = Annotated[
    Optional[str],
    typer.Option(
        "--group-by",
        metavar="REGEX",
        help="Images whose file names match the same text stay together: "
        r"[bold]'([^/]+)_\d+'[/] for frames such as clip7_0001.jpg.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a former result.")]
Crowds = Annotated[
    bool,
    typer.Option(
        "--keep-crowds",
        help="Write crowd regions as ordinary boxes; the format cannot mark them, so they are "
        "left out otherwise.",
    ),
]


class Placing(str, Enum):
    """What happens to the images."""

    refer = "refer"
    link = "link"
    symlink = "symlink"
    copy = "copy"


class Bringing(str, Enum):
    """What happens to the images where they have to be beside the labels."""

    link = "link"
    symlink = "symlink"
    copy = "copy"


class Box(str, Enum):
    """A person's boxes in CrowdHuman."""

    full = "full"
    visible = "visible"
    head = "head"


PlaceImages = Annotated[
    Placing,
    typer.Option(
        "--place",
        help="refer: images stay where they are. Otherwise they come to images/<split>: link "
        "(hard links; copies on another disk), symlink or copy.",
    ),
]
BringImages = Annotated[
    Bringing,
    typer.Option(
        "--place", help="How images come along: link (hard links; copies on another disk), …"
    ),
]

# Of one command each.

OdgtFiles = Annotated[
    Path,
    typer.Argument(
        metavar="SRC", help="annotation_train.odgt, or the folder with the .odgt files."
    ),
]
WhichBox = Annotated[
    Box, typer.Option("--box", help="Which box of a person; what is to be ignored: iscrowd.")
]
Objects365Folder = Annotated[
    Path,
    typer.Argument(
        metavar="SRC",
        help="Folder with train/zhiyuan_objv2_train.json, val/zhiyuan_objv2_val.json and the "
        "images.",
    ),
]
ValImages = Annotated[
    int,
    typer.Option(
        "--val-images",
        metavar="N",
        min=1,
        help="The first N images of the validation set stay in it; the others are trained on.",
    ),
]
MaxSide = Annotated[
    int,
    typer.Option(
        "--max-side",
        metavar="N",
        min=0,
        help="Make images smaller whose longer side has more pixels; 0 leaves all as they are.",
    ),
]
Quality = Annotated[
    int, typer.Option("--quality", min=1, max=100, help="Of JPEG files that are made.")
]
Workers = Annotated[
    Optional[int],
    typer.Option("--workers", metavar="N", min=0, help="Processes; one per core by default."),
]
Renames = Annotated[
    Optional[list[str]], typer.Option("--rename", metavar="OLD=NEW", help="Repeatable.")
]
Merges = Annotated[
    Optional[list[str]],
    typer.Option(
        "--merge",
        metavar="NEW=OLD,OLD",
        help="Several classes become one, a present or a new one; repeatable.",
    ),
]
Kept = Annotated[
    Optional[list[str]],
    typer.Option("--keep", metavar="NAME,NAME", help="Drop all other classes, by their new names."),
]
Dropped = Annotated[
    Optional[list[str]], typer.Option("--drop", metavar="NAME,NAME", help="Drop classes.")
]
MapFile = Annotated[
    Optional[Path],
    typer.Option(
        "--map",
        metavar="FILE",
        help="YAML or JSON: a line [bold]old: new[/] for each change, null to drop.",
    ),
]
FirstId = Annotated[
    Optional[int],
    typer.Option("--first-id", metavar="N", help="Number the classes anew from N, without gaps."),
]
DropEmpty = Annotated[
    bool, typer.Option("--drop-empty", help="Drop images that lose all of their boxes.")
]
NewRatios = Annotated[
    str,
    typer.Option(
        "--ratios",
        metavar="R,R[,R]",
        help="0.8,0.2 (train, val), 8,1,1 (and test) or train=9,test=1.",
    ),
]
DataSets = Annotated[
    list[Path], typer.Argument(metavar="SRC SRC…", help="Data sets of any format.")
]
Count = Annotated[
    Optional[int], typer.Option("-n", "--count", metavar="N", min=1, help="Images of each split.")
]
Fraction = Annotated[
    Optional[float], typer.Option("--fraction", metavar="F", help="Of each split.")
]
PerClass = Annotated[
    Optional[int],
    typer.Option(
        "--per-class",
        metavar="N",
        min=1,
        help="Images until each class is in N of them, or in all it has.",
    ),
]
