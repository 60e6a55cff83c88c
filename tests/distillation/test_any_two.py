"""Every pair of families: forward, losses, backward, at a tiny size."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from detrkit.distillation.distiller import Distiller
from detrkit.distillation.layout import pair_maps
from detrkit.distillation.losses.base import FeatureLoss
from detrkit.distillation.losses.cosine import FeatureCosine
from detrkit.distillation.losses.mgd import MGD
from detrkit.distillation.losses.pkd import PKD
from detrkit.distillation.schedule import Window
from detrkit.distillation.taps import stages_of
from detrkit.distillation.teacher import BackboneTeacher, DetectorTeacher, Respec, Teacher
from detrkit.distillation.terms import FeatureTerm, LogitLosses
from detrkit.models.detector import Detector
from detrkit.structures import Batch, ImageSpec
from tests.distillation.detectors import CLASSES, FAMILIES, SIZE, batch, detector

STUDENT_SPEC = ImageSpec(SIZE)
#: Another size and other colours than the student's.
TEACHER_SPEC = ImageSpec((96, 96), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def terms_of(
    student: nn.Module, teacher: nn.Module, losses: dict[str, type[FeatureLoss]]
) -> tuple[nn.ModuleList, list[str]]:
    """One term for each stage, and the teacher's stages."""
    own = stages_of(student, losses, SIZE)
    other = stages_of(teacher, losses, TEACHER_SPEC.size)
    terms, stages = [], []
    for stage, loss in losses.items():
        pairs = pair_maps(own[stage], other[stage], SIZE, TEACHER_SPEC.size)
        terms.append(FeatureTerm(f"{loss.__name__.lower()}_{stage}", 1.0, pairs, loss))
        stages += [pair.teacher for pair in pairs]
    return nn.ModuleList(terms), stages


def distiller_of(
    student: nn.Module, teacher: nn.Module, probes: int = 6, ratio_every: int = 1
) -> Distiller:
    terms, stages = terms_of(student, teacher, {"encoder": PKD, "backbone": MGD})
    classes = torch.arange(CLASSES)

    def opened() -> tuple[Teacher, LogitLosses]:
        respec = Respec(STUDENT_SPEC, TEACHER_SPEC, TEACHER_SPEC.size)
        taught = DetectorTeacher(teacher, respec, classes, stages, probes > 0)
        return taught, LogitLosses(classes, layers="all")

    distiller = Distiller(opened, Window(0, 1), terms, probes=probes, ratio_every=ratio_every)
    distiller.begin_epoch(0)
    distiller.begin_step(0.0, 0)
    return distiller


