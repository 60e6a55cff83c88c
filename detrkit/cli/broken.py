"""Sources that a command could not read: told at the end, with exit code 4."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from detrkit.errors import DataError
from detrkit.files import write_bytes

#: Broken sources that are shown one by one; broken.txt has them all.
_SHOWN = 50


@dataclass
class BrokenSources:
    """What could not be read, and why.

    Attributes:
        faults: source and reason of each.
    """

    faults: list[tuple[Path | str, DataError]] = field(default_factory=list)

    def add(self, source: Path | str, error: DataError) -> None:
        """Notes a source that cannot be read, or not to its end."""
        self.faults.append((source, error))

    def entries(self) -> list[dict[str, str]]:
        """For `--json`."""
        return [{"image": str(source), "reason": e.message} for source, e in self.faults]

    def write(self, folder: Path | None) -> None:
        """Writes `broken.txt`, where there are any and there is a folder."""
        if self.faults and folder is not None:
            lines = "".join(f"{s}\t{' '.join(e.message.split())}\n" for s, e in self.faults)
            write_bytes(folder / "broken.txt", lines.encode("utf-8", "replace"))

    def raise_any(self, folder: Path | None, *, moving: bool = False) -> None:
        """Raises a DataError that lists them, if there are any.

        Args:
            folder: where `write` wrote; None where nothing was done.
            moving: whether there are videos or streams among them.
        """
        if not self.faults:
            return
        thing = "source" if moving else "image"
        number = len(self.faults)
        shown = [f"  {error.message}" for _, error in self.faults[:_SHOWN]]
        if number > _SHOWN:
            place = f": see {folder / 'broken.txt'}" if folder else ""
            shown.append(f"  and {number - _SHOWN} more{place}")
        some = f"{number} {thing}s" if number > 1 else f"1 {thing}"
        end = ", or not to the end" if moving else ""
        lines = "\n".join(shown)
        raise DataError(
            f"{some} could not be read{end}\n{lines}",
            hint="the others are done" if folder is not None else None,
        )
