"""Distillation inside of the one trainer: resuming, kills, checkpoints, processes."""

from __future__ import annotations

import gc
import multiprocessing
import shutil
import signal
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detrkit.data.dataset import DetectionDataset
from detrkit.distillation.teacher import Answers, DetectorTeacher
from detrkit.engine.checkpoint import Checkpoint
from detrkit.engine.derive import TrainFlags, load_with_flags
from detrkit.engine.distilling.opening import open_distiller, settings_of
from detrkit.engine.distilling.teachers import Opener
from detrkit.engine.distributed.group import rank
from detrkit.engine.distributed.replicas import unwrapped
from detrkit.engine.run_dir import RunDirectory
from detrkit.engine.session import Session, build_trainer, open_session, start_model
from detrkit.engine.step_probe import StepProbe, worst_batch
from detrkit.engine.trainer import Trainer
from detrkit.engine.weights import open_detector
from detrkit.errors import ConfigError
from tests.conftest import REPOSITORY
from tests.engine.distributed.processes import in_processes
from tests.engine.test_kills import Server, content
from tests.engine.tiny_data import write_config
from tests.engine.toy import equal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and kills")

#: Terms with layers and random draws of their own, in the first three of four epochs.
DISTILL = (
    *("distill", "tiny.yml", "--data", "data", "-tw", "teacher/best.pth", "--no-preflight"),
    *("--feature-loss", "MGD", "--feature-loss", "CWD:backbone", "--probes", "6"),
    *("--stop-epoch", "3", "--distill-decay", "linear", "-u", "distillation.ratio_every=2"),
    *("-u", "checkpoint_freq=1"),
)
#: Every epoch brings the same pictures, in another order.
FIXED = (
    "train_dataloader.dataset.transforms.policy=null",
    "train_dataloader.dataset.transforms.ops=[{type: Resize, size: [64, 64]}, "
    "{type: ConvertPILImage, dtype: float32, scale: true}, "
    "{type: ConvertBoxes, fmt: cxcywh, normalize: true}]",
    "train_dataloader.collate_fn.base_size_repeat=null",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With a teacher of another family, and the run `whole`, which nothing disturbed."""
    made = Server(tmp_path_factory.mktemp("distill"))
    folder = made.folder / "other"
    folder.mkdir()
    write_config(folder, REPOSITORY)
    trained = made.run(
        "train", "other/tiny.yml", "--data", "data", "--epochs", "1", "--output", "teacher"
    )
    assert trained == 0, made.log
    assert made.run(*DISTILL, "--output", "whole") == 0, made.log
    yield made
    made.close()


def distilled(folder: Path) -> dict[str, Any]:
    """All that a run leaves, what lies beside the student included."""
    return {**content(folder), "distiller": Checkpoint.load(folder / "last.pth").distiller}


def test_a_killed_run_ends_with_the_same_bits(server: Server) -> None:
    """Twice, early in the window and later."""
    assert server.run(*DISTILL, "--output", "killed", kill=("save", 3)) == -signal.SIGKILL
    assert server.run("resume", "killed", kill=("renamed", 5)) == -signal.SIGKILL
    assert server.run("resume", "killed") == 0, server.log
    whole, found = distilled(server.folder / "whole"), distilled(server.folder / "killed")
    assert [key for key in whole if not equal(whole[key], found[key])] == []


def gone_on(server: Server, epoch: int, name: str = "whole") -> list[str]:
    """What differs where a copy of a run goes on from the end of an epoch."""
    whole, folder = server.folder / name, server.folder / f"{name}-from-{epoch}"
    shutil.copytree(whole, folder)
    for name in ("last.pth", "curves.png", "detections.jpg"):
        (folder / name).unlink()
    assert server.run("resume", f"{folder.name}/epoch_{epoch:04d}.pth") == 0, server.log
    first, second = distilled(whole), distilled(folder)
    same = ("model", "ema", "optimizer", "distiller", "log")
    return [key for key in same if not equal(first[key], second[key])]


def test_two_and_two_epochs_are_four(server: Server) -> None:
    assert gone_on(server, 2) == []


def test_checkpoints_hold_the_student_alone(server: Server) -> None:
    folder = server.folder / "whole"
    last, best = Checkpoint.load(folder / "last.pth"), Checkpoint.load(folder / "best.pth")
    assert best.distiller is None
    loaded = open_detector(folder / "best.pth")
    own = set(loaded.model.state_dict())
    for weights in (last.model, last.ema["module"] if last.ema else None, best.model):
        assert set(weights or ()) == own
    assert last.distiller is not None
    assert any("generation" in name for name in last.distiller["terms"])


def test_the_log_tells_of_it_while_it_lasts(server: Server) -> None:
    import json

    lines = (server.folder / "whole" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows[:3]:
        terms = {k: v for k, v in row.items() if k.startswith("train_distill/")}
        assert {"train_distill/mgd_encoder", "train_distill/cwd_backbone"} <= set(terms)
        assert {"train_distill/class", "train_distill/probe_giou"} <= set(terms)
        assert row["train/distill"] == pytest.approx(sum(terms.values()))
        assert row["train/distill_gradient_ratio"] > 0
    assert "train/distill" not in rows[3]


def test_a_run_behind_its_window_needs_no_teacher(server: Server) -> None:
    teacher = server.folder / "teacher" / "best.pth"
    teacher.rename(teacher.with_suffix(".away"))
    try:
        assert gone_on(server, 3) == []
        assert server.run(*DISTILL, "--output", "none") == 5
        assert "teacher: weight file not found" in "".join(server.log)
        assert not (server.folder / "none").exists()
    finally:
        teacher.with_suffix(".away").rename(teacher)


def test_answers_from_memory_resume_to_the_same_bits(server: Server) -> None:
    """The resumed run begins with an empty memory."""
    fixed = [word for update in FIXED for word in ("-u", update)]
    flags = (*DISTILL[:7], "--teacher-cache", "100", "-u", "checkpoint_freq=1", *fixed)
    assert server.run(*flags, "--output", "kept") == 0, server.log
    assert "100 % of the pictures of an epoch are answered from memory" in "".join(server.log)
    assert gone_on(server, 2, "kept") == []


def session(folder: Path, *update: str, **more: Any) -> Session:
    weights = {} if "foundation" in more else {"weights": str(folder / "teacher" / "best.pth")}
    distillation = {**weights, **more}
    flags = TrainFlags(data=str(folder / "data"), device="cpu", distillation=distillation)
    return open_session(load_with_flags(folder / "tiny.yml", flags, update=update))


def trainer_of(opened: Session, folder: Path) -> Trainer:
    model, _ = start_model(opened)
    distiller = open_distiller(opened, model)
    return build_trainer(opened, model, RunDirectory(folder), distiller=distiller)


def test_the_adapters_have_a_group_and_rate_of_their_own(server: Server, tmp_path: Path) -> None:
    trainer = trainer_of(session(server.folder, adapter_lr=0.5, preflight=0), tmp_path)
    assert trainer.lrs["distillation"] == 0.5
    assert trainer.distiller is not None
    names = {id(p) for p in trainer.optimizer.param_groups[-1]["params"]}
    assert names == {id(p) for p in trainer.distiller.parameters()}


def test_a_batch_in_parts_is_distilled_too(server: Server, tmp_path: Path) -> None:
    opened = session(server.folder, "accumulate=2", "amp=off", preflight=0)
    trainer = trainer_of(opened, tmp_path)
    assert trainer.distiller is not None
    trainer.distiller.begin_epoch(0)
    trainer.model.train()
    opened.train.set_epoch(0)
    losses, norm = trainer.train_step(next(iter(opened.train)))
    assert norm.isfinite()
    assert losses["distill_pkd_encoder"] > 0
    assert losses["distill_class"] > 0


def test_the_teacher_is_measured_first(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    opened = session(server.folder, preflight=2)
    model, _ = start_model(opened)
    with caplog.at_level("INFO", "detrkit"):
        open_distiller(opened, model)
    assert "on 2 validation images" in caplog.text
    assert "no better than the student" in caplog.text  # one epoch teaches nothing


def opened_teacher(opened: Session, *stages: str) -> DetectorTeacher:
    settings = settings_of(opened.config)
    assert settings is not None
    opener = Opener(settings, opened)
    opener.stages = stages
    teacher, _ = opener()
    assert isinstance(teacher, DetectorTeacher)
    return teacher


def test_behind_the_window_the_teacher_is_gone(server: Server, tmp_path: Path) -> None:
    opened = session(server.folder, stop_epoch=1, preflight=2, cache_mb=10)
    trainer = trainer_of(opened, tmp_path)
    assert trainer.distiller is not None
    trainer.train_epoch(trainer.plan.at(0))
    teacher = trainer.distiller.teacher
    assert isinstance(teacher, DetectorTeacher)
    tensors = [weakref.ref(x) for x in teacher.model.state_dict(keep_vars=True).values()]
    del teacher
    trainer.state.next_epoch()
    gc.disable()  # what nothing holds is gone at once, not at some time
    try:
        trainer.train_epoch(trainer.plan.at(1))
    finally:
        gc.enable()
    assert tensors
    assert not any(x() is not None for x in tensors)
    assert trainer.distiller.cache is None


def test_the_next_batch_is_loaded_while_the_teacher_computes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that answers only when it has been."""
    loaded = multiprocessing.Value("i", 0)
    load = DetectionDataset.load

    def counted(self: DetectionDataset, *arguments: Any) -> Any:
        sample = load(self, *arguments)
        with loaded.get_lock():
            loaded.value += 1
        return sample

    monkeypatch.setattr(DetectionDataset, "load", counted)
    opened = session(server.folder, "train_dataloader.num_workers=1", preflight=0)
    trainer = trainer_of(opened, tmp_path)
    assert trainer.distiller is not None
    trainer.distiller.begin_epoch(0)
    teacher = trainer.distiller.teacher
    assert teacher is not None
    there: list[bool] = []

    class Patient:
        def __call__(self, images: Tensor) -> Answers:
            wanted = opened.train.batch_size * min(len(there) + 2, len(opened.train))
            given_up = time.monotonic() + 20
            while loaded.value < wanted and time.monotonic() < given_up:
                time.sleep(0.01)
            there.append(loaded.value >= wanted)
            return teacher(images)

        def at(self, boxes_cxcywh: Tensor) -> Answers:
            return teacher.at(boxes_cxcywh)

    trainer.distiller.teacher = Patient()
    with closing(opened):
        trainer.train_epoch(trainer.plan.at(0))
    assert there == [True] * len(opened.train)
    assert len(there) > 2


@pytest.mark.parametrize("averaged", [True, False])
def test_which_weights_of_the_teacher(server: Server, averaged: bool) -> None:
    file = server.folder / "teacher" / "last.pth"
    saved = Checkpoint.load(file)
    assert saved.model is not None
    assert saved.ema is not None
    name = "decoder.enc_score_head.weight"
    own, mean = saved.model[name], saved.ema["module"][name]
    assert not torch.equal(own, mean)
    teacher = opened_teacher(session(server.folder, weights=str(file), teacher_ema=averaged))
    assert torch.equal(teacher.model.state_dict()[name], mean if averaged else own)


@pytest.mark.parametrize(("amp", "dtype"), [("bf16", torch.bfloat16), ("off", torch.float32)])
def test_the_teacher_computes_as_the_run_does(server: Server, amp: str, dtype: torch.dtype) -> None:
    teacher = opened_teacher(session(server.folder, f"amp={amp}"), "encoder.0")
    kinds = set()
    for module in teacher.model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, inputs, output: kinds.add(output.dtype))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    answers = teacher(images)
    assert kinds == {dtype}
    assert answers.logits is not None
    assert answers.boxes is not None
    for answer in (answers.logits, answers.boxes, answers.maps["encoder.0"]):
        assert answer.dtype == torch.float32
        assert answer.isfinite().all()
        assert not answer.requires_grad


