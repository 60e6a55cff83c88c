"""What a detector looks at, and why it answers as it does: numbers, and figures of them.

    import detrkit
    detector = detrkit.load("best.pth")
    maps = detrkit.explain.heatmap(detector, "photo.jpg", layers=["encoder"])
    maps.save("heat.pdf")

Each subject is a file: a dataclass of numbers, the function that computes it, its figure. The
functions below have the names of their files; they are imported here, at once, because a package
that imported them later would offer the file under the name, not the function.
"""

from __future__ import annotations

__all__: list[str] = []
