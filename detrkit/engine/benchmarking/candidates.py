"""What is to be measured, as the command line names it. Imports no torch.

best.pth                     a checkpoint or an exported file, by path or URL
dfine_n_coco                 a name of the catalogue or a YAML file: random weights
small=runs/a-1/best.pth      with a name of its own
best.pth+half+compile        with options of its own; +provider=openvino likewise
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detrkit.errors import UsageError

_OPTION = re.compile(r"\+(half|compile|provider=\w+)$")
_NAMED = re.compile(r"([^/\\:=+]+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Candidate:
    """One detector under one set of options.

    Attributes:
        name: in the tables.
        source: file, URL or configuration.
        half, compiled, provider: as of `RunOptions`.
    """

    name: str
    source: str
    half: bool = False
    compiled: bool = False
    provider: str | None = None

    @property
    def is_config(self) -> bool:
        """Whether it is a configuration, of which a model with random weights is made."""
        path = Path(self.source)
        if path.suffix.lower() in (".yml", ".yaml"):
            return True
        return not path.suffix and "://" not in self.source and not path.exists()


def parse(
    inputs: Sequence[str],
    *,
    half: bool = False,
    compiled: bool = False,
    provider: str | None = None,
) -> list[Candidate]:
    """What the command line names.

    Args:
        inputs: one text each, as at the top of this file.
        half, compiled, provider: for all of them.

    Raises:
        UsageError: two have the same name.
    """
    found = [_one(text, Candidate("", "", half, compiled, provider)) for text in inputs]
    names = [candidate.name for candidate in found]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(
                f"two candidates are called {name}",
                hint="name them: a=runs/a-1/best.pth b=runs/b-1/best.pth",
            )
    return found


def _one(text: str, base: Candidate) -> Candidate:
    named = None if Path(text).exists() else _NAMED.fullmatch(text)
    source = named[2] if named else text
    while (option := _OPTION.search(source)) and not Path(source).exists():
        source = source[: option.start()]
        if option[1] == "half":
            base = replace(base, half=True)
        elif option[1] == "compile":
            base = replace(base, compiled=True)
        else:
            base = replace(base, provider=option[1].partition("=")[2])
    return replace(base, name=named[1] if named else text, source=source)
