"""Finding image files that annotations name more or less correctly."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath

from detrkit.data.images import is_image_file


@dataclass(frozen=True)
class Listing:
    """What a folder held when it was listed.

    Attributes:
        files: names of its files, and of links to files.
        folders: names of its folders, sorted; links are not followed.
        mtime_ns: when its list of names last changed; None if there was no such folder.
    """

    files: frozenset[str] = frozenset()
    folders: tuple[str, ...] = ()
    mtime_ns: int | None = None

    @classmethod
    def of(cls, folder: str) -> Listing:
        """Lists a folder; one that is missing or cannot be read is empty."""
        try:
            mtime_ns = os.stat(folder or ".").st_mtime_ns
            with os.scandir(folder or ".") as entries:
                files, folders = [], []
                for entry in entries:
                    if _is_file(entry):
                        files.append(entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
        except (OSError, ValueError):  # e.g. a null character in the name
            return cls()
        return cls(frozenset(files), tuple(sorted(folders)), mtime_ns)

    @cached_property
    def alike(self) -> frozenset[str]:
        """The names of files, blind to case and to how accents are composed."""
        return frozenset(map(_alike, self.files))


def _nothing(path: Path) -> bool:
    return False


def list_images(folder: Path, also: Callable[[Path], bool] = _nothing) -> list[Path]:
    """All image files in `folder` and below, sorted by name.

    Args:
        folder: where to look.
        also: which other files are wanted.
    """
    return list(Folders().images(folder, also))


class Folders:
    """Which files exist, learned by listing each folder once.

    Asking for each of a million files takes minutes on a network disk; listing takes seconds.

    Attributes:
        listed: {folder: what it held}, all that answers so far depend on.
    """

    def __init__(self) -> None:
        self.listed: dict[str, Listing] = {}

    def listing(self, folder: str | Path) -> Listing:
        """What a folder holds; the same answer whenever it is asked for."""
        folder = os.fspath(folder)
        found = self.listed.get(folder)
        if found is None:
            found = self.listed[folder] = Listing.of(folder)
        return found

    def exists(self, folder: str | Path) -> bool:
        """Whether there is such a folder; it is not listed for that."""
        if os.path.isdir(folder):
            return True
        self.listed[os.fspath(folder)] = Listing()
        return False

    def is_file(self, path: str | Path) -> bool:
        """Whether there is such a file, as `os.path.isfile`."""
        folder, name = os.path.split(path)
        listing = self.listing(folder)
        if name in listing.files:
            return True
        # only a disk that is blind to case takes another spelling for the same file
        return bool(name) and _alike(name) in listing.alike and os.path.isfile(path)

    def images(self, folder: Path, also: Callable[[Path], bool] = _nothing) -> Iterator[Path]:
        """All image files in `folder` and below, sorted by name; hidden folders are left out.

        So is an array beside a picture of the same name: trainers keep decoded pictures that way.

        Args:
            folder, also: as in `list_images`.
        """
        listing = self.listing(folder)
        paths = map(Path, sorted(listing.files))
        names = [path.name for path in paths if is_image_file(path) or also(path)]
        arrays = {name for name in names if name.lower().endswith(".npy")}
        pictures = {Path(name).stem for name in names if name not in arrays} if arrays else set()
        for name in names:
            if name not in arrays or Path(name).stem not in pictures:
                yield folder / name
        for name in listing.folders:
            if not name.startswith("."):
                yield from self.images(folder / name, also)


class ImageFinder:
    """Looks for images in several places.

    Args:
        places: folders to look in, best first.
        folders: knows which files exist.
    """

    def __init__(self, places: Sequence[Path], folders: Folders | None = None) -> None:
        self.folders = folders or Folders()
        self.places = [p for p in dict.fromkeys(places) if self.folders.exists(p)]
        self._usual: Path | None = None

    @classmethod
    def around(
        cls,
        ann_file: str | Path,
        img_folder: str | Path | Sequence[Path] | None,
        folders: Folders | None = None,
    ) -> ImageFinder:
        """Looks in `img_folder`, or in the usual places around an annotation file."""
        if isinstance(img_folder, str | Path):
            return cls([Path(img_folder)], folders)
        if img_folder is not None:
            return cls(list(img_folder), folders)
        here = Path(ann_file).resolve().parent
        stem = Path(ann_file).stem.removeprefix("instances_")
        short = next((s for s in ("train", "val", "test") if s in stem.lower()), stem)
        roots = [here, here.parent] if here.name.lower().startswith("annotation") else [here]
        places = []
        for root in roots:
            for name in (stem, short):
                places += [root / "images" / name, root / name / "images", root / name]
            places += [root / "images", root / "JPEGImages", root]
        return cls(places, folders)

    def find(self, name: str) -> tuple[str, bool]:
        """The file called `name`, and whether its path had to be repaired.

        Tried in order: the name below each place; its last component below each place; the
        same name with another image ending. A file that cannot be found comes back as the first
        guess.
        """
        for place in self.places:
            path = _below(place, name)
            if self.folders.is_file(path):
                return path, False
        base = PureWindowsPath(name).name  # splits at / and \
        matches = self._by_name.get(base) or self._by_stem.get(Path(base).stem) or []
        if len(matches) == 1:
            return str(matches[0]), True
        return _below(self.places[0] if self.places else Path(), name), False

    def guess(self, name: str) -> str:
        """Where the file called `name` should be, if it is where the first one was found.

        Only the first one is looked for.
        """
        if self._usual is None:
            found = (p for p in self.places if os.path.isfile(_below(p, name)))
            self._usual = next(found, self.places[0] if self.places else Path())
        return _below(self._usual, name)

    @cached_property
    def _listing(self) -> list[Path]:
        return list(dict.fromkeys(p for place in self.places for p in self.folders.images(place)))

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        return _grouped(self._listing, lambda p: p.name)

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        return _grouped(self._listing, lambda p: p.stem)


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in a circle
        return False


def _below(place: Path, name: str) -> str:
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        return str(place / name)
    return os.path.join(place, name)  # ten times as fast


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _grouped(paths: list[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    groups: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[key(path)].append(path)
    return dict(groups)
