"""The tables of `detrkit info`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from detrkit.cli.console import out
from detrkit.engine.model_report import GraphRow, Layer, ModelReport
from detrkit.words import amount, count, scaled

_DASH = "–"


def report_text(report: ModelReport) -> None:
    """The model as a whole, both counters of FLOPs, and parts that are lists of layers."""
    shape = " x ".join(map(str, report.inputs[0]))
    out.print(f"[bold]{escape(report.name)}[/], input {shape}\n")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    parts = ", ".join(f"{name} {scaled(n)}" for name, n in report.parts.items())
    table.add_row("parameters, training", scaled(report.parameters), parts)
    frozen = report.parameters - report.trainable
    table.add_row("parameters, trainable", scaled(report.trainable), f"{scaled(frozen)} frozen")
    table.add_row(
        "parameters, deployed", scaled(report.deployed), f"{report.deployed:,} of float32"
    )
    flops = report.flops
    if flops.calflops is None:
        table.add_row("FLOPs by calflops", _DASH, f"failed: {escape(flops.problem)}")
    else:
        table.add_row(
            "FLOPs by calflops", scaled(flops.calflops),
            f"{scaled(flops.macs or 0)} multiply-adds; the number that papers print",
        )  # fmt: skip
    kinds = ", ".join(f"{kind} {scaled(n)}" for kind, n in flops.torch_by_kind.items())
    table.add_row("FLOPs by torch", scaled(flops.torch), kinds)
    peak = report.layers[0].peak_bytes or 0
    table.add_row("activations, peak", amount(peak), "one image; most bytes alive at one time")
    if report.training is not None:
        saved = report.training
        known = saved.whole is not None
        table.add_row(
            "activations, training",
            amount(saved.whole or 0) if known else _DASH,
            _training(saved.boxes) if known else f"not known: {escape(saved.problem)}",
        )
    out.print(table)
    if flops.calflops is not None:
        out.print(
            f"\n[dim]Deployed model, 2 FLOPs per multiply-add. calflops does not see fused "
            f"attention (-{scaled(flops.unseen_attention)}) but counts activations, pooling,\n"
            f"interpolation and sums (+{scaled(flops.elementwise)}), which torch leaves out. "
            "Neither counts the sampling of deformable attention.[/]"
        )
    for part, rows in report.graphs.items():
        out.print(f"\n{part}")
        out.print(_graph_table(rows))


def _training(boxes: int) -> str:
    with_boxes = f" with {count(boxes, 'box')}" if boxes else ""
    return f"one image{with_boxes}; what the model saves for the backward pass, before losses"


def layer_table(report: ModelReport, rows: Sequence[Layer], *, tree: bool) -> None:
    """Layers, why the counters differ, and what the columns mean.

    Args:
        report: of the model.
        rows: layers of it.
        tree: whether they are nested; else a list.
    """
    out.print()
    out.print(_layers(report, rows, tree))
    out.print(f"\n[dim]{escape(' '.join(_meaning(report)))}[/]", soft_wrap=True)
    out.print()
    out.print(_kinds(report))


def _layers(report: ModelReport, rows: Sequence[Layer], tree: bool) -> Table:
    saves = report.training is not None and report.training.whole is not None
    timed = report.timing is not None
    table = Table(box=None, pad_edge=False)
    for title in ("layer (deployed)", "type", "output"):
        table.add_column(title)
    more = (["saved"] if saves else []) + (["ms", "%"] if timed else [])
    for title in ("parameters", "FLOPs", "%", "memory", "peak", *more):
        table.add_column(title, justify="right", no_wrap=True)
    flops = max(report.flops.torch, 1)
    whole = max(report.timing.whole, 1e-9) if report.timing is not None else 1.0
    for layer in rows:
        name = layer.name.rsplit(".", 1)[-1] if tree else layer.name
        cells = [
            "  " * layer.depth * tree + escape(name or report.name),
            layer.kind,
            _shapes(layer.output),
            scaled(layer.parameters) if layer.parameters else "",
            scaled(layer.flops) if layer.flops else "",
            f"{100 * layer.flops / flops:.1f}" if layer.flops else "",
            amount(layer.kept_bytes) if layer.kept_bytes else "",
            amount(layer.peak_bytes) if layer.peak_bytes else "",
        ]
        if saves:
            cells.append(amount(size) if (size := report.saved_by(layer)) else "")
        if timed:
            took = layer.milliseconds
            cells += ["", ""] if took is None else [f"{took:.2f}", f"{100 * took / whole:.1f}"]
        table.add_row(*cells)
    return table


def _shapes(output: Sequence[Sequence[int]]) -> str:
    shown = ["x".join(map(str, shape)) for shape in output[:3]]
    return ", ".join(shown) + (", …" if len(output) > 3 else "")


def _meaning(report: ModelReport) -> list[str]:
    """How the columns of layers are to be read."""
    lines = [
        "FLOPs by torch, in a layer and below it. Memory: new tensors that a layer leaves behind; "
        "peak: most activations alive at one time while it ran; batch 1, without weights, input "
        "and work space of kernels."
    ]
    timing = report.timing
    if timing is not None:
        threads = f", {count(timing.threads, 'thread')}" if timing.device == "cpu" else ""
        lines.append(
            f"Times: medians of {timing.passes} passes on {timing.device}{threads}, of the model "
            f"as `infer` runs it, so norms and activations may be part of their convolution. A "
            f"pass took {timing.plain:.1f} ms without clocks and {timing.clocked:.1f} ms with one "
            f"on each layer; {1000 * timing.clock:.1f} µs per call are taken off, and "
            f"{timing.whole:.1f} ms are 100 %."
        )
    if report.training is not None and report.training.whole is not None:
        lines.append(
            "Saved: what the layer of that name keeps for the backward pass, each tensor at the "
            "layer that keeps it first; layers that only train are part of the whole."
        )
    return lines


def _kinds(report: ModelReport) -> Table:
    """Both counters by class of layers."""
    table = Table(box=None, pad_edge=False)
    table.add_column("type of layer")
    for title in ("layers", "calflops", "torch", "difference"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("because")
    for kind in report.flops.kinds:
        difference = kind.difference
        table.add_row(
            kind.kind,
            str(kind.layers),
            _DASH if kind.calflops is None else scaled(kind.calflops),
            scaled(kind.torch),
            "" if not difference else f"{'+' if difference > 0 else '-'}{scaled(abs(difference))}",
            kind.reason,
        )
    return table


def _graph_table(rows: list[GraphRow]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("layer", "from", "repeats"):
        table.add_column(title, justify="right")
    for title in ("module", "arguments", "output"):
        table.add_column(title)
    for title in ("parameters", "FLOPs"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            str(row.index),
            ", ".join("image" if i < 0 else str(i) for i in row.sources),
            str(row.repeats),
            row.module,
            escape(", ".join(f"{name}={value}" for name, value in row.arguments.items())),
            "x".join(map(str, row.output)),
            scaled(row.parameters) if row.parameters else "",
            scaled(row.flops) if row.flops else "",
        )
    return table
