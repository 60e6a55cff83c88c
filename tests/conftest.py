"""Fixtures of all tests. Nothing here downloads; reference numbers are optional."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.garbage import freeze

# Before torch is imported, here and in child processes: one thread each. Tests compare runs of
# both bit for bit, and more threads would wait for each other on a busy machine.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# A shell without job control lets what it starts in the background ignore Ctrl-C, and so would
# every process of the tests; a handler of Python's is not inherited as one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Property tests judge results, not the speed of a busy machine.
settings.register_profile("detrkit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("detrkit")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """What is imported stays: looking through it for garbage takes a tenth of the suite's time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        freeze()
        gc.enable()


def reference_folder() -> Path:
    """Folder of the reference numbers: `DETRKIT_REFERENCE`, else `../shared`."""
    return Path(os.environ.get("DETRKIT_REFERENCE", REPOSITORY.parent / "shared"))


@pytest.fixture(autouse=True)
def clean_log() -> None:
    """Each test meets the log of a library: commands run before it may have set up their own."""
    logger = logging.getLogger("detrkit")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.fixture(scope="session")
def reference() -> Path:
    """The reference folder; skips where it is absent."""
    folder = reference_folder()
    if not (folder / "parity").is_dir():
        pytest.skip(f"no reference numbers at {folder}; set DETRKIT_REFERENCE")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("bccd")`: a real data set; skips where it is absent."""

    def find(name: str) -> Path:
        folder = reference_folder() / "data" / name
        if not folder.exists():
            pytest.skip(f"no data set at {folder}; set DETRKIT_REFERENCE")
        return folder

    return find


@pytest.fixture
def repository() -> Path:
    """The checkout's root."""
    return REPOSITORY
