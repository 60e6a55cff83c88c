"""The one entry point for checks: `nox` runs lint, types and tests; `nox -l` lists all.

Sessions use the environment that nox itself runs in (`pip install -e '.[dev]'`), because a fresh
one would download torch each time. Only `wheel` makes its own.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "none"

ROOT = Path(__file__).parent
PYTEST_PLUGINS = ("xdist", "pytest_timeout", "_hypothesis_pytestplugin")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and formatting."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy; strict for config, cli, registry, engine and structures."""
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """The default suite: no GPU, no network, minutes on two cores."""
    _pytest(session)


@nox.session
def slow(session: nox.Session) -> None:
    """The long tests: real trainings, kill and resume."""
    _pytest(session, "-m", "slow")


def _pytest(session: nox.Session, *options: str) -> None:
    """Pytest in a process per core, four at most; each file stays in one, for its fixtures.

    Files run in the order of their names: the trainings of `cli` and `engine` first. xdist would
    begin with the files of most tests and end with the longest ones, each on a core of its own.

    Only with the plugins that are named: one that something else has installed may warn in its own
    way (pytest-benchmark does of several processes), and a warning is an error here.
    """
    env = {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    plugins = [part for name in PYTEST_PLUGINS for part in ("-p", name)]
    shared = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")
    session.run("pytest", *plugins, *shared, *options, *session.posargs, env=env)


@nox.session
def readme(session: nox.Session) -> None:
    """Runs every shell block of the README that is marked `<!-- run -->`, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- run -->\s*```(?:bash|sh)\n(.*?)```", text, flags=re.S)
    if not blocks:
        session.error("README.md has no block marked <!-- run -->")
    for block in blocks:
        session.run("bash", "-euo", "pipefail", "-c", block, external=True)


@nox.session
def gallery(session: nox.Session) -> None:
    """Runs the commands of the README's gallery; its pictures go to `.github/gallery`."""
    from PIL import Image

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- gallery -->\s*```bash\n(.*?)```", text, flags=re.S)
    place = Path(session.create_tmp()) / "run"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    with session.chdir(place):
        session.run("bash", "-euo", "pipefail", "-c", block, external=True)
    shown = ROOT / ".github/gallery"
    shown.mkdir(parents=True, exist_ok=True)
    for name in re.findall(r"\.github/gallery/([\w-]+)\.webp", text):
        folder = place / "gallery" / name
        named = [
            file for file in (folder / f"{name}.png", folder.with_suffix(".png")) if file.exists()
        ]
        shortest = sorted(folder.glob("*.png"), key=lambda file: len(file.name))
        with Image.open([*named, *shortest][0]) as picture:
            picture.thumbnail((1400, 1400))
            picture.convert("RGB").save(shown / f"{name}.webp", quality=90, method=6)


@nox.session(venv_backend="venv", venv_params=["--system-site-packages"])
def wheel(session: nox.Session) -> None:
    """Builds the wheel, installs it beside the packages that are already here, and starts it."""
    target = Path(session.create_tmp())
    shutil.rmtree(target / "dist", ignore_errors=True)
    session.run(
        sys.executable, "-m", "build", "--wheel", "--outdir", str(target / "dist"), external=True
    )
    (built,) = (target / "dist").glob("*.whl")
    session.install("--force-reinstall", "--no-deps", str(built))
    session.chdir(target)  # away from the checkout, so that the installed package is the one used
    session.run("detrkit", "--version")
    session.run("detrkit", "--help", silent=True)
    session.run("detrkit", "show-config", "quickstart", "--json", silent=True)
