"""`detrkit distill`: trains a student with a teacher."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Optional

import typer

from detrkit.cli.spread import spread
from detrkit.cli.train import run as _run
from detrkit.cli.train_options import ClassMapFile, LaunchOptions, TrainOptions

# Typer reads these at run time, on Python 3.10 as well: `Optional`, not `X | None`.
# ruff: noqa: UP045

_teacher = partial(typer.Option, rich_help_panel="Teacher")
_learned = partial(typer.Option, rich_help_panel="What is learned")
_when = partial(typer.Option, rich_help_panel="When")

#: Endings of files of weights, which `--teacher` takes too.
_WEIGHTS = (".pth", ".pt", ".ckpt", ".safetensors", ".onnx")


@spread
def distill(
    options: TrainOptions,
    cfg: Annotated[
        Optional[str],
        typer.Argument(
            metavar="CFG", help="The student: a YAML file, or a name that `detrkit models` lists."
        ),
    ] = None,
    student: Annotated[Optional[str], typer.Option("-sc", "--student", hidden=True)] = None,
    teacher: Annotated[
        Optional[str],
        _teacher(
            "-tc",
            "--teacher",
            metavar="CFG",
            help="Configuration of the teacher, where its weights carry none; or its weights.",
        ),
    ] = None,
    teacher_weights: Annotated[
        Optional[str],
        _teacher(
            "-tw",
            "--teacher-weights",
            metavar="FILE|URL",
            help="A checkpoint of any of our detectors, or with --mode logit an ONNX file.",
        ),
    ] = None,
    teacher_ema: Annotated[
        Optional[bool],
        _teacher(
            "--teacher-ema/--no-teacher-ema",
            help="The averaged weights of the teacher, as by default, or its own.",
        ),
    ] = None,
    teacher_size: Annotated[
        Optional[str],
        _teacher(
            "--teacher-size",
            metavar="own|student",
            help="Resize the batch to the teacher's input (own), or let it see the student's.",
        ),
    ] = None,
    foundation: Annotated[
        Optional[str],
        _teacher(
            "--foundation",
            metavar="NAME",
            help="A frozen backbone of timm instead of a detector; aligns the encoder with it.",
        ),
    ] = None,
    preflight: Annotated[
        Optional[int],
        _teacher(
            "--preflight",
            metavar="N",
            help="Measure the teacher first, on at most N validation images (500); 0: do not.",
        ),
    ] = None,
    no_preflight: Annotated[bool, typer.Option("--no-preflight", hidden=True)] = False,
    teacher_cache: Annotated[
        Optional[float],
        _teacher(
            "--teacher-cache",
            metavar="MB",
            help="Keep its answers to pictures that come again, pixel by pixel: only for training "
            "without random transforms.",
        ),
    ] = None,
    mode: Annotated[
        Optional[str],
        _learned(
            "--mode",
            metavar="feature|logit|both",
            help="Feature maps, detections, or both (default).",
        ),
    ] = None,
    feature_loss: Annotated[
        Optional[list[str]],
        _learned(
            "--feature-loss",
            metavar="NAME[:STAGE[=WEIGHT]]",
            help="CWD, MGD, PKD (default), FGD, ForegroundL2, FeatureMSE or FeatureCosine; of "
            "encoder (default), backbone, encoder.1, …; repeatable.",
        ),
    ] = None,
    class_loss: Annotated[
        Optional[str],
        _learned(
            "--class-loss",
            metavar="SigmoidKL|QualityFocal",
            help="Of the class scores of paired queries.",
        ),
    ] = None,
    logit_queries: Annotated[
        Optional[int],
        _learned(
            "--logit-queries",
            metavar="N",
            help="The teacher's N best queries of an image get one of the student's each (100).",
        ),
    ] = None,
    logit_layers: Annotated[
        Optional[str],
        _learned(
            "--logit-layers",
            metavar="last|all",
            help="Layers of the student's decoder that learn detections.",
        ),
    ] = None,
    probes: Annotated[
        Optional[int],
        _learned(
            "--probes",
            metavar="N",
            help="N queries of an image that both models answer at the same place.",
        ),
    ] = None,
    distill_weight: Annotated[
        Optional[float], _learned("--distill-weight", metavar="W", help="Factor on all of it (1).")
    ] = None,
    start_epoch: Annotated[
        Optional[int], _when("--start-epoch", metavar="N", help="First epoch with it, from 0.")
    ] = None,
    stop_epoch: Annotated[
        Optional[int],
        _when(
            "--stop-epoch",
            metavar="N",
            help="First epoch without it again; the teacher is then freed.",
        ),
    ] = None,
    warmup: Annotated[
        Optional[float],
        _when("--distill-warmup", metavar="EPOCHS", help="Over which it rises from 0."),
    ] = None,
    decay: Annotated[
        Optional[str],
        _when(
            "--distill-decay",
            metavar="none|linear|cosine",
            help="How it falls to 0 towards its last epoch.",
        ),
    ] = None,
    tune: Annotated[
        Optional[str],
        typer.Option(
            "-t", "--tune", metavar="FILE|URL", help="The student starts from these weights."
        ),
    ] = None,
    class_map: ClassMapFile = None,
    *,
    launch: LaunchOptions,
) -> None:
    """Train a student with a teacher: any two of our detectors.

    Families, sizes, inputs, strides and class lists may differ; classes are matched by name. The
    student's checkpoints are those of `train`, and `resume RUN` goes on. The same can stand in
    the student's file, in a section `distillation`.
    """  # fmt: skip
    from detrkit.errors import UsageError

    if cfg is not None and student is not None:
        raise UsageError(f"two students, {cfg} and {student}: give one")
    chosen = cfg or student
    if chosen is None:
        raise UsageError("no student", hint="detrkit distill STUDENT.yml --teacher-weights FILE")
    if teacher_weights is None and teacher is not None and teacher.lower().endswith(_WEIGHTS):
        teacher, teacher_weights = None, teacher
    logit = {"classes": class_loss, "queries": logit_queries, "layers": logit_layers}
    values: dict[str, Any] = {
        "teacher": teacher,
        "weights": teacher_weights,
        "teacher_ema": teacher_ema,
        "teacher_size": teacher_size,
        "preflight": 0 if no_preflight else preflight,
        "cache_mb": teacher_cache,
        "mode": mode,
        "features": [_feature(text) for text in feature_loss] if feature_loss else None,
        "probes": probes,
        "weight": distill_weight,
        "start_epoch": start_epoch,
        "stop_epoch": stop_epoch,
        "warmup_epochs": warmup,
        "decay": decay,
        **{f"logit.{name}": value for name, value in logit.items()},
    }
    if foundation is not None:
        values["foundation"] = {
            "type": "TimmBackbone", "name": foundation, "return_idx": [-1], "pretrained": True,
        }  # fmt: skip
        values["mode"] = mode or "feature"
    given = {name: value for name, value in values.items() if value is not None}
    _run(chosen, options, launch, tune=tune, class_map=class_map, distillation=given)


def _feature(text: str) -> dict[str, Any]:
    """`CWD:encoder.1=5` -> {"loss": "CWD", "stage": "encoder.1", "weight": 5.0}."""
    from detrkit.errors import UsageError

    name, _, rest = text.partition(":")
    stage, _, weight = rest.partition("=")
    try:
        factor = {"weight": float(weight)} if weight else {}
    except ValueError:
        raise UsageError(
            f"--feature-loss {text}: `{weight}` is no weight", hint="e.g. CWD:encoder=5"
        ) from None
    return {"loss": name, **({"stage": stage} if stage else {}), **factor}
