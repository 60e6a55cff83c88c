"""Bringing an image file somewhere: by a link or a copy."""

from __future__ import annotations

import os
import shutil
from enum import Enum
from pathlib import Path

from detrkit.files import cannot_write


class Place(str, Enum):
    """What happens to the image files."""

    refer = "refer"
    link = "link"
    symlink = "symlink"
    copy = "copy"


def put(file: Path, target: Path, how: Place) -> None:
    """Makes an image available as `target`, whose folder is made; what is there is replaced.

    A hard link becomes a copy where the disk is another one. The target is never half a file.

    Raises:
        DetrkitError: it cannot be written.
    """
    source = os.path.realpath(file)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            _make(source, temporary, how)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(target, error) from error


def _make(source: str, target: Path, how: Place) -> None:
    if how is Place.symlink:
        os.symlink(source, target)
        return
    if how is Place.link:
        try:
            os.link(source, target)
        except OSError:  # another disk, or a file system without links
            how = Place.copy
    if how is Place.copy:
        shutil.copyfile(source, target)
