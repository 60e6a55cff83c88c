"""The Typer application: finds commands lazily, turns errors into `error:` and `hint:`.

A command is one file of this package with one function of the file's name (`-` becomes `_`);
`COMMANDS` in that file makes it a group.
A file is imported when its command runs or when help lists it, so a command file keeps heavy
imports (torch, the engine) inside its function.

Exit codes: 0 done, 1 bug, 2 usage, 3 config, 4 data, 5 weights, 6 missing extra, 7 diverged,
130 interrupted.
"""

from __future__ import annotations

import atexit
import inspect
import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from detrkit.cli import console
from detrkit.cli.help import command_function, inner_commands, options_of, print_help
from detrkit.errors import (
    DetrkitError,
    Interrupted,
    OtherProcessFailed,
    UsageError,
    did_you_mean,
)

#: Panels of `detrkit --help` and their commands, in the order in which they are shown.
PANELS: dict[str, tuple[str, ...]] = {
    "Train": ("train", "resume", "tune", "distill"),
    "Measure": ("eval", "benchmark", "compare"),
    "Deploy": ("infer", "export", "serve", "weights"),
    "Data": ("doctor", "dataset-analyze", "convert"),
    "Understand": ("info", "show-config", "explain", "models", "modules"),
}

#: Other names of commands; help and suggestions know them.
ALIASES = {"analyze": "dataset-analyze"}

#: Options before or after the command's name.
GLOBAL_FLAGS = {
    "-v": "verbose",
    "--verbose": "verbose",
    "-q": "quiet",
    "--quiet": "quiet",
    "--debug": "debug",
}

_ASSIGNMENT = re.compile(r"[A-Za-z_][\w.]*=")

# Typer carries its own copy of click in new versions and uses the package in old ones.
_ClickUsageError: Any = typer.BadParameter.__bases__[0]
_ClickException: Any = _ClickUsageError.__bases__[0]


@dataclass
class Settings:
    """What the global options say, and the command line that they stand in."""

    arguments: list[str] = field(default_factory=list)
    verbose: bool = False
    quiet: bool = False
    debug: bool = False

    def apply(self) -> None:
        console.setup_logging(verbose=self.verbose or self.debug, quiet=self.quiet)


settings = Settings()


class Command(TyperCommand):
    """A command that also takes the authors' spellings and the global flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        parameter: Any  # options and arguments of Typer's, which alone have `show_default`
        for parameter in self.params:
            if parameter.default is None and parameter.show_default is True:
                parameter.show_default = False  # some Typers print "[default: None]"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {flag for parameter in self.params for flag in parameter.opts}
        args = take_global_flags(args, {f for f in GLOBAL_FLAGS if f not in own})
        if "--update" in own:
            args = repeat_update_flag(args)
        takes_config = any(
            parameter.param_type_name == "argument" and parameter.metavar == "CFG"
            for parameter in self.params
        )
        if takes_config and "-c" not in own:
            args = config_flag_to_argument(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        # Typer has its own answers to these two, without a message and with exit code 1.
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        except BrokenPipeError:
            _let_stdout_go()
            raise typer.Exit(0) from None


class SuggestingGroup(TyperGroup):
    """Commands of which a mistyped name gets a suggestion."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in self.list_commands(ctx) and not name.startswith("-"):
            raise UsageError(
                f"no command `{name}`{did_you_mean(name, self.list_commands(ctx))}",
                hint=f"`{ctx.command_path} --help` lists the commands",
            )
        return super().resolve_command(ctx, args)


