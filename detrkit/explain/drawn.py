"""What all results of `detrkit.explain` have in common: a figure, which can be saved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawn(ABC):
    """Numbers that have a figure."""

    @abstractmethod
    def figure(self, width: str | float = "page") -> Figure:
        """Draws them; a subclass may have more options.

        Args:
            width: "column", "page" or inches.
        """

    def save(self, path: str | Path, **options: Any) -> Path:
        """Writes the figure: .png, .svg or .pdf; options as for `figure`."""
        from detrkit.explain.figures.style import save

        return save(self.figure(**options), path)
