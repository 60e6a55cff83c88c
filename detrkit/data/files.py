"""Finding image files that annotations name more or less correctly."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path, PureWindowsPath

from detrkit.data.images import is_image_file


def list_images(folder: Path) -> list[Path]:
    """All image files in `folder` and below, sorted by name.

    An array beside a picture of the same name is left out: some trainers keep decoded pictures
    that way.
    """
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        images = [path for name in sorted(names) if is_image_file(path := Path(name))]
        pictures = {path.stem for path in images if path.suffix.lower() != ".npy"}
        found += [
            Path(parent, path)
            for path in images
            if path.suffix.lower() != ".npy" or path.stem not in pictures
        ]
    return found


class ImageFinder:
    """Looks for images in several folders.

    Args:
        folders: where to look, best first.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = [f for f in dict.fromkeys(folders) if f.is_dir()]

    @classmethod
    def around(
        cls, ann_file: str | Path, img_folder: str | Path | Sequence[Path] | None
    ) -> ImageFinder:
        """Looks in `img_folder`, or in the usual places around an annotation file."""
        if isinstance(img_folder, str | Path):
            return cls([Path(img_folder)])
        if img_folder is not None:
            return cls(list(img_folder))
        here = Path(ann_file).resolve().parent
        stem = Path(ann_file).stem.removeprefix("instances_")
        short = next((s for s in ("train", "val", "test") if s in stem.lower()), stem)
        roots = [here, here.parent] if here.name.lower().startswith("annotation") else [here]
        folders = []
        for root in roots:
            for name in (stem, short):
                folders += [root / "images" / name, root / name / "images", root / name]
            folders += [root / "images", root / "JPEGImages", root]
        return cls(folders)

    def find(self, name: str) -> tuple[Path, bool]:
        """The file called `name`, and whether its path had to be repaired.

        Tried in order: the name below each folder; its last component below each folder; the
        same name with another image ending. A file that cannot be found comes back as the first
        guess.
        """
        for folder in self.folders:
            path = folder / name
            if path.is_file():
                return path, False
        base = PureWindowsPath(name).name  # splits at / and \
        matches = self._by_name.get(base) or self._by_stem.get(Path(base).stem) or []
        if len(matches) == 1:
            return matches[0], True
        return (self.folders[0] if self.folders else Path()) / name, False

    @cached_property
    def _listing(self) -> list[Path]:
        return list(dict.fromkeys(p for folder in self.folders for p in list_images(folder)))

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return _grouped(self._listing, lambda p: p.name)

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return _grouped(self._listing, lambda p: p.stem)


def _grouped(paths: list[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return dict(groups)
