"""`detrkit info`: what a model is made of and costs, or what a component is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import JsonOut, Plugins, Updates

if TYPE_CHECKING:
    from detrkit.config import Config
    from detrkit.engine.inspect import GraphRow, ModelReport
    from detrkit.registry import Entry

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


def info(
    target: Annotated[
        str,
        typer.Argument(
            metavar="CFG|WEIGHTS|MODULE|DIR",
            help="A config or a name that `detrkit models` lists; a checkpoint; a component "
            "that `detrkit modules` lists; with --all a folder.",
            show_default=False,
        ),
    ],
    every: Annotated[
        bool,
        typer.Option("--all", help="Every config below a folder, by parameters, then by GFLOPs."),
    ] = False,
    config: Annotated[
        Optional[str],
        typer.Option(
            "-c",
            "--config",
            metavar="CFG",
            help="For weights that carry no config.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        Optional[str],
        typer.Option(
            metavar="HxW", help="Input size; the config's by default.", show_default=False
        ),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="A table of the layers.")] = False,
    depth: Annotated[int, typer.Option(min=1, help="How deep the table of layers goes.")] = 2,
    update: Updates = None,
    plugin: Plugins = None,
    json: JsonOut = False,
) -> None:
    """Parameters, FLOPs and layers of a model; arguments and paper of a component.

    `detrkit info --all configs/` compares all models of a folder.
    """
    from pathlib import Path

    from detrkit.cli.console import print_json
    from detrkit.registry import MODULES, load_plugin

    for file in plugin or ():
        load_plugin(file)
    if every:
        _tell_all(target, size, update or (), config is not None or layers, json)
        return
    if not Path(target).exists() and target.isidentifier() and target in MODULES:
        entry = MODULES.get(target)
        if json:
            print_json("info", {"module": _component(entry)})
        else:
            _print_component(entry)
        return
    report = _inspect(target, config, size, update or ())
    if json:
        print_json("info", {"model": report.to_dict(depth if layers else None)})
    else:
        _print_report(report, depth if layers else None)


def _tell_all(
    folder: str, size: str | None, update: list[str] | tuple[()], more: bool, json: bool
) -> None:
    """A table of all models below a folder."""
    import logging
    from pathlib import Path

    from rich.markup import escape
    from rich.table import Table

    from detrkit import words
    from detrkit.cli.console import out, print_json, progress_bar
    from detrkit.engine.inspect_folder import inspect_folder
    from detrkit.errors import ConfigError, UsageError

    if more:
        raise UsageError("--all takes neither -c nor --layers")
    with progress_bar("counting", quiet=json) as progress:
        found = inspect_folder(Path(folder).expanduser(), _size(size), update, progress)
    for name, problem in found.problems.items():
        logging.getLogger("detrkit").warning("%s is left out: %s", name, problem)
    if not found.models:
        raise ConfigError(f"no config below {folder} describes a model that can be built")
    if json:
        models = [model.to_dict() for model in found.models]
        print_json("info", {"models": models, "problems": found.problems, "parts": found.parts})
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("config")
    table.add_column("input")
    for title in ("M params", "in training", "GFLOPs", "by torch"):
        table.add_column(title, justify="right")
    for model in found.models:
        flops = model.flops
        table.add_row(
            escape(model.name), "x".join(map(str, model.size)), f"{model.deployed / 1e6:.2f}",
            f"{model.parameters / 1e6:.2f}",
            "–" if flops.calflops is None else f"{flops.calflops / 1e9:.2f}",
            f"{flops.torch / 1e9:.2f}",
        )  # fmt: skip
    out.print(table)
    out.print(
        f"\n[dim]{words.count(len(found.models), 'model')}, deployed; GFLOPs of one image by "
        f"calflops, which papers print. {words.count(len(found.parts), 'file')} without a model "
        "of their own.[/]"
    )


def _inspect(
    target: str, config: str | None, size: str | None, update: list[str] | tuple[()]
) -> ModelReport:
    from pathlib import Path

    from detrkit.config import load_config
    from detrkit.engine.inspect import inspect_model
    from detrkit.engine.parts import build_model

    if Path(target).suffix in (".pth", ".pt", ".ckpt", ".safetensors"):
        from detrkit.engine.weights import open_detector

        loaded = open_detector(target, config)
        return inspect_model(loaded.model, _size(size) or loaded.image_spec.size, target)
    cfg = load_config(target, update=update)
    return inspect_model(build_model(cfg), _size(size) or _size_of(cfg), cfg.name)


def _size_of(cfg: Config) -> tuple[int, int]:
    h, w = cfg.run.eval_spatial_size or (640, 640)
    return int(h), int(w)


def _size(text: str | None) -> tuple[int, int] | None:
    """`640` or `480x640` (h x w)."""
    from detrkit.errors import UsageError

    if text is None:
        return None
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--size {text}: expected one number or HEIGHTxWIDTH, e.g. 480x640")
    return int(parts[0]), int(parts[-1])


def _print_report(report: ModelReport, depth: int | None) -> None:
    from rich.table import Table

    from detrkit.cli.console import out

    h, w = report.size
    out.print(f"[bold]{report.name}[/], input 1 x {report.in_channels} x {h} x {w}\n")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    parts = ", ".join(f"{name} {_count(n)}" for name, n in report.parts.items())
    table.add_row("parameters, training", _count(report.parameters), parts)
    frozen = report.parameters - report.trainable
    table.add_row("parameters, trainable", _count(report.trainable), f"{_count(frozen)} frozen")
    table.add_row(
        "parameters, deployed", _count(report.deployed), f"{report.deployed:,} of float32"
    )
    flops = report.flops
    if flops.calflops is None:
        table.add_row("FLOPs by calflops", "–", f"failed: {flops.problem}")
    else:
        table.add_row(
            "FLOPs by calflops", _count(flops.calflops),
            f"{_count(flops.macs or 0)} multiply-adds; the number that papers print",
        )  # fmt: skip
    kinds = ", ".join(f"{kind} {_count(n)}" for kind, n in flops.torch_by_kind.items())
    table.add_row("FLOPs by torch", _count(flops.torch), kinds)
    out.print(table)
    if flops.calflops is not None:
        out.print(
            f"\n[dim]Deployed model, 2 FLOPs per multiply-add. calflops does not see fused "
            f"attention (-{_count(flops.unseen_attention)}) but counts activations, pooling,\n"
            f"interpolation and sums (+{_count(flops.elementwise)}), which torch leaves out. "
            "Neither counts the sampling of deformable attention.[/]"
        )
    for part, rows in report.graphs.items():
        out.print(f"\n{part}")
        out.print(_graph_table(rows))
    if depth is not None:
        out.print()
        out.print(_layer_table(report, depth))


def _graph_table(rows: list[GraphRow]) -> object:
    from rich.markup import escape
    from rich.table import Table

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
            _count(row.parameters) if row.parameters else "",
            _count(row.flops) if row.flops else "",
        )
    return table


def _layer_table(report: ModelReport, depth: int) -> object:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("layer (deployed)")
    table.add_column("type")
    table.add_column("output")
    for title in ("parameters", "FLOPs", "%"):
        table.add_column(title, justify="right")
    total = max(report.flops.torch, 1)
    for layer in report.layers:
        if layer.depth > depth:
            continue
        name = layer.name.rsplit(".", 1)[-1] or report.name
        shown = ["x".join(map(str, shape)) for shape in layer.output[:3]]
        table.add_row(
            "  " * layer.depth + name,
            layer.kind,
            ", ".join(shown) + (", …" if len(layer.output) > 3 else ""),
            _count(layer.parameters) if layer.parameters else "",
            _count(layer.flops) if layer.flops else "",
            f"{100 * layer.flops / total:.1f}" if layer.flops else "",
        )
    return table


def _count(number: int) -> str:
    """3782693 -> "3.78 M"."""
    for unit, name in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.2f} {name}"
    return str(number)


def _component(entry: Entry) -> dict[str, Any]:
    import inspect
    from dataclasses import asdict

    from detrkit.engine.module_catalogue import facts, measure

    empty = inspect.Parameter.empty
    return {
        "name": entry.name,
        "family": entry.family,
        "arguments": {
            name: {
                "type": _type_of(p.annotation),
                "required": p.default is empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL),
                "default": None if p.default is empty else p.default,
                "from": "component" if name in entry.inject
                else "top-level key" if name in entry.share
                else "module of maps" if name in entry.parts else "section",
            }
            for name, p in entry.parameters.items()
        },
        "paper": entry.paper,
        "venue": entry.venue,
        "traits": facts(entry) if entry.traits is not None else None,
        "cost": asdict(measure(entry)) if entry.traits is not None else None,
        "example": dict(entry.example) if entry.example else None,
        "where": entry.where,
        "documentation": inspect.getdoc(entry.factory) or "",
    }  # fmt: skip


def _type_of(annotation: object) -> str | None:
    import inspect

    if annotation is inspect.Parameter.empty:
        return None
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _print_component(entry: Entry) -> None:
    from rich.markup import escape
    from rich.table import Table

    from detrkit.cli.console import out

    description = _component(entry)
    out.print(f"[bold]{entry.name}[/], {entry.family}" + (f", {entry.paper}" * bool(entry.paper)))
    out.print(f"[dim]{escape(entry.where)}[/]\n", soft_wrap=True)
    if description["documentation"]:
        out.print(escape(str(description["documentation"])) + "\n")
    table = Table(box=None, pad_edge=False)
    for title in ("argument", "default", "type", "set by"):
        table.add_column(title)
    for name, argument in description["arguments"].items():
        default = "required" if argument["required"] else repr(argument["default"])
        where = argument["from"] if argument["from"] != "section" else ""
        table.add_row(name, escape(default), escape(str(argument["type"] or "")), where)
    out.print(table)
    if entry.example:
        out.print(f"\nexample: {escape(str(dict(entry.example)))}")
    if entry.traits is not None:
        _print_module_of_maps(description["traits"], description["cost"])


def _print_module_of_maps(traits: dict[str, Any], cost: dict[str, Any]) -> None:
    """What it asks of its input and of tools, and what it costs."""
    from rich.markup import escape

    from detrkit.cli.console import out

    sizes = (
        "any size" if traits["any_size"] else f"height and width multiples of {traits['multiple']}"
    )
    if traits["smallest"] > 1:
        sizes += f", at least {traits['smallest']}"
    lines = {
        "input": sizes,
        "ONNX": "yes" if traits["onnx"] else f"no: {traits['onnx_reason']}",
        "mixed precision": f"in float32: {traits['float32']}" if traits["float32"] else "yes",
        "parameters": f"{cost['parameters']:,}, deployed {cost['deployed']:,}",
        "FLOPs": _count(cost["flops"]),
        "CPU": f"{cost['milliseconds']:.2f} ms on {cost['threads']} threads",
        "memory": f"{cost['peak_bytes'] / 1e6:.2f} MB at its peak, training keeps "
        f"{cost['kept_bytes'] / 1e6:.2f} MB",
        "measured with": f"{cost['arguments']} on 40x40 -> {cost['output']}",
    }
    out.print()
    for name, text in lines.items():
        out.print(f"{name:<16}{escape(text)}", soft_wrap=True)
