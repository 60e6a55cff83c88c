"""What `detrkit benchmark` prints, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from detrkit.engine.benchmarking import BatchTimes, Benchmark, Breakdown, Measured, shares
from detrkit.words import amount, count

_NOTHING = "–"


@dataclass(frozen=True)
class _Rows:
    """A table before it is drawn: the first column and those of `words` are text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[int] = ()

    def drawn(self) -> Table:
        """For a terminal."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for number, name in enumerate(self.head):
            text = not number or number in self.words
            table.add_column(name, justify="left" if text else "right", no_wrap=not text)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def markdown(self) -> str:
        """For a page."""
        text = (0, *self.words)
        rule = ["---" if number in text else "--:" for number in range(len(self.head))]
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in [self.head, rule, *escaped])


def tables(found: Benchmark) -> Iterator[Any]:
    """One row per detector, one per detector and batch size, what it means, where it ran."""
    yield _overview(found).drawn()
    yield _times(found).drawn()
    for each in found.candidates:
        if each.breakdown is not None:
            for title, rows in _breakdown(each, each.breakdown):
                yield Text(title, style="bold")
                yield rows.drawn()
    yield Text("\n".join([*_remarks(found), *_setting(found)]), style="dim")


def markdown_text(found: Benchmark) -> str:
    """All of it as a page of Markdown."""
    remarks = [f"- {text}" for text in [*_remarks(found), *_setting(found)]]
    warnings = [f"- **warning:** {text}" for text in found.warnings]
    blocks = [_overview(found).markdown(), _times(found).markdown()]
    for each in found.candidates:
        if each.breakdown is not None:
            for title, rows in _breakdown(each, each.breakdown):
                blocks += [f"**{title}**", rows.markdown()]
    blocks.append("\n".join(remarks + warnings))
    return "\n\n".join(blocks) + "\n"


def _overview(found: Benchmark) -> _Rows:
    """The table of the field: AP, size, cost, latency of the smallest batch."""
    smallest = found.batches[0]
    head = [
        "detector", "runtime", "precision", "input", "AP", "M params", "GFLOPs",
        f"ms, batch {smallest}", "FPS", "open", "first call", "file",
    ]  # fmt: skip
    rows = []
    for each in found.candidates:
        times = each.at(smallest)
        rows.append(
            [
                each.name,
                each.runtime,
                each.precision,
                "x".join(map(str, each.size)),
                _number(each.ap, 3),
                _number(None if each.parameters is None else each.parameters / 1e6, 1),
                _number(each.gflops, 1),
                _number(None if times is None else times.p50, 2),
                _number(None if times is None else 1000 * smallest / times.p50, 1),
                f"{each.start['open']:.2f} s",
                f"{each.start['first']:.2f} s",
                amount(each.file_bytes) if each.file_bytes else _NOTHING,
            ]
        )
    return _Rows(head, rows)


def _times(found: Benchmark) -> _Rows:
    head = [
        "detector", "batch", "calls", "p50 ms", "p90 ms", "p99 ms", "images/s",
        f"to {found.candidates[0].name}", "95 %", "", "peak memory",
    ]  # fmt: skip
    rows = []
    for batch in found.batches:
        for each in found.candidates:
            times = each.at(batch)
            if times is None:
                cells = [_NOTHING] * 9
                cells[-2] = each.left_out.get(batch, "")
                rows.append([each.name, str(batch), *cells])
            else:
                rows.append([each.name, str(batch), *_cells(each, times)])
    return _Rows(head, rows)


def _cells(each: Measured, times: BatchTimes) -> list[str]:
    ratio = next((r for r in each.ratios if r.batch == times.batch), None)
    compared = ["", "", ""]
    if ratio is not None:
        compared = [f"{ratio.value:.2f} x", f"{ratio.low:.2f}–{ratio.high:.2f}", ratio.verdict]
    return [
        str(times.calls),
        f"{times.p50:.2f}",
        f"{times.p90:.2f}",
        f"{times.p99:.2f}",
        f"{times.images_per_second:.1f}",
        *compared,
        amount(times.peak_bytes) if times.peak_bytes else _NOTHING,
    ]


def _breakdown(each: Measured, parts: Breakdown) -> Iterator[tuple[str, _Rows]]:
    """Where the time of a candidate goes: by layer, and by kind of operation."""
    images = count(parts.batch, "image")
    for name, about, rows in (
        ("layer", "type", parts.layers),
        ("operations", "most time in", parts.operations),
    ):
        if rows:
            cells = [
                [
                    row.name,
                    f"{row.milliseconds:.2f}",
                    f"{100 * share:.1f}",
                    f"{row.calls:g}" * (row.calls > 0),
                    row.about,
                ]
                for row, share in zip(rows, shares(rows), strict=True)
            ]
            yield (
                f"{each.name}: where the time goes, {images} per call",
                _Rows([name, "ms", "%", "calls", about], cells, words=(4,)),
            )


def _remarks(found: Benchmark) -> list[str]:
    """How to read the numbers."""
    lines = [found.meaning]
    moved = {each.transfer for each in found.candidates} - {"none"}
    for transfer in sorted(moved):
        names = ", ".join(each.name for each in found.candidates if each.transfer == transfer)
        lines.append(f"Data transfer in the times of {names}: {transfer}.")
    lines.append(
        f"Ratios: times as fast as {found.candidates[0].name}, of medians over "
        f"{count(found.rounds, 'turn')} each; p99 of fewer than 100 calls is the slowest."
    )
    if any(each.device.startswith("cuda") for each in found.candidates):
        lines.append("Peak memory on a GPU is what PyTorch holds there, else that of the process.")
    else:
        lines.append("Peak memory is that of the process, Python and the libraries included.")
    lines.append(
        "Opening and the first call are of one start each; PyTorch is loaded before, other "
        "libraries within."
    )
    if found.data is not None:
        lines.append(f"AP on {found.data}.")
    for each in found.candidates:
        if each.breakdown is not None:
            lines += [f"{each.name}: {text}" for text in each.breakdown.how]
    lines += [f"{each.name}: {note}" for each in found.candidates for note in each.notes]
    return lines


def _setting(found: Benchmark) -> list[str]:
    where = found.setting
    threads = found.candidates[0].threads
    parts = [str(where["cpu"]), f"{count(where['cores'], 'core')}, {count(threads, 'thread')}"]
    if where["mhz"]:
        parts.append(f"{min(where['mhz']):.0f} to {max(where['mhz']):.0f} MHz")
    parts.append(f"governor {where['governor'] or 'not known'}")
    if where["load"] is not None:
        parts.append(f"load {where['load']:.1f} before")
    lines = ["; ".join(parts)]
    for gpu in where["gpus"]:
        lines.append("; ".join(f"{name} {value}" for name, value in gpu.items()))
    versions = {"python": where["python"], **where["versions"]}
    lines.append(", ".join(f"{name} {version}" for name, version in versions.items()))
    return lines


def _number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{value:.{digits}f}"