def test_the_teacher_gets_images_as_it_was_trained_on(server: Server) -> None:
    """A student's batch, without any normalisation, for a teacher of ImageNet's colours."""
    file = server.folder / "normalised.pth"
    saved = Checkpoint.load(server.folder / "teacher" / "best.pth")
    assert saved.image_spec is not None
    spec = replace(saved.image_spec, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    replace(saved, image_spec=spec).save(file)
    opened = session(server.folder, "amp=off", weights=str(file))
    teacher = opened_teacher(opened)
    seen: list[Tensor] = []
    teacher.model.register_forward_pre_hook(lambda model, inputs: seen.append(inputs[0]))
    pixels = torch.randint(0, 256, (2, 3, 64, 64)).float()
    teacher(opened.image_spec.normalized(pixels))
    torch.testing.assert_close(seen[0], spec.normalized(pixels), rtol=1e-4, atol=1e-5)


def test_losses_of_another_kind(server: Server) -> None:
    opened = session(server.folder, features=[{"loss": "SigmoidKL"}], preflight=0)
    model, _ = start_model(opened)
    with pytest.raises(ConfigError, match="`SigmoidKL` is no FeatureLoss"):
        open_distiller(opened, model)


def test_a_step_that_is_tried_out_has_its_teacher(server: Server) -> None:
    """For --batch auto and the forecast of `doctor`."""
    probe = StepProbe(session(server.folder, start_epoch=1, warmup_epochs=2))
    losses = probe.step(worst_batch(probe.session, 2, (64, 64)))
    assert losses["distill_pkd_encoder"] > 0


def test_a_frozen_backbone_as_teacher(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = {"type": "HGNetv2", "name": "B0", "return_idx": [3], "pretrained": False}
    images = {"size": [96, 64]}
    opened = session(server.folder, foundation=backbone, foundation_images=images, mode="feature")
    with caplog.at_level("INFO", "detrkit"):
        trainer = trainer_of(opened, tmp_path)
    assert "the foundation model has random weights" in caplog.text
    assert "distill_featurecosine_encoder_1, weight 1: encoder.1 -> backbone.0" in caplog.text
    assert trainer.distiller is not None
    trainer.distiller.begin_epoch(0)
    trainer.model.train()
    opened.train.set_epoch(0)
    losses, _ = trainer.train_step(next(iter(opened.train)))
    assert {name for name in losses if name.startswith("distill_")} == {
        "distill_featurecosine_encoder_1"
    }
    assert trainer.distiller.parameters()


def in_two(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains an epoch; weights of the student and of what lies beside it."""
    opened = session(
        folder, "epochs=1", "schedule=null", "amp=off",
        features=[{"loss": "MGD"}, {"loss": "CWD", "stage": "backbone"}], probes=4, preflight=0,
    )  # fmt: skip
    output = folder / f"ddp-{rank()}"
    output.mkdir(exist_ok=True)
    trainer = trainer_of(opened, output)
    trainer.fit()
    assert trainer.distiller is not None
    student = unwrapped(trainer.model)
    parameters = {name: p.detach() for name, p in student.named_parameters()}
    return parameters, trainer.distiller.terms.state_dict()


def test_two_processes_stay_equal(server: Server) -> None:
    first, second = in_processes(2, in_two, server.folder)
    assert not isinstance(first, BaseException), first
    assert not isinstance(second, BaseException), second
    assert equal(first, second)
    assert first[1]
    assert all(torch.isfinite(v).all() for v in first[1].values())
