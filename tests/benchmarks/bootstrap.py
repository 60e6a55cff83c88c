"""How often the intervals of `detrkit compare` hold what many more images say.

    python -m tests.benchmarks.bootstrap [--images 50] [--parts 100] [--noise 0.3]

A generated data set is cut into parts. In each part AP of a detector, and its difference to the
same detector with noisier scores, get 95 % intervals: by percentiles of the draws, and mirrored at
the value. Printed is the share of parts in whose interval the number of the whole set lies.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np

from detrkit.metrics.bootstrap import bootstrap, difference_interval, draw, interval
from detrkit.metrics.coco import count
from detrkit.metrics.matching import match
from tests.metrics.made import scene
from tests.metrics.test_bootstrap import repeated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=50, help="per part")
    parser.add_argument("--parts", type=int, default=100)
    parser.add_argument("--noise", type=float, default=0.3, help="of the second's scores")
    args = parser.parse_args()
    truth, found = scene(5, images=args.images * args.parts, classes=3, boxes=4, detections=10)
    noise = np.random.default_rng(0).normal(0, args.noise, len(found))
    both = (found, replace(found, scores=found.scores + noise))
    whole = [count(truth, predictions)["AP"] for predictions in both]
    rows: dict[str, list[bool]] = {}
    for part in range(args.parts):
        times = np.repeat(np.arange(args.parts) == part, args.images).astype(int).tolist()
        weights = draw(args.images, samples=500, seed=part)
        values, draws = [], []
        for predictions in both:
            few, own = repeated(truth, predictions, times)
            values.append(count(few, own)["AP"])
            draws.append(bootstrap(match(few, own), weights).overall("AP"))
        difference = draws[0] - draws[1]
        for name, limits, expected in (
            ("AP, percentiles", difference_interval(draws[0]), whole[0]),
            ("AP, mirrored", interval(values[0], draws[0]), whole[0]),
            ("difference, percentiles", difference_interval(difference), whole[0] - whole[1]),
        ):
            assert limits is not None
            rows.setdefault(name, []).append(limits.low <= expected <= limits.high)
    for name, held in rows.items():
        sys.stdout.write(f"{name:26}{np.mean(held):.2f}\n")


if __name__ == "__main__":
    main()
