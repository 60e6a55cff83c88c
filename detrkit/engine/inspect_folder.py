"""What all models of a folder cost: every YAML file that describes one, smallest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detrkit.config import load_config
from detrkit.config.catalogue import PARTS
from detrkit.engine.inspect import inspect_model
from detrkit.engine.model_report import ModelReport
from detrkit.engine.parts import build_model
from detrkit.errors import ConfigError, DetrkitError, UsageError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Inspected:
    """Models of a folder.

    Attributes:
        models: named by their paths below the folder; by parameters of the deployed model, then
            by FLOPs.
        problems: {path: what is wrong} of configs that cannot be built.
        parts: files without a `model`: parts for `__include__`.
    """

    models: Sequence[ModelReport]
    problems: dict[str, str]
    parts: Sequence[str]


def inspect_folder(
    folder: Path,
    size: tuple[int, int] | None = None,
    update: Sequence[str] = (),
    progress: Progress | None = None,
) -> Inspected:
    """Counts every model below a folder, with random weights.

    Args:
        folder: searched at any depth; folders called include, base or dataset hold parts.
        size: (h, w) of all inputs; default each config's own.
        update: `--update` values for all of them.
        progress: called with files done and all.

    Raises:
        UsageError: it is no folder, or no YAML file lies below it.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder", hint="detrkit info --all configs/")
    files = sorted(path for kind in ("*.yml", "*.yaml") for path in folder.rglob(kind))
    names = {path: path.relative_to(folder) for path in files}
    if not files:
        raise UsageError(f"no YAML file lies below {folder}")
    models: list[ModelReport] = []
    problems: dict[str, str] = {}
    parts: list[str] = []
    for number, path in enumerate(files, start=1):
        name = names[path].with_suffix("").as_posix()
        try:
            if not PARTS.isdisjoint(names[path].parts[:-1]):
                parts.append(name)
                continue
            cfg = load_config(path, update=update)
            if not cfg.get("model"):
                parts.append(name)
                continue
            h, w = size or cfg.run.eval_spatial_size or (640, 640)
            models.append(inspect_model(build_model(cfg), (int(h), int(w)), name))
        except ConfigError as error:
            problems[name] = "; ".join([error.message.split("\n")[0], *map(str, error.problems)])
        except DetrkitError as error:
            problems[name] = error.message
        finally:
            if progress is not None:
                progress(number, len(files))
    models.sort(key=lambda m: (m.deployed, m.flops.calflops or m.flops.torch, m.name))
    return Inspected(models, problems, parts)
