"""What a command of `detrkit explain` does with its pictures, but for the explaining."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrkit.cli.broken import BrokenSources
from detrkit.cli.console import err, print_json, progress_bar, say_result
from detrkit.cli.explain_options import DetectorOptions, FigureOptions
from detrkit.engine.saving.record import Names
from detrkit.engine.sources import expand
from detrkit.words import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from detrkit.explain.opened import Opened
    from detrkit.explain.reply import NoSuchDetection


class Work:
    """Pictures in, figures and numbers out, and a line about each.

    Args:
        subject: name of the command.
        options: of the detector, which is opened.
        figures: how they look and where they go; `json` prints one object at the end, nothing else.

    Attributes:
        detector: whose answers are explained.
        inches: width of the figures.
        folder: where they are; None before the first.

    Raises:
        DetrkitError: the width is none, or the detector cannot be opened.
    """

    def __init__(self, subject: str, options: DetectorOptions, figures: FigureOptions) -> None:
        self.subject = subject
        self.figures = figures
        self.json = figures.json
        self.inches = figures.inches
        self.weights = options.weights
        self.detector = options.open()
        self.entries: list[dict[str, Any]] = []
        self.folder: Path | None = None
        self._broken = BrokenSources()
        self._names = Names()
        self._missing: NoSuchDetection | None = None

    def pictures(self, sources: Sequence[str]) -> Iterator[Opened]:
        """The pictures that can be read, with a bar where someone looks.

        Raises:
            DataError: a source is not there.
        """
        from detrkit.explain.opened import open_pictures

        items = list(expand(sources))
        opened = open_pictures(self.detector, items, self._broken.add)
        with progress_bar("explaining", quiet=self.json) as advance:
            for number, image in enumerate(opened, 1):
                yield image
                if advance is not None:
                    advance(number, len(items))

    def place(self) -> Path:
        """The folder, made when there is something to write."""
        if self.folder is None:
            self.folder = self.figures.folder(self.subject)
        return self.folder

    def write(
        self,
        image: Opened,
        figures: Mapping[str, Figure],
        numbers: Callable[[Path], object],
        entry: Mapping[str, Any],
        line: str,
    ) -> None:
        """Writes what came of a picture and tells about it.

        Args:
            image: the picture.
            figures: endings of names ("", "-channels") and figures.
            numbers: writes the `.npz` at a path.
            entry: for `--json`.
            line: for the terminal.
        """
        folder, name = self.place(), self._names.unused(image.name)
        files = [
            path
            for ending, figure in figures.items()
            for path in self.figures.save(figure, folder, name + ending)
        ]
        numbers(folder / f"{name}.npz")
        self.tell(image, {**entry, "figures": files, "numbers": folder / f"{name}.npz"}, line)

    def tell(self, image: Opened, entry: Mapping[str, Any], line: str) -> None:
        """Notes a picture and prints a line about it."""
        self.entries.append(dict(entry))
        if not self.json:
            say_result(f"{image.path}  {line}")

    def pass_over(self, image: Opened, entry: Mapping[str, Any], missing: NoSuchDetection) -> None:
        """Notes a picture that has not the detection that is asked for."""
        self._missing = missing
        self.tell(image, entry, missing.message)

    def end(self, **more: Any) -> None:
        """The line about all of it, or the JSON object.

        Raises:
            DataError: some sources could not be read.
            NoSuchDetection: no picture has the detection that is asked for.
        """
        if self._missing is not None and self.folder is None:
            raise self._missing
        self._broken.write(self.folder)
        if self.json:
            print_json(
                self.subject,
                {
                    "output": self.folder,
                    "weights": self.weights,
                    **more,
                    "images": self.entries,
                    "broken": self._broken.entries(),
                },
            )
        elif self.folder is not None:
            done = f"{count(len(self.entries), 'image')}; " if self.entries else ""
            err.print(
                f"{done}figures and numbers in {self.folder}",
                markup=False, soft_wrap=True,
            )  # fmt: skip
        self._broken.raise_any(self.folder)
