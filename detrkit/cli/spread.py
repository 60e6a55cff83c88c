"""Options that several commands take, as one dataclass: Typer sees each of its fields."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """Makes every field of a dataclass parameter an option of the command.

    >>> @dataclass
    ... class Common:
    ...     seed: Annotated[int, typer.Option(help="…")] = 0
    >>> @spread
    ... def train(cfg: str, common: Common, json: bool = False) -> None: ...

    Typer is given `train(cfg, seed=0, json=False)`, the function a `Common`.
    """
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[name] = kind
            parameters += _options(kind)
        else:
            parameters.append(parameter.replace(annotation=kind))

    @functools.wraps(command)
    def called(**values: Any) -> None:
        for name, kind in groups.items():
            own = {field.name: values.pop(field.name) for field in fields(kind)}
            values[name] = kind(**own)
        command(**values)

    # keyword-only: a field with a default may stand before an argument without one
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what inspect.signature reads
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _options(kind: type) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]
