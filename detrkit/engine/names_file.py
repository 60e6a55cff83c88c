"""Other names for a detector's classes, as a user gives them."""

from __future__ import annotations

import os
from pathlib import Path

from detrkit.data.text import read_json, read_text, read_yaml
from detrkit.data.yolo import declared_classes
from detrkit.errors import DataError


def read_names(given: str) -> list[str]:
    """`cat,dog`; or a file: one name per line, a JSON list, or a `data.yaml` with `names`.

    Raises:
        DataError: the file cannot be read, or holds no names.
    """
    path = Path(given).expanduser()
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        content = read_yaml(path)
        if isinstance(content, list):
            return [str(name) for name in content]
        return list(declared_classes(path, content if isinstance(content, dict) else {}).names)
    if suffix == ".json":
        content = read_json(path)
        if not isinstance(content, list):
            raise DataError(f"{path}: expected a list of names")
        return [str(name) for name in content]
    if os.path.isfile(path) or suffix == ".txt":  # unlike Path's, bears a list of any length
        return [line.strip() for line in read_text(path).splitlines() if line.strip()]
    return [name.strip() for name in given.split(",")]
