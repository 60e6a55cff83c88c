"""`detrkit distill`: flags, errors, and what `compare` says of the runs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from detrkit.config import load_config
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.parts import build_model, image_spec_of
from detrkit.structures import ClassMap
from tests.cli.conftest import Run
from tests.engine.test_onnx_runtime import write as write_onnx


def write_teacher(file: Path, names: tuple[str, ...] = ("red", "green")) -> Path:
    """A checkpoint with random weights."""
    cfg = load_config(file.parent / "tiny.yml", update=[f"num_classes={len(names)}"])
    Checkpoint(
        model=build_model(cfg, seed=3).state_dict(),
        config=cfg.tree,
        config_name="tiny",
        class_map=ClassMap.from_names(names),
        image_spec=image_spec_of(cfg),
    ).save(file)
    return file


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Path:
    return write_teacher(folder / "teacher.pth")


def distill(run: Run, *arguments: object) -> Any:
    return run("distill", "tiny.yml", "--data", "data", "--epochs", 1, *arguments)


def test_a_student_and_its_run(run: Run, place: Path, teacher: Path) -> None:
    """The authors' flags; the run says what it learned from, and `compare` repeats it."""
    flags = ("--data", "data", "--epochs", 1)
    given = ("-sc", "tiny.yml", "-tc", "tiny.yml", "-tw", teacher.name, "--probes", 4)
    given += ("--no-teacher-ema", "--teacher-size", "student")
    more = ("--feature-loss", "CWD:encoder.0=5", "--feature-loss", "FGD", "--class-loss",
            "QualityFocal", "--logit-layers", "all")  # fmt: skip
    result = run("distill", *given, *flags, *more, "--output", "distilled", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["trained_epochs"] == 1
    assert "distill_cwd_encoder_0, weight 5: encoder.0 -> encoder.0" in result.err
    assert "is no better than the student at its start" in result.err
    row = json.loads((place / "distilled" / "log.jsonl").read_text(encoding="utf-8"))
    assert row["train_distill/cwd_encoder_0"] > 0
    config = yaml.safe_load((place / "distilled" / "config.yml").read_text(encoding="utf-8"))
    assert config["distillation"]["weights"] == str(teacher)
    assert config["distillation"]["teacher_ema"] is False
    assert config["distillation"]["teacher_size"] == "student"
    assert config["distillation"]["logit"] == {"classes": "QualityFocal", "layers": "all"}

    assert run("train", "tiny.yml", *flags, "--output", "alone").code == 0
    compared = run("compare", "alone", "distilled", "--samples", 0, "-o", "compared")
    assert compared.code == 0, compared.err
    assert f"distilled learned from a teacher: {teacher}, mode both" in compared.err
    assert "learned from a teacher" in (place / "compared" / "compare.html").read_text("utf-8")

    evaluated = run("eval", "-w", "distilled/best.pth", "--data", "data", "--json")
    assert evaluated.code == 0, evaluated.err


def test_an_onnx_teacher(run: Run, place: Path) -> None:
    file = write_onnx(place / "teacher.onnx", size=(64, 64), classes=2)
    result = distill(run, "--teacher", file.name, "--mode", "logit", "--output", "by-onnx")
    assert result.code == 0, result.err
    row = json.loads((place / "by-onnx" / "log.jsonl").read_text(encoding="utf-8"))
    assert {k for k in row if k.startswith("train_distill/")} == {
        "train_distill/class", "train_distill/bbox", "train_distill/giou",
    }  # fmt: skip


def test_a_backbone_of_timm(run: Run, place: Path) -> None:
    """A file of timm's whole model teaches the encoder; the student stays as it is."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    torch.save(model.state_dict(), "vit.pth")
    flags = (
        *(
            "--foundation",
            "vit_tiny_patch16_224",
            "-u",
            "distillation.foundation.pretrained=vit.pth",
        ),
        *("-u", "distillation.foundation_images.size=[224,224]"),
    )
    result = distill(run, *flags, "--output", "by-timm")
    assert result.code == 0, result.err
    assert "distill_featurecosine_encoder_1, weight 1: encoder.1 -> backbone.0" in result.err
    assert "random weights" not in result.err
    row = json.loads((place / "by-timm" / "log.jsonl").read_text(encoding="utf-8"))
    assert [k for k in row if k.startswith("train_distill/")] == [
        "train_distill/featurecosine_encoder_1"
    ]
    assert 0 < row["train/distill"] < 2
    student = Checkpoint.load(place / "by-timm" / "best.pth").weights
    assert not any("adapter" in name or "vit" in name for name in student)


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ("", 3, "distillation: no teacher"),
        ("-tw gone.pth", 5, "teacher: weight file not found: gone.pth"),
        ("-tw teacher.onnx", 3, "ONNX file, whose feature maps are not to be seen"),
        ("-tw teacher.pth --mode maps", 3, "expected 'feature' or 'logit' or 'both', got 'maps'"),
        ("-tw teacher.pth --feature-loss CWDD", 3, "unknown component `CWDD`, did you mean `CWD`"),
        ("-tw teacher.pth --feature-loss NOPE", 3, "losses of this kind: CWD, FGD, FeatureCosine"),
        ("-tw teacher.pth --class-loss KL", 3, "losses of this kind: QualityFocal, SigmoidKL"),
        ("-tc teacher.pth -tw gone.pth", 3, "teacher.pth"),
        ("-tw teacher.pth --feature-loss CWD:neck", 3, "the model has no stage `neck`"),
        ("-tw teacher.pth --feature-loss CWD:encoder.7", 3, "`encoder.7` is no stage with a map"),
        ("-tw teacher.pth --feature-loss CWD:encoder=x", 2, "`x` is no weight"),
        ("-tw teacher.pth --start-epoch 4", 3, "no epoch is left"),
        ("-tw teacher.pth --probes -1", 3, "must not be negative"),
        ("-tw teacher.pth --teacher-cache -1", 3, "must not be negative"),
        ("-tw teacher.pth --teacher-cache 9 --probes 4", 3, "there is no answer to keep"),
        ("-tw teacher.pth --mode feature --probes 4", 3, "shared queries (probes) need"),
        ("-tw teacher.pth --logit-queries 0", 3, "must be at least 1, got 0"),
        ("-tw teacher.pth --logit-layers first", 3, "last or all, got 'first'"),
        ("-tw teacher.pth -u distillation.warmup=2", 3, "unknown argument of Distillation"),
        ("-tw teacher.pth -u distillation.logit='{quries: 3}'", 3, "did you mean `queries`"),
        ("-tw teacher.pth -u distillation.logit='{classes: CWD}'", 3, "`CWD` is no ClassLoss"),
        ("-tw teacher.pth --feature-loss CWD:encoder=-1", 3, "expected a number from 0 up, got -1"),
        ("-tw animals.pth", 3, "no class in common: cat, dog, cow and red, green"),
        ("-sc other.yml -tw teacher.pth", 2, "two students, tiny.yml and other.yml"),
        (
            "--foundation resnet18 -u distillation.foundation.pretrained=gone.pth",
            5,
            "foundation model: TimmBackbone: no pretrained weights at gone.pth",
        ),
        ("--foundation resnet18 --mode both", 3, "a foundation model has no detections"),
    ],
)
def test_mistakes(
    run: Run, place: Path, teacher: Path, flags: str, code: int, message: str
) -> None:
    if "animals" in flags:
        write_teacher(place / "animals.pth", ("cat", "dog", "cow"))
    result = distill(run, *shlex.split(flags), "-o", "wrong")
    assert (result.code, message in result.err) == (code, True), result.err
    assert "Traceback" not in result.err
    assert not (place / "wrong").exists()


def test_maps_of_a_teacher_of_other_things(run: Run, place: Path) -> None:
    """Classes are not compared, so none has to be shared."""
    write_teacher(place / "animals.pth", ("cat", "dog", "cow"))
    flags = ("-tw", "animals.pth", "--mode", "feature", "--output", "maps")
    result = distill(run, *flags)
    assert result.code == 0, result.err
    row = json.loads((place / "maps" / "log.jsonl").read_text(encoding="utf-8"))
    assert [k for k in row if k.startswith("train_distill/")] == ["train_distill/pkd_encoder"]


def test_no_student(run: Run, place: Path) -> None:
    result = run("distill", "-tw", "teacher.pth")
    assert result.code == 2
    assert "no student" in result.err


def test_classes_without_names_are_taken_in_their_order(run: Run, place: Path) -> None:
    """Authors' weights say nothing about their classes."""
    cfg = load_config("tiny.yml", update=["num_classes=2"])
    torch.save({"model": build_model(cfg, seed=3).state_dict()}, "authors.pth")
    flags = ("-tc", "tiny.yml", "-tw", "authors.pth", "--mode", "logit", "-u", "num_classes=2")
    result = distill(run, *flags, "--no-preflight", "--output", "nameless")
    assert result.code == 0, result.err
    assert "name no classes: they are taken in the student's order" in result.err
