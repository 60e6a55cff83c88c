"""The names by which a converted data set knows its images, and bringing them there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from detrkit.convert.document import CocoDocument
from detrkit.convert.headers import Progress
from detrkit.convert.placing import Place, put
from detrkit.data.faults import FaultKind, FaultReport
from detrkit.data.files import Folders, ImageFinder


def relative_name(path: Path, base: Path) -> str:
    """`path` as seen from `base`, with `/`; absolute where there is no way (another drive)."""
    try:
        return Path(os.path.relpath(path, base)).as_posix()
    except ValueError:
        return path.resolve().as_posix()


def referring_names(names: Sequence[str], files: Sequence[Path], ann_file: Path) -> list[str]:
    """File names by which a reader of `ann_file` finds `files` where they are.

    A name that leads to its file stays; another one becomes a path relative to the data set's
    folder. Names of files that do not exist stay as well.
    """
    folder = ann_file.resolve().parent
    base = folder.parent if folder.name.lower().startswith("annotation") else folder
    finder = ImageFinder.around(ann_file, None)
    there = Folders()

    def settled(name: str, file: Path) -> str:
        if not there.is_file(file):
            return name
        first = next((p / name for p in finder.places if there.is_file(p / name)), None)
        if first is not None and os.path.samefile(first, file):
            return name
        return relative_name(file, base)

    return [settled(name, file) for name, file in zip(names, files, strict=True)]


def target_names(
    files: Sequence[Path],
    *,
    flat: bool = False,
    by_stem: bool = False,
    known: Mapping[Path, str] | None = None,
    faults: FaultReport,
) -> list[str]:
    """Names for files that come together in one folder: their own, below their common folder.

    Args:
        files: image files; one that is listed twice gets two names.
        flat: without folders.
        by_stem: names must differ in more than their ending, as one label file belongs to each.
        known: files that are there already, and their names.
        faults: report to add renamed files to.
    """
    known = known or {}
    try:
        base = Path(os.path.commonpath({os.path.abspath(file.parent) for file in files}))
    except ValueError:  # several drives, or no files
        flat = True

    def key(name: str) -> str:
        return (os.path.splitext(name)[0] if by_stem else name).lower()

    used = {key(name) for name in known.values()}
    names = []
    for file in files:
        if file in known:
            names.append(known[file])
            continue
        path = Path(os.path.abspath(file))
        name = wanted = path.name if flat else path.relative_to(base).as_posix()
        number = 2
        while key(name) in used:
            stem, suffix = os.path.splitext(wanted)
            name, number = f"{stem}_{number}{suffix}", number + 1
        if name != wanted:
            faults.add(FaultKind.RENAMED_IMAGE, file, "", f"now {name}")
        used.add(key(name))
        names.append(name)
    return names


def put_all(
    document: CocoDocument,
    folder: Path,
    how: Place,
    *,
    flat: bool = False,
    by_stem: bool = False,
    known: dict[Path, str] | None = None,
    progress: Progress | None = None,
) -> tuple[CocoDocument, list[str]]:
    """Makes the images of a document available below `folder`.

    Args:
        document: images whose file is missing are left out of the result and counted.
        folder: made if it is missing.
        how: link or copy.
        flat, by_stem: as in `target_names`.
        known: files that are there already, and their names; gets the new ones.
        progress: called with the number of images brought and of all.

    Returns:
        The document and the name of each of its images below `folder`.

    Raises:
        DetrkitError: an image cannot be written.
    """
    known = {} if known is None else known
    there = np.asarray([file.is_file() for file in document.files], bool)
    for row in np.flatnonzero(~there):
        where = f"image {document.images[row]['id']}"
        document.faults.add(FaultKind.MISSING_IMAGE, document.files[row], where)
    document = document.subset(np.flatnonzero(there))
    names = target_names(
        document.files, flat=flat, by_stem=by_stem, known=known, faults=document.faults
    )
    for number, (file, name) in enumerate(zip(document.files, names, strict=True), start=1):
        if file not in known:
            put(file, folder / name, how)
        if progress is not None:
            progress(number, len(names))
    known |= dict(zip(document.files, names, strict=True))
    return document, names