def step(student: nn.Module, distiller: Distiller) -> dict[str, Tensor]:
    """The distillation losses of a training step; gradients are left in the student."""
    images, targets = batch()
    torch.manual_seed(0)
    student.train().zero_grad()
    with distiller.watching(student):
        outputs = student(images, targets)
    detection = {"loss": outputs["pred_logits"].square().mean()}
    losses = distiller.add(student, Batch(images, targets), outputs, detection)
    torch.stack(list(losses.values())).sum().backward()
    return {name: value.detach() for name, value in losses.items() if name != "loss"}


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.product(FAMILIES, FAMILIES)), ids=lambda name: name[:12]
)
def test_every_pair(first: str, second: str) -> None:
    student = detector(first)
    teacher = detector(second, seed=1)
    assert isinstance(teacher, Detector)
    distiller = distiller_of(student, teacher.deploy())
    losses = step(student, distiller)

    refine = ["ld"] if "rtdetrv2" not in first + second else []
    wanted = {"pkd_encoder", "mgd_backbone"}
    for prefix in ("", "probe_"):
        wanted |= {f"{prefix}{n}" for n in ("class", "bbox", "giou", *refine)}
    assert set(losses) == {f"distill_{name}" for name in wanted}
    for name, value in losses.items():
        assert value.isfinite(), name
        assert value > 0, name
    parts = {
        part: sum(p.grad.abs().sum() for p in module.parameters() if p.grad is not None)
        for part, module in student.named_children()
    }
    assert all(value > 0 for value in parts.values()), parts
    for name, parameter in distiller.terms.named_parameters():
        assert parameter.grad is not None, name
    ratio = distiller.take_ratio()
    assert ratio is not None
    assert ratio > 0
    assert not any(module._forward_hooks for module in student.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_student_that_is_its_teacher_learns_nothing(name: str) -> None:
    """All but MGD, which restores: zero at the same weights, in evaluation mode and one size."""
    student = copy.deepcopy(detector(name)).eval()
    terms, stages = terms_of(student, student, {"encoder": PKD, "backbone": FeatureCosine})
    classes = torch.arange(CLASSES)
    spec = Respec(STUDENT_SPEC, STUDENT_SPEC)
    images, targets = batch()
    teacher = DetectorTeacher(copy.deepcopy(student), spec, classes, stages, True)
    distiller = Distiller(
        lambda: (teacher, LogitLosses(classes)), Window(0, 1), terms, probes=4, ratio_every=0
    )
    distiller.begin_epoch(0)
    distiller.begin_step(0.0, 1)
    with distiller.watching(student):
        outputs = student(images)
    losses = distiller.add(student, Batch(images, targets), outputs, {})
    torch.stack(list(losses.values())).sum().backward()
    for key, value in losses.items():
        assert abs(value.item()) < 1e-5, key
    for key, parameter in student.named_parameters():
        assert parameter.grad is None or parameter.grad.abs().max() < 1e-4, key


def test_a_foundation_model_aligns_the_encoder() -> None:
    student = detector("dfine_n_coco")
    backbone = detector("deimv2_dinov3_s_coco").backbone
    own = stages_of(student, ["encoder.-1"], SIZE)["encoder.-1"]
    other = [("backbone.2", tuple(backbone(torch.zeros(1, 3, *SIZE))[2].shape[1:]))]
    pairs = pair_maps(own, other, SIZE, SIZE)  # type: ignore[arg-type]
    assert pairs[0].student == "encoder.1"
    terms = nn.ModuleList([FeatureTerm("cosine", 1.0, pairs, FeatureCosine)])
    teacher = BackboneTeacher(backbone, Respec(STUDENT_SPEC, STUDENT_SPEC), ["backbone.2"])
    distiller = Distiller(lambda: (teacher, None), Window(0, 1), terms, ratio_every=0)
    distiller.begin_epoch(0)
    distiller.begin_step(0.0, 0)
    losses = step(student, distiller)
    assert 0 < losses["distill_cosine"] < 2


def test_outside_of_the_window_nothing_is_added() -> None:
    student = detector("deimv2_atto_coco")
    distiller = distiller_of(student, copy.deepcopy(student).eval())
    distiller.begin_epoch(1)
    distiller.begin_step(1.0, 5)
    assert distiller.teacher is None
    assert distiller.logits is None
    images, targets = batch()
    with distiller.watching(student):
        outputs = student.train()(images, targets)
    assert not distiller._taps.seen
    losses = {"loss": outputs["pred_logits"].sum()}
    assert distiller.add(student, Batch(images, targets), outputs, losses) is losses


def test_parts_add_up_to_the_batch() -> None:
    """What is a mean over images can be computed in parts."""
    student = copy.deepcopy(detector("deimv2_atto_coco")).eval()
    teacher = detector("dfine_n_coco", seed=1)
    terms, stages = terms_of(student, teacher, {"encoder": FeatureCosine})
    classes = torch.arange(CLASSES)
    taught = DetectorTeacher(
        copy.deepcopy(teacher), Respec(STUDENT_SPEC, TEACHER_SPEC, (96, 96)), classes, stages
    )
    distiller = Distiller(
        lambda: (taught, LogitLosses(classes)), Window(0, 1), terms, ratio_every=0
    )
    distiller.begin_epoch(0)
    images, targets = batch(3)
    whole = Batch(images, targets)

    def losses(piece: Batch) -> dict[str, Tensor]:
        distiller.begin_step(0.0, 1)
        with distiller.watching(student):
            outputs = student(piece.images)
        share = len(piece) / len(whole)
        return distiller.add(student, piece, outputs, {}, share)

    expected, parts = losses(whole), [losses(piece) for piece in whole.split(2)]
    for name, value in expected.items():
        found = torch.stack([part[name] for part in parts]).sum()
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-6)


def test_the_teachers_images() -> None:
    """Undone and done anew: the same as preparing the pixels for the teacher."""
    pixels = torch.randint(0, 256, (2, 3, 8, 8)).float()
    for source, target in itertools.permutations(
        [STUDENT_SPEC, TEACHER_SPEC, ImageSpec(SIZE, channels="bgr", scale=1.0, mean=(10.0,))], 2
    ):
        found = Respec(source, target)(source.normalized(pixels))
        torch.testing.assert_close(found, target.normalized(pixels), rtol=1e-4, atol=1e-4)
    resized = Respec(STUDENT_SPEC, TEACHER_SPEC, (4, 6))(STUDENT_SPEC.normalized(pixels))
    assert resized.shape == (2, 3, 4, 6)
