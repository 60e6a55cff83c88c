"""Prometheus' text, as its description wants it."""

from __future__ import annotations

import re

from detrkit.serving.metrics import Counter, Gauge, Histogram, text_of

SAMPLE = re.compile(
    r'([a-z_]+)(\{[a-z]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z]+="(?:[^"\\\n]|\\[\\"n])*")*\})? '
    r"(-?[0-9.e+-]+)"
)


def samples(text: str) -> dict[str, float]:
    """Name with labels -> value; fails on lines of another form."""
    found = {}
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        found[match[1] + (match[2] or "")] = float(match[3])
    assert text.endswith("\n")
    return found


def test_text() -> None:
    counter = Counter("asked_total", "Questions.", ("path", "status"))
    counter.add("/a", "200")
    counter.add("/a", "200", amount=2)
    counter.add('/"\\\n', "404")
    assert text_of([counter, Gauge("depth", "Of the queue.", lambda: 2.5)]) == (
        "# HELP asked_total Questions.\n# TYPE asked_total counter\n"
        'asked_total{path="/\\"\\\\\\n",status="404"} 1\n'
        'asked_total{path="/a",status="200"} 3\n'
        "# HELP depth Of the queue.\n# TYPE depth gauge\ndepth 2.5\n"
    )
    assert samples(text_of([counter]))['asked_total{path="/a",status="200"}'] == 3


def test_histograms_count_up() -> None:
    histogram = Histogram("took_seconds", "Duration.", (0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)
    found = samples("".join(f"{line}\n" for line in histogram.lines()).replace("+Inf", "inf"))
    assert found == {
        'took_seconds_bucket{le="0.1"}': 2,
        'took_seconds_bucket{le="1"}': 3,
        'took_seconds_bucket{le="inf"}': 4,
        "took_seconds_sum": 7.65,
        "took_seconds_count": 4,
    }


def test_nothing_counted_yet() -> None:
    assert samples(text_of([Counter("a_total", "A."), Counter("b_total", "B.", ("c",))])) == {
        "a_total": 0
    }
