"""What an index was made from, and whether that is still as it was.

Three kinds of stamps, cheapest question first:

    file      size and time of change; if only the time differs, its content
    names     of a folder: time of change; if that differs, the names in it
    contents  of a folder: names, sizes and times of change of all files in it

A time says nothing when it is about as late as the reading: a file written twice within one tick
of the disk's clock keeps its time. Such a stamp is not settled and its time is not believed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from detrkit.data.files import Folders, Listing

#: Disks note times in steps of up to two seconds (FAT).
_TICK_NS = 2_000_000_000

_BLOCK = 4 << 20


@dataclass(frozen=True)
class Stamp:
    """A file or folder as it was.

    Attributes:
        path: where it is.
        kind: what of it counts.
        mtime_ns: when it was changed; 0 if there was none.
        size: bytes of a file; 0 for folders.
        digest: of what counts.
        settled: whether the time can be believed.
    """

    path: str
    kind: Literal["file", "names", "contents"]
    mtime_ns: int
    size: int
    digest: str
    settled: bool

    def renewed(self) -> Stamp | None:
        """The stamp as of now, or None if what counts is not as it was."""
        started = time.time_ns()
        try:
            if self.kind == "contents":
                same = self.settled and contents_digest(self.path) == (self.digest, self.mtime_ns)
                return self if same else None
            if self.kind == "names":
                return self._renewed_names(started)
            return self._renewed_file(started)
        except OSError:
            return None

    def _renewed_file(self, started: int) -> Stamp | None:
        status = os.stat(self.path)
        if status.st_size != self.size:
            return None
        if status.st_mtime_ns == self.mtime_ns and self.settled:
            return self
        if file_digest(self.path) != self.digest:
            return None
        return self._at(status.st_mtime_ns, started)

    def _renewed_names(self, started: int) -> Stamp | None:
        try:
            mtime_ns = os.stat(self.path or ".").st_mtime_ns
        except OSError:
            mtime_ns = 0
        if mtime_ns == self.mtime_ns and (self.settled or not mtime_ns):
            return self
        if names_digest(Listing.of(self.path)) != self.digest:
            return None
        return self._at(mtime_ns, started)

    def _at(self, mtime_ns: int, started: int) -> Stamp:
        return replace(self, mtime_ns=mtime_ns, settled=mtime_ns < started - _TICK_NS)


class Sources:
    """Collects what an index is being made from.

    Args:
        contents: whether the files in the folders count, and not only their names.

    Attributes:
        folders: tells which files exist; whatever is asked of it counts.
    """

    def __init__(self, contents: bool = False) -> None:
        self.folders = Folders()
        self._contents = contents
        self._files: dict[str, os.stat_result] = {}
        self._started = time.time_ns()

    def add_file(self, path: str | Path) -> None:
        """Says that a file is about to be read; one that is missing is the reader's affair."""
        try:
            self._files[os.fspath(path)] = os.stat(path)
        except OSError:
            return

    def stamps(self) -> list[Stamp] | None:
        """What was used, as it was then; None if something has changed in the meantime."""
        stamps = []
        try:
            for path, before in self._files.items():
                stamps.append(self._file_stamp(path, before))
            for path, listing in self.folders.listed.items():
                stamps.append(self._folder_stamp(path, listing))
        except (OSError, _Changed):
            return None
        return stamps

    def _file_stamp(self, path: str, before: os.stat_result) -> Stamp:
        digest = file_digest(path)
        now = os.stat(path)
        if (now.st_mtime_ns, now.st_size) != (before.st_mtime_ns, before.st_size):
            raise _Changed
        settled = now.st_mtime_ns < self._started - _TICK_NS
        return Stamp(path, "file", now.st_mtime_ns, now.st_size, digest, settled)

    def _folder_stamp(self, path: str, listing: Listing) -> Stamp:
        if self._contents and listing.mtime_ns is not None:
            if Listing.of(path).files != listing.files:
                raise _Changed
            digest, latest = contents_digest(path)
            return Stamp(path, "contents", latest, 0, digest, latest < self._started - _TICK_NS)
        mtime_ns = listing.mtime_ns or 0
        settled = mtime_ns < self._started - _TICK_NS
        return Stamp(path, "names", mtime_ns, 0, names_digest(listing), settled)


class _Changed(Exception):
    """A file was written to while it was read."""


def unchanged(stamps: Sequence[Stamp]) -> list[Stamp] | None:
    """The stamps as of now, or None if one of them does not hold any more."""
    renewed = []
    for stamp in stamps:
        now = stamp.renewed()
        if now is None:
            return None
        renewed.append(now)
    return renewed


def file_digest(path: str | Path) -> str:
    """Of the content; about a gigabyte per second."""
    digest = hashlib.blake2b(digest_size=20)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def names_digest(listing: Listing) -> str:
    """Of the names in a folder."""
    return _digest([*sorted(listing.files), "/", *listing.folders])


def contents_digest(folder: str | Path) -> tuple[str, int]:
    """Of names, sizes and times of the files in a folder, and the latest of the times."""
    lines, latest = [], os.stat(folder or ".").st_mtime_ns
    with os.scandir(folder or ".") as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                lines.append(f"{entry.name}/")
                continue
            try:
                status = entry.stat()
            except OSError:  # a link to nowhere
                continue
            latest = max(latest, status.st_mtime_ns)
            lines.append(f"{entry.name}/{status.st_size}/{status.st_mtime_ns}")
    return _digest(sorted(lines)), latest


def _digest(lines: Iterable[str]) -> str:
    text = "\0".join(lines)
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()
