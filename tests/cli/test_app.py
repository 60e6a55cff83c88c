"""The frame of the command line: laziness, errors, exit codes, the authors' spellings."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import detrkit
from detrkit.cli import app, console
from detrkit.cli.app import config_flag_to_argument, repeat_update_flag, take_global_flags
from detrkit.errors import ConfigError, DataError, Interrupted, MissingExtraError, UsageError
from tests.cli.conftest import Run

COMMANDS = [name for names in app.PANELS.values() for name in names]


def fresh(*args: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """A new Python process in the checkout."""
    start = ["-c", code] if code else ["-m", "detrkit"]
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, *start, *args],
        capture_output=True,
        encoding="utf-8",
        cwd=root,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        check=False,
    )


def test_help_lists_all_commands_and_leaves_torch_unimported() -> None:
    result = fresh(
        code="import sys\n"
        "from detrkit.cli.app import main\n"
        "code = main(['--help'])\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'yaml', 'scipy'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), code)\n"
    )
    assert "HEAVY [] 0" in result.stdout, result.stdout[-300:] + result.stderr
    for name in COMMANDS:
        assert f" {name} " in result.stdout
    for panel, names in app.PANELS.items():
        assert not names or f"─ {panel} ─" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_without_torch(name: str) -> None:
    result = fresh(
        code="import sys\nfrom detrkit.cli.app import main\n"
        f"code = main(['{name}', '--help'])\n"
        "print('HEAVY', 'torch' in sys.modules, code)\n"
    )
    assert "HEAVY False 0" in result.stdout, result.stderr
    assert f"detrkit {name}" in result.stdout


@pytest.mark.parametrize("name", ["train", "export"])
def test_an_option_without_a_default_shows_none(name: str) -> None:
    """Some versions of Typer print "[default: None]" unless they are told not to."""
    shown = {p.name: p.show_default for p in app._load(name, "").params if p.default is None}
    assert not [option for option, default in shown.items() if default is True]
    if name == "export":
        assert str(shown["tolerance"]).startswith("0.005; fp16")


def test_module_and_version() -> None:
    result = fresh("--version")
    assert (result.returncode, result.stdout.strip()) == (0, f"detrkit {detrkit.__version__}")


def test_completion_is_offered() -> None:
    result = fresh("--help")
    assert "--install-completion" in result.stdout


def test_unknown_command_gets_a_suggestion(run: Run) -> None:
    result = run("show-confg", "x")
    assert result.code == 2
    assert "error: no command `show-confg`, did you mean `show-config`?" in result.err
    assert "hint:" in result.err
    assert result.out == ""


@pytest.mark.parametrize(
    "args", [["--nonsense"], ["models", "--nonsense"], ["show-config"], ["modules", "a", "b"]]
)
def test_wrong_options_are_usage_errors(run: Run, args: list[str]) -> None:
    result = run(*args)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert "--help" in result.err
    assert "Traceback" not in result.err


def test_no_arguments_show_help(run: Run) -> None:
    result = run()
    assert result.code == 2
    assert "show-config" in result.out + result.err


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`failing(error)` makes `detrkit models` raise it."""
    module = importlib.import_module("detrkit.cli.models")

    def install(error: BaseException) -> None:
        def models() -> None:
            raise error

        monkeypatch.setattr(module, "models", models)

    return install


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("u", hint="h"), 2),
        (ConfigError("c", hint="h"), 3),
        (DataError("d", hint="h"), 4),
        (MissingExtraError("av", "video", "reading video"), 6),
        (Interrupted("i", hint="h"), 130),
    ],
)
def test_errors_are_two_lines_and_a_code(run: Run, failing: Any, error: Any, code: int) -> None:
    failing(error)
    result = run("models")
    assert result.code == code
    assert result.err == f"error: {error.message}\nhint: {error.hint}\n"
    assert "Traceback" in run("--debug", "models").err
    assert "Traceback" in run("models", "--debug").err


