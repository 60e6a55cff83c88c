"""Every check of the machine, on machines that are made up."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from detrkit.engine.doctor import environment as env
from detrkit.engine.doctor import packages
from detrkit.engine.doctor.environment import Environment, examine_environment
from detrkit.engine.doctor.packages import FEATURES, Feature
from detrkit.engine.doctor.report import Check, Status
from detrkit.engine.doctor.torch_facts import Gpu, TorchFacts, nvidia_driver
from detrkit.engine.machine import Machine
from tests.conftest import REPOSITORY

GIB = 1 << 30
CPU = TorchFacts("2.9.1", "0.24.1", cpu_capability="AVX2", threads=4)
H200 = Gpu("NVIDIA H200", 139 * GIB, 138 * GIB, (9, 0), True)
CUDA = replace(CPU, cuda_built="12.8", cudnn=91002, gpus=(H200,), driver="570.1")
MACHINE = Machine(
    cores=4, installed_cores=4, cpu="Quick 9000", memory=16 * GIB, memory_available=12 * GIB,
    shared_memory=8 * GIB, shared_memory_free=8 * GIB, open_files=4096, load=0.4,
)  # fmt: skip


def found(checks: list[Check], code: str) -> Check:
    (check,) = (check for check in checks if check.code == code)
    return check


def everything(feature: Feature) -> str:
    return "9.9"


def section(tmp_path: Path, **changes: object) -> list[Check]:
    values: dict = {
        "machine": MACHINE, "torch": lambda: CPU, "variables": {}, "run_folder": tmp_path,
        "cache_folder": tmp_path, "version_of": everything, "missing_characters": lambda _: "",
    } | changes  # fmt: skip
    return examine_environment(Environment(**values)).checks


def test_a_good_machine_has_nothing_to_complain_about(tmp_path: Path) -> None:
    checks = section(tmp_path, torch=lambda: CUDA)
    assert {check.status for check in checks} == {Status.OK}
    assert not any(check.hint for check in checks)
    assert "139 GiB" in found(checks, "gpu.0").text
    assert "bf16" in found(checks, "gpu.0").text


def test_whatever_is_not_well_has_a_hint(tmp_path: Path) -> None:
    bad = replace(
        MACHINE, memory_available=GIB, shared_memory=64 << 20, shared_memory_free=60 << 20,
        open_files=256, cores=2,
    )  # fmt: skip

    def nothing(feature: Feature) -> str:
        raise ModuleNotFoundError(f"no module {feature.module!r}")

    checks = section(
        tmp_path, machine=bad, torch=lambda: replace(CPU, driver="570.1", torchvision="!no nms"),
        version_of=nothing, missing_characters=lambda text: text,
    )  # fmt: skip
    wrong = {check.code for check in checks if check.status is not Status.OK}
    assert wrong >= {
        "torch", "torchvision", "gpu", "threads", "memory", "shared-memory", "open-files",
        "opencv", "font", *(feature.name for feature in FEATURES),
    }  # fmt: skip
    # without a GPU there is nothing to do about it
    assert all(c.hint for c in checks if c.status is not Status.OK and c.code != "gpu")


def test_torch_that_cannot_be_imported_is_one_finding_of_many(tmp_path: Path) -> None:
    def broken() -> TorchFacts:
        raise OSError("libcudart.so.12: cannot open shared object file")

    checks = section(tmp_path, torch=broken)
    torch = found(checks, "torch")
    assert torch.status is Status.PROBLEM
    assert torch.exit_code == 1
    assert "libcudart.so.12" in torch.text
    assert found(checks, "memory").status is Status.OK


def test_a_check_that_fails_does_not_end_the_others(tmp_path: Path) -> None:
    def fail(text: str) -> str:
        raise RuntimeError("fonts are hard")

    checks = section(tmp_path, missing_characters=fail)
    assert "could not be checked (RuntimeError: fonts are hard)" in found(checks, "font").text
    assert found(checks, "opencv").status is Status.OK


# -- text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["UTF-8", "utf8", "utf_8", "cp65001"])
def test_utf8_by_any_name(name: str) -> None:
    assert env.check_text(name, name).status is Status.OK


def test_other_encodings() -> None:
    assert env.check_text("cp936", "utf-8").status is Status.NOTE
    assert env.check_text("utf-8", "ANSI_X3.4-1968").status is Status.NOTE
    assert env.check_text(None, "utf-8").status is Status.OK


# -- torch -----------------------------------------------------------------------------------


def test_a_cpu_build_beside_a_driver() -> None:
    check = env.check_torch(replace(CPU, driver="570.1"))
    assert check.status is Status.WARNING
    assert "pytorch.org" in check.hint
    assert env.check_torch(CPU).status is Status.OK


def test_a_driver_that_is_too_old() -> None:
    reason = "The NVIDIA driver on your system is too old (found version 11040)."
    (check,) = env.check_gpus(replace(CUDA, gpus=(), cuda_error=reason, driver="470.1"))
    assert check.status is Status.WARNING
    assert reason in check.text
    assert "12.8" in check.hint


def test_other_programs_on_the_gpu() -> None:
    busy = replace(H200, free=10 * GIB)
    (check,) = env.check_gpus(replace(CUDA, gpus=(busy,)))
    assert check.status is Status.WARNING
    assert "nvidia-smi" in check.hint


def test_a_gpu_without_bf16() -> None:
    old = Gpu("Tesla T4", 15 * GIB, 15 * GIB, (7, 5), False)
    (check,) = env.check_gpus(replace(CUDA, gpus=(old,)))
    assert "no bf16" in check.text
    assert check.values["bf16"] is False


def test_apples_gpu() -> None:
    (check,) = env.check_gpus(replace(CPU, mps=True))
    assert check.status is Status.OK


def test_torchvision_of_another_build() -> None:
    check = env.check_torchvision(replace(CPU, torchvision="!operator nms does not exist"))
    assert check.status is Status.PROBLEM
    assert "operator nms does not exist" in check.text


def test_facts_of_this_torch() -> None:
    facts = TorchFacts.gather()
    assert facts.version
    assert not facts.torchvision.startswith("!")
    assert facts.threads >= 1


def test_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert nvidia_driver(tmp_path) is None
    file = tmp_path / "proc/driver/nvidia/version"
    file.parent.mkdir(parents=True)
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu\nGCC: 12\n")
    assert nvidia_driver(tmp_path) == "570.86.15"


# -- the machine -----------------------------------------------------------------------------


def test_cores_and_instruction_sets() -> None:
    flags = frozenset({"avx512_bf16", "amx_bf16"})
    check = env.check_cpu(replace(MACHINE, cores=2, cpu_flags=flags), CPU)
    assert check.text == "Quick 9000, 2 cores of 4 may be used, AVX2 kernels, AMX-BF16"


@pytest.mark.parametrize(
    ("threads", "variables", "gpus", "status"),
    [
        (4, {}, (), Status.OK),
        (8, {}, (), Status.WARNING),
        (1, {"OMP_NUM_THREADS": "1"}, (), Status.NOTE),
        (1, {"OMP_NUM_THREADS": "1"}, (H200,), Status.OK),
        (2, {}, (), Status.OK),  # torch counts physical cores
    ],
)
def test_threads(threads: int, variables: dict, gpus: tuple, status: Status) -> None:
    facts = replace(CPU, threads=threads, gpus=gpus)
    assert env.check_threads(MACHINE, facts, variables).status is status


def test_memory() -> None:
    check = env.check_memory(replace(MACHINE, memory_limit=2 * GIB, memory_available=GIB))
    assert check.status is Status.WARNING
    assert "this control group may use 2 GiB" in check.text
    assert env.check_memory(Machine()).status is Status.NOTE
    assert env.check_memory(replace(MACHINE, memory_available=None)).status is Status.OK


def test_shared_memory_of_dockers_default() -> None:
    small = replace(MACHINE, shared_memory=64 << 20, shared_memory_free=64 << 20)
    check = env.check_shared_memory(small)
    assert check.status is Status.WARNING
    assert "--shm-size" in check.hint
    assert env.check_shared_memory(Machine()).status is Status.OK


@pytest.mark.parametrize(
    ("load", "status"), [(None, Status.OK), (1.9, Status.OK), (2.1, Status.WARNING)]
)
def test_other_programs(load: float | None, status: Status) -> None:
    assert env.check_load(replace(MACHINE, load=load)).status is status


@pytest.mark.parametrize(
    ("limit", "status"), [(None, Status.OK), (1024, Status.OK), (256, Status.NOTE)]
)
def test_open_files(limit: int | None, status: Status) -> None:
    assert env.check_open_files(replace(MACHINE, open_files=limit)).status is status


def test_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = env.check_folder("disk.runs", "runs", tmp_path / "not" / "there")
    assert check.status is Status.OK
    assert str(tmp_path) in check.text
    assert not (tmp_path / "not").exists()
    monkeypatch.setattr(env, "free_space", lambda _: 100 << 20)
    full = env.check_folder("disk.runs", "runs", tmp_path)
    assert full.status is Status.WARNING
    assert "100 MiB" in full.text


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(env.tempfile, "TemporaryFile", refuse)
    check = env.check_folder("disk.cache", "cache", tmp_path)
    assert check.status is Status.PROBLEM
    assert "Permission denied" in check.text
    assert "DETRKIT_CACHE" in check.hint


def test_no_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(env.tempfile, "gettempdir", none)
    check = env.check_temporary()
    assert check.status is Status.PROBLEM
    assert "TMPDIR" in check.hint


# -- packages --------------------------------------------------------------------------------


def raising(error: Exception) -> object:
    def version(feature: Feature) -> str:
        raise error

    return version


def test_features_missing_broken_and_needed() -> None:
    extra, needed = (
        Feature("x", "x", "fun", "detrkit[x]"),
        Feature("y", "y", "AP", "y", needed=True),
    )
    missing = packages.check_feature(extra, raising(ModuleNotFoundError("no module 'x'")))
    assert missing.status is Status.NOTE
    assert missing.hint == "for fun: pip install 'detrkit[x]'"
    broken = packages.check_feature(extra, raising(ImportError("bad ELF")))
    assert broken.status is Status.WARNING
    assert "bad ELF" in broken.text
    assert packages.check_feature(needed, raising(ImportError("no"))).status is Status.PROBLEM


def test_opencv_without_libgl() -> None:
    error = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    check = packages.check_opencv(raising(error))
    assert check.status is Status.WARNING
    assert "libGL.so.1" in check.text
    assert "headless" in check.hint
    assert packages.check_opencv(lambda _: "4.8.1").status is Status.NOTE
    assert packages.check_opencv(lambda _: "5.0.0-dev").status is Status.OK
    assert packages.check_opencv(raising(ModuleNotFoundError("cv2"))).status is Status.NOTE


def test_versions_of_what_is_installed() -> None:
    assert packages.version_of(Feature("numpy", "numpy", "", "numpy")).count(".") >= 1
    named_otherwise = Feature("yaml", "yaml", "", "PyYAML")
    assert packages.version_of(named_otherwise) == importlib.metadata.version("PyYAML")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        packages.version_of(Feature("n", "no_such_module_at_all", "", "n"))
    with pytest.raises(ModuleNotFoundError, match="nor_this"):
        packages.version_of(Feature("numpy", "numpy", "", "numpy", others=("nor_this",)))


def test_every_extra_is_listed() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = {line.partition(" =")[0] for line in section.splitlines() if " = [" in line}
    listed = {feature.install for feature in FEATURES}
    others = {"dev", "fonts"}  # of those who work on detrkit, and `check_font`
    assert {f"detrkit[{extra}]" for extra in extras - others} <= listed
    assert len(extras) > 8


def test_a_compiled_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_build.py").write_text("raise ImportError('wrong ABI')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packages.version_of(Feature("b", "broken_build", "", "b")) == "of unknown version"
    with pytest.raises(ImportError, match="wrong ABI"):
        packages.version_of(Feature("b", "broken_build", "", "b", compiled=True))
    sys.modules.pop("broken_build", None)


def test_fonts() -> None:
    assert packages.check_font(lambda _: "").status is Status.OK
    check = packages.check_font(lambda text: text)
    assert check.status is Status.NOTE
    assert "DETRKIT_FONT" in check.hint
    assert packages.check_font().status in (Status.OK, Status.NOTE)
