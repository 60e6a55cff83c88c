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

from detrkit.explain.assignments import assignments
from detrkit.explain.attention import attention
from detrkit.explain.distribution import distribution
from detrkit.explain.features import features
from detrkit.explain.graph import graph
from detrkit.explain.heatmap import heatmap
from detrkit.explain.over_activation import over_activation
from detrkit.explain.queries import queries
from detrkit.explain.receptive_field import receptive_field

__all__ = [
    "assignments",
    "attention",
    "distribution",
    "features",
    "graph",
    "heatmap",
    "over_activation",
    "queries",
    "receptive_field",
]
