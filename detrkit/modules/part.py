"""Modules of maps as parts of a larger component, which builds them when it knows the widths.

    HybridEncoder: {block: RepHMS, upsample: {type: DySample, groups: 4}}

A part is the name of a module, or a mapping with its `type` and arguments. `in_channels` comes
from the owner, and so does `out_channels` where the constructor takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from detrkit.errors import ConfigError, DetrkitError
from detrkit.layers.conv import ConvNormAct
from detrkit.registry import MODULES, Entry

Part: TypeAlias = "str | Mapping[str, Any]"


def build_part(
    part: Part,
    where: str,
    in_channels: int | Sequence[int],
    out_channels: int | None = None,
    *,
    scale: float = 1.0,
    **given: Any,
) -> nn.Module:
    """Builds a part.

    Args:
        part: name, or mapping with `type`.
        where: the argument that holds it, for errors: "HybridEncoder.block".
        in_channels: width of its input, or of each of its inputs.
        out_channels: width that its output must have; a 1×1 convolution with norm is added where
            the module cannot have it itself. None: any, see its `out_channels`.
        scale: side of the output relative to the input.
        given: arguments for constructors that take them, where the part does not set them.

    Raises:
        ConfigError: there is no such module, it does something else with its input, or it cannot
            be built with these arguments.
    """
    name, arguments = split_part(part, where)
    entry = module_entry(name, where)
    assert entry.traits is not None
    if entry.traits.scale != scale:
        raise ConfigError(
            f"{where}: {name} makes maps {entry.traits.scale:g} times as large; wanted is {scale:g}"
            if isinstance(entry.traits.scale, float | int)
            else f"{where}: {name} returns several maps; wanted is one",
            hint="`detrkit modules` says what each module does",
        )
    check_inputs(entry, not isinstance(in_channels, int), where)
    if out_channels is not None:
        given["out_channels"] = out_channels
    accepted = {k: v for k, v in given.items() if k in entry.parameters and k not in arguments}
    widths = in_channels if isinstance(in_channels, int) else list(in_channels)
    try:
        module: nn.Module = entry.factory(widths, **accepted, **arguments)
    except DetrkitError:
        raise
    except (TypeError, ValueError, KeyError, AssertionError) as error:
        raise ConfigError(
            f"{where}: {name} cannot be built for in_channels {in_channels}: {error}",
            hint=f"`detrkit info {name}` lists its arguments",
        ) from error
    width = module.out_channels
    if out_channels is None or width == out_channels:
        return module
    assert isinstance(width, int)
    adapted = nn.Sequential(module, ConvNormAct(width, out_channels, 1))
    adapted.out_channels = out_channels  # type: ignore[assignment]
    return adapted


def split_part(part: Part, where: str) -> tuple[str, dict[str, Any]]:
    """Name and arguments.

    Raises:
        ConfigError: it is neither a name nor a mapping with `type`.
    """
    if isinstance(part, str):
        return part, {}
    if isinstance(part, Mapping) and isinstance(part.get("type"), str):
        return part["type"], {key: value for key, value in part.items() if key != "type"}
    raise ConfigError(f"{where}: expected a module (its name, or `type: …`), got {part!r}")


def module_entry(name: str, where: str) -> Entry:
    """The registered module of maps called `name`.

    Raises:
        ConfigError: there is none.
    """
    try:
        entry = MODULES.get(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from None
    if entry.traits is None:
        raise ConfigError(
            f"{where}: {name} is no module of maps",
            hint="`detrkit modules` lists them",
        )
    return entry


def check_inputs(entry: Entry, several: bool, where: str) -> None:
    """Whether a module takes what it is given: one map, or a list of several.

    Raises:
        ConfigError: it takes the other.
    """
    known = (entry.example or {}).get("in_channels")
    if known is not None and several == isinstance(known, int):
        takes, given = ("one map", "several") if several else ("several maps", "one")
        raise ConfigError(
            f"{where}: {entry.name} takes {takes}, and there {'are' if several else 'is'} {given}",
            hint=f"`detrkit info {entry.name}` says what it takes",
        )


def per_level(parts: Sequence[Part | None] | None, levels: int, where: str) -> list[Part | None]:
    """A part for each of `levels`; None stands for none anywhere.

    Raises:
        ConfigError: there are more or fewer.
    """
    if parts is None:
        return [None] * levels
    if isinstance(parts, str | Mapping) or len(parts) != levels:
        raise ConfigError(
            f"{where}: expected a list of {levels} entries, one for each level, got {parts!r}",
            hint="`null` leaves a level as it is",
        )
    return list(parts)
