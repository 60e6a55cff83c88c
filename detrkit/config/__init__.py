"""Configuration: YAML in, typed objects out.

    load      safe YAML; each value remembers file and line
    dialect   old names become today's
    merge     includes, the file, command flags, `--update`
    check     against the run settings and the constructors' signatures
    build     new objects; nothing is written back

Components are reached through the registry only; nothing here imports a model.
"""

from detrkit.config.build import build, build_component
from detrkit.config.catalogue import CatalogueEntry, catalogue
from detrkit.config.check import check
from detrkit.config.config import Config, Flag, checked, load_config
from detrkit.config.schema import RunConfig
from detrkit.config.tree import Origin

__all__ = [
    "CatalogueEntry",
    "Config",
    "Flag",
    "Origin",
    "RunConfig",
    "build",
    "build_component",
    "catalogue",
    "check",
    "checked",
    "load_config",
]
