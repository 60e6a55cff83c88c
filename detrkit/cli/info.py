"""`detrkit info`: what a model is made of and costs, or what a component is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

from detrkit.cli.options import JsonOut, Plugins, Updates

if TYPE_CHECKING:
    from detrkit.config import Config
    from detrkit.engine.inspect import ModelReport
    from detrkit.registry import Entry

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045


def info(
    target: Annotated[
        str,
        typer.Argument(
            metavar="CFG|WEIGHTS|MODULE",
            help="A config or a name that `detrkit models` lists; a checkpoint; or a component "
            "that `detrkit modules` lists.",
            show_default=False,
        ),
    ],
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
    """Parameters, FLOPs and layers of a model; arguments and paper of a component."""
    from pathlib import Path

    from detrkit.cli.console import print_json
    from detrkit.registry import MODULES, load_plugin

    for file in plugin or ():
        load_plugin(file)
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
    if depth is not None:
        out.print()
        out.print(_layer_table(report, depth))


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


def _component(entry: Entry) -> dict[str, object]:
    import inspect

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
                else "top-level key" if name in entry.share else "section",
            }
            for name, p in entry.parameters.items()
        },
        "paper": entry.paper,
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
    arguments = description["arguments"]
    assert isinstance(arguments, dict)
    for name, argument in arguments.items():
        default = "required" if argument["required"] else repr(argument["default"])
        where = argument["from"] if argument["from"] != "section" else ""
        table.add_row(name, escape(default), escape(str(argument["type"] or "")), where)
    out.print(table)
    if entry.example:
        out.print(f"\nexample: {escape(str(dict(entry.example)))}")
