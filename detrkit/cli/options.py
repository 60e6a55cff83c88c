"""Option types that several commands share, so that a flag means the same everywhere.

def train(cfg: ConfigArg, update: Updates = None, plugin: Plugins = None, ...) -> None:

`cfg: ConfigArg` is positional; the authors' `-c FILE` works as well. `update: Updates` takes
`-u a=1 -u b=2` and the authors' `-u a=1 b=2` (`detrkit.cli.app` rewrites both).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

# Typer reads these at run time, on Python 3.10 as well: `Optional`, not `X | None`.
# ruff: noqa: UP045

#: `CFG`: a YAML file or a name of the catalogue, e.g. `quickstart`, `dfine_n_coco`.
ConfigArg = Annotated[
    str,
    typer.Argument(
        metavar="CFG",
        help="A YAML file, or a name that `detrkit models` lists.",
        show_default=False,
    ),
]

#: `-u a.b=c`, repeatable; pass on as `load_config(..., update=update or ())`.
Updates = Annotated[
    Optional[list[str]],
    typer.Option(
        "-u",
        "--update",
        metavar="KEY=VALUE…",
        help="Set a value of the config, e.g. [bold]optimizer.lr=1e-4[/]; repeatable.",
        show_default=False,
    ),
]

#: `--plugin FILE.py`, repeatable; pass on as `load_config(..., plugins=plugin or ())`.
Plugins = Annotated[
    Optional[list[Path]],
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A Python file that registers components; repeatable.",
        show_default=False,
    ),
]

#: `-w/--weights`: a checkpoint, or a URL where the command says so.
Weights = Annotated[
    str,
    typer.Option(
        "-w", "--weights", metavar="FILE", help="A checkpoint of detrkit or of the authors.",
        show_default=False,
    ),
]  # fmt: skip

#: `--size HxW`: the input of weights at use; `detrkit.engine.derive.parse_size` reads it.
InputSize = Annotated[
    Optional[str],
    typer.Option(
        "--size",
        metavar="HxW",
        help="Input of the model, where it is not to be that of the weights: 640 or 480x640.",
        show_default=False,
    ),
]

#: `--data DIR`: a data set of any layout that detrkit reads.
Data = Annotated[
    Optional[str],
    typer.Option(
        "--data",
        metavar="PATH",
        help="Data set: a COCO, YOLO or Pascal VOC folder or file; detected.",
        show_default=False,
    ),
]

#: `--split val`: the part of `--data` that is measured.
Split = Annotated[
    Optional[str],
    typer.Option(
        "--split",
        metavar="train|val|test",
        help="Part of --data; val by default, else test.",
        show_default=False,
    ),
]

Conf = Annotated[float, typer.Option("--conf", min=0, max=1, help="Lowest score.")]
MaxDet = Annotated[int, typer.Option("--max-det", min=1, help="At most so many per image.")]
Classes = Annotated[
    Optional[str],
    typer.Option(
        "--classes",
        metavar="NAME,NAME…",
        help="Only these classes, by name or number.",
        show_default=False,
    ),
]

#: `--batch N` where nothing is trained.
PassSize = Annotated[int, typer.Option("--batch", min=1, help="Images per forward pass.")]

#: `--device cuda:0`; none: the GPU if there is one.
Device = Annotated[
    Optional[str],
    typer.Option(
        "-d", "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, mps; the best one by default.",
        show_default=False,
    ),
]  # fmt: skip

#: `--json`: one versioned object on stdout (`console.print_json`), nothing else there.
JsonOut = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]

#: `-o/--output`: a file or folder; `--output-dir` is the authors' spelling.
Output = Annotated[
    Optional[Path],
    typer.Option(
        "-o", "--output", "--output-dir", metavar="PATH", help="Where to write.", show_default=False
    ),
]

WeightsConfig = Annotated[
    Optional[str],
    typer.Option(
        "-c",
        "--config",
        metavar="CFG",
        help="For weights that carry no config and are not recognised.",
        show_default=False,
    ),
]

#: `--provider NAME`: what computes an exported file; `detrkit.engine.runtime.RunOptions`.
Provider = Annotated[
    Optional[str],
    typer.Option(
        "--provider",
        metavar="NAME",
        help="ONNX Runtime's: cpu, cuda, tensorrt, openvino; OpenVINO's: cpu, gpu, npu, auto.",
        show_default=False,
    ),
]

#: `--half`: of `detrkit.load`
Half = Annotated[
    bool, typer.Option("--half", help="16 bits: fp16 on a GPU, bf16 on a CPU that has it.")
]

#: `--threads N`
Threads = Annotated[
    Optional[int],
    typer.Option(
        "--threads",
        min=1,
        help="Of the CPU; as many as cores by default.",
        show_default=False,
    ),
]


def class_names(classes: str | None) -> list[str] | None:
    """`--classes` as the engine takes it; None: all."""
    return classes.split(",") if classes else None