class LazyGroup(SuggestingGroup):
    """Commands from `PANELS`, imported when they are needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*(name for names in PANELS.values() for name in names), *ALIASES]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, [ALIASES.get(args[0], args[0]), *args[1:]])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for panel, names in PANELS.items():
            if cmd_name in names:
                return _load(cmd_name, panel)
        return None

    def format_help(self, ctx: Any, formatter: Any) -> None:
        print_help(
            usage=" ".join([ctx.command_path, *self.collect_usage_pieces(ctx)]),
            summary=self.help or "",
            epilog=self.epilog or "",
            options=options_of(self, ctx),
            panels=PANELS,
            aliases=ALIASES,
        )


def _load(name: str, panel: str) -> Any:
    """A command, or a group of them where the file has `COMMANDS` (name -> function)."""
    function = command_function(name)
    help_flags = {"help_option_names": ["-h", "--help"]}
    commands = inner_commands(name)
    if commands is None:
        single = typer.Typer(add_completion=False, rich_markup_mode="rich")
        single.command(name, cls=Command, rich_help_panel=panel, context_settings=help_flags)(
            function
        )
        return typer.main.get_command(single)
    group = typer.Typer(
        cls=SuggestingGroup,
        name=name,
        help=inspect.getdoc(function),
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode="rich",
        context_settings=help_flags,
    )
    group.callback()(function)
    for inner, inner_function in commands.items():
        group.command(inner, cls=Command, context_settings=help_flags)(inner_function)
    return typer.main.get_command(group)


app = typer.Typer(
    cls=LazyGroup,
    name="detrkit",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`detrkit COMMAND --help` explains a command. Exit codes: 0 done, 1 bug, 2 usage, "
    "3 config, 4 data, 5 weights, 6 missing extra, 7 diverged, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from detrkit import __version__

        typer.echo(f"detrkit {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log details.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Log warnings only.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; log details.")
    ] = False,
) -> None:
    """Train, tune, evaluate and deploy real-time DETR detectors."""
    settings.verbose |= verbose
    settings.quiet |= quiet
    settings.debug |= debug
    settings.apply()


def take_global_flags(args: Sequence[str], flags: set[str]) -> list[str]:
    """Removes `flags` from a command's arguments (up to `--`) and applies them."""
    rest: list[str] = []
    for position, arg in enumerate(args):
        if arg == "--":
            rest += args[position:]
            break
        if arg in flags:
            setattr(settings, GLOBAL_FLAGS[arg], True)
            settings.apply()
        else:
            rest.append(arg)
    return rest


def repeat_update_flag(args: Sequence[str]) -> list[str]:
    """`-u a=1 b=2` -> `-u a=1 -u b=2`; other arguments stay as they are."""
    result: list[str] = []
    after_update = False
    for arg in args:
        if arg in ("-u", "--update"):
            after_update = True
        elif after_update and _ASSIGNMENT.match(arg):
            if result[-1] not in ("-u", "--update"):
                result.append("-u")
        elif result and result[-1] not in ("-u", "--update"):
            after_update = False
        result.append(arg)
    return result


def config_flag_to_argument(args: Sequence[str]) -> list[str]:
    """`-c FILE`, `--config FILE`, `--config=FILE` -> `FILE`, the positional argument."""
    result: list[str] = []
    for position, arg in enumerate(args):
        if arg == "--":
            return result + list(args[position:])
        if arg.startswith("--config="):
            result.append(arg.split("=", 1)[1])
        elif arg not in ("-c", "--config"):
            result.append(arg)
    return result


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    global settings
    arguments = list(sys.argv[1:] if args is None else args)
    settings = Settings(arguments)
    try:
        code = typer.main.get_command(app).main(
            args=arguments, prog_name="detrkit", standalone_mode=False
        )
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except DetrkitError as error:
        return _report(error)
    except _ClickException as error:
        return _report_click(error)
    except (KeyboardInterrupt, typer.Abort):
        return _report(Interrupted("interrupted"))
    except BrokenPipeError:
        _let_stdout_go()
        return 0
    except Exception as error:
        console.say("error", f"{type(error).__name__}: {error}", "bold red")
        if settings.debug:
            console.err.print(traceback.format_exc(), markup=False, soft_wrap=True)
        else:
            hint = "this is a bug in detrkit; `--debug` shows where, please report it"
            console.say("hint", hint, "bold cyan")
        return 1


def entry() -> NoReturn:
    """The program: `main`, and the end of the process."""
    code = main()
    meeting = sys.modules.get("detrkit.engine.distributed.meeting")
    if meeting is not None and meeting.has_met():
        _leave_at_once(code)
    sys.exit(code)


def _leave_at_once(code: int) -> NoReturn:
    """Ends without C++ destructors: after gloo they now and then abort a run that is done."""
    atexit._run_exitfuncs()  # as the processes of multiprocessing do
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _let_stdout_go() -> None:
    """The reader (`| head`) has enough; Python would complain when it closes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: DetrkitError) -> int:
    if settings.debug:
        console.err.print(traceback.format_exc(), markup=False, soft_wrap=True)
    if isinstance(error, OtherProcessFailed):
        return error.exit_code
    console.say("error", error.message, "bold red")
    if error.hint:
        console.say("hint", error.hint, "bold cyan")
    return error.exit_code


def _report_click(error: Any) -> int:
    """A wrong command line, found by Typer."""
    message = error.format_message()
    if not message:  # no arguments: click shows the help
        error.show()
        return UsageError.exit_code
    console.say("error", message[:1].lower() + message[1:].rstrip("."), "bold red")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "detrkit"
    console.say("hint", f"`{command} --help` lists what it takes", "bold cyan")
    return UsageError.exit_code