def test_bug_asks_for_a_report(run: Run, failing: Any) -> None:
    failing(RuntimeError("boom [/] [red]"))
    result = run("models")
    assert result.code == 1
    assert "error: RuntimeError: boom [/] [red]" in result.err
    assert "report it" in result.err
    assert "Traceback" not in result.err
    assert "Traceback" in run("models", "--debug").err


def test_ctrl_c_is_130(run: Run, failing: Any) -> None:
    failing(KeyboardInterrupt())
    result = run("models")
    assert result.code == 130
    assert "interrupted" in result.err


def test_exit_code_of_a_command(run: Run, failing: Any) -> None:
    import typer

    failing(typer.Exit(4))
    assert run("models").code == 4


@pytest.mark.skipif(os.name == "nt", reason="pipes break differently")
def test_broken_pipe_is_quiet() -> None:
    code = (
        "import sys, detrkit.cli.models as module\n"
        "from detrkit.cli.app import main\n"
        "from detrkit.cli.console import out\n"
        "def models():\n"
        "    for _ in range(2000): out.print('x' * 100)\n"
        "module.models = models\n"
        "sys.exit(main(['models']))\n"
    )
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} -c {shlex.quote(code)} | head -c 1"],
        capture_output=True,
        encoding="utf-8",
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("x", "", 0)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-u", "a=1", "b.c=2", "x"], ["-u", "a=1", "-u", "b.c=2", "x"]),
        (["--update", "a=1", "b=2", "-o", "c=3"], ["--update", "a=1", "-u", "b=2", "-o", "c=3"]),
        (["x", "a=1"], ["x", "a=1"]),
        (["-u", "a=[1, 2]", "-u", "b=2"], ["-u", "a=[1, 2]", "-u", "b=2"]),
        (["-u", "a=1", "x", "b=2"], ["-u", "a=1", "x", "b=2"]),
        (["-u", "broken", "b=2"], ["-u", "broken", "-u", "b=2"]),
        ([], []),
    ],
)
def test_several_values_after_one_update_flag(args: list[str], expected: list[str]) -> None:
    assert repeat_update_flag(args) == expected


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-c", "a.yml", "--json"], ["a.yml", "--json"]),
        (["--config", "a.yml"], ["a.yml"]),
        (["--json", "--config=a.yml"], ["--json", "a.yml"]),
        (["a.yml", "--", "-c"], ["a.yml", "--", "-c"]),
    ],
)
def test_config_flag_is_the_argument(args: list[str], expected: list[str]) -> None:
    assert config_flag_to_argument(args) == expected


def test_global_flags_after_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = app.Settings()
    monkeypatch.setattr(settings, "apply", lambda: None)
    monkeypatch.setattr(app, "settings", settings)
    rest = take_global_flags(["a", "-v", "--", "-q"], {"-v", "-q", "--debug"})
    assert rest == ["a", "--", "-q"]
    assert (settings.verbose, settings.quiet, settings.debug) == (True, False, False)


@pytest.mark.parametrize(
    ("flags", "shown"),
    [
        ({}, ["hello [i]", "warning: careful"]),
        ({"verbose": True}, ["debug: detail", "hello [i]", "warning: careful"]),
        ({"quiet": True}, ["warning: careful"]),
    ],
)
def test_log_goes_to_stderr(
    run: Run, capsys: pytest.CaptureFixture[str], flags: dict[str, bool], shown: list[str]
) -> None:
    console.setup_logging(**flags)
    logger = logging.getLogger("detrkit.part")
    logger.debug("detail")
    logger.info("hello %s", "[i]")
    logger.warning("careful")
    captured = capsys.readouterr()
    assert captured.err.splitlines() == shown
    assert captured.out == ""


def test_print_json(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    payload = {
        "nan": float("nan"),
        "array": np.array([1.0, np.inf]),
        "number": np.float32(0.5),
        "path": Path("a/b"),
        "name": "检测",
        "pair": (1, 2),
    }
    console.print_json("thing", payload)
    assert json.loads(capsys.readouterr().out) == {
        "detrkit": detrkit.__version__,
        "kind": "thing",
        "version": 1,
        "nan": None,
        "array": [1.0, None],
        "number": 0.5,
        "path": "a/b",
        "name": "检测",
        "pair": [1, 2],
    }
