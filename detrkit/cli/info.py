"""`detrkit info`: what a model is made of and costs, or what a component is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from detrkit.cli.options import Device, JsonOut, Plugins, Updates

if TYPE_CHECKING:
    from detrkit.config import Config
    from detrkit.engine.inspect import Subject
    from detrkit.registry import Entry

# Typer reads annotations at run time, on Python 3.10 as well.
# ruff: noqa: UP045

#: Seconds that timing layers takes, unless five passes take longer.
_SECONDS = 3.0


def info(
    target: Annotated[
        str,
        typer.Argument(
            metavar="CFG|WEIGHTS|MODULE|DIR",
            help="A config or a name that `detrkit models` lists; a checkpoint; a component "
            "that `detrkit modules` lists; with --all a folder.",
        ),
    ],
    every: Annotated[
        bool,
        typer.Option("--all", help="Every config below a folder, by parameters, then by GFLOPs."),
    ] = False,
    config: Annotated[
        Optional[str],
        typer.Option("-c", "--config", metavar="CFG", help="For weights that carry no config."),
    ] = None,
    size: Annotated[
        Optional[str], typer.Option(metavar="HxW", help="Input size; the config's by default.")
    ] = None,
    layers: Annotated[
        bool,
        typer.Option("--layers", help="A table of the layers: parameters, FLOPs, memory, time."),
    ] = False,
    depth: Annotated[
        int, typer.Option(min=1, help="How deep the table of layers and the graph go.")
    ] = 2,
    sort: Annotated[
        Optional[str],
        typer.Option(
            "--sort",
            metavar="COLUMN",
            help="The layers as a list, largest first: time, flops, parameters, memory or saved.",
        ),
    ] = None,
    csv: Annotated[
        Optional[Path], typer.Option("--csv", metavar="FILE", help="Write the table of layers.")
    ] = None,
    timed: Annotated[
        bool, typer.Option("--time/--no-time", help="Whether the layers are timed.")
    ] = True,
    training: Annotated[
        bool,
        typer.Option("--training", help="Measure what layers save for the backward pass as well."),
    ] = False,
    graph: Annotated[
        Optional[list[Path]],
        typer.Option(
            "--graph",
            metavar="FILE",
            help="Draw the layers and the tensors between them: .svg, .pdf, .png; as text .mmd "
            "(Mermaid), .dot, .json; repeatable.",
        ),
    ] = None,
    device: Device = None,
    update: Updates = None,
    plugin: Plugins = None,
    json: JsonOut = False,
) -> None:
    """Parameters, FLOPs and layers of a model; arguments and paper of a component.

    `detrkit info --all configs/` compares all models of a folder.
    `detrkit info dfine_n_coco --layers --depth 3` says what its layers cost,
    `detrkit info dfine_n_coco --graph n.svg` draws how they are connected.
    """
    from detrkit.cli.console import err, out, print_json
    from detrkit.errors import UsageError
    from detrkit.registry import MODULES, load_plugin

    for file in plugin or ():
        load_plugin(file)
    wanted = layers or sort is not None or csv is not None or training
    if every:
        if config is not None or wanted or graph:
            raise UsageError("--all takes neither -c nor options of layers")
        _tell_all(target, size, update or (), json)
        return
    if sort is not None:
        _check_column(sort, timed, training)
    _check_files(graph or (), csv)
    answer: dict[str, Any] = {}
    entry = None
    if not Path(target).exists() and target in MODULES:
        entry = MODULES.get(target)
        answer["module"] = _component(entry, json)
        if not (wanted or graph):
            if json:
                print_json("info", answer)
            return
    subject = _subject(target, entry, config, size, device, update or ())
    if entry is None or wanted:
        from detrkit.cli.info_tables import layer_table, report_text
        from detrkit.engine.inspect import inspect

        seconds = _SECONDS if wanted and timed else 0.0
        report = inspect(subject, seconds=seconds, training=training)
        rows = None if not wanted else report.cut(depth, sort) if sort else report.rows(depth)
        answer["model" if entry is None else "cost"] = report.to_dict(rows)
        if csv is not None:
            from detrkit.files import write_bytes

            assert rows is not None
            write_bytes(csv, report.csv(rows).encode("utf-8"))
        if not json:
            if entry is None:
                report_text(report)
            if rows is not None:
                layer_table(report, rows, tree=sort is None)
    if graph:
        from detrkit.explain.graph import DrawnGraph

        found = DrawnGraph(subject.graph(depth))
        for file in graph:
            found.save(file)
        answer["graph"] = found.to_dict()
        if not json:
            out.print(
                f"\nlayers to depth {depth} in {', '.join(map(str, graph))}", soft_wrap=True,
                markup=False,
            )  # fmt: skip
    if csv is not None and not json:
        err.print(f"table in {csv}", markup=False, soft_wrap=True)
    if json:
        print_json("info", answer)


def _tell_all(folder: str, size: str | None, update: list[str] | tuple[()], json: bool) -> None:
    """A table of all models below a folder."""
    import logging

    from rich.markup import escape
    from rich.table import Table

    from detrkit import words
    from detrkit.cli.console import out, print_json, progress_bar
    from detrkit.engine.inspect_folder import inspect_folder
    from detrkit.errors import ConfigError

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


def _component(entry: Entry, json: bool) -> dict[str, Any]:
    from detrkit.cli.info_component import component, print_component

    described = component(entry)
    if not json:
        print_component(entry, described)
    return described


def _subject(
    target: str,
    entry: Entry | None,
    config: str | None,
    size: str | None,
    device: str | None,
    update: list[str] | tuple[()],
) -> Subject:
    from detrkit.config import load_config
    from detrkit.engine.inspect import Subject
    from detrkit.engine.parts import build_model
    from detrkit.engine.runtime import choose_device
    from detrkit.errors import UsageError

    place = choose_device(device or "cpu")
    if entry is not None:
        if entry.traits is None:
            raise UsageError(
                f"{entry.name} is no module of maps; alone it has no input to be run with",
                hint="name a config that has it: detrkit info dfine_n_coco --layers",
            )
        if size is not None or place.type != "cpu":
            raise UsageError("a component is measured on a map of 40x40, on the CPU")
        return Subject.of_component(entry)
    if Path(target).suffix in (".pth", ".pt", ".ckpt", ".safetensors"):
        from detrkit.engine.weights import open_detector

        loaded = open_detector(target, config)
        model = loaded.model.to(place)
        return Subject.of(model, _size(size) or loaded.image_spec.size, target)
    _check_name(target)
    cfg = load_config(target, update=update)
    return Subject.of(build_model(cfg).to(place), _size(size) or _size_of(cfg), cfg.name)


def _check_name(target: str) -> None:
    """Raises a ConfigError where a mere name is neither a config's nor a component's."""
    from detrkit.config import catalogue
    from detrkit.errors import ConfigError, did_you_mean
    from detrkit.registry import MODULES

    path = Path(target)
    if path.exists() or path.suffix in (".yml", ".yaml") or len(path.parts) > 1:
        return
    known = [name for entry in catalogue() for name in entry.names]
    if target not in known:
        near = did_you_mean(target, [*known, *MODULES.names()])
        raise ConfigError(
            f"no config and no component called `{target}`{near}",
            hint="`detrkit models` lists the configs, `detrkit modules` the components",
        )


def _size_of(cfg: Config) -> tuple[int, int]:
    h, w = cfg.run.eval_spatial_size or (640, 640)
    return int(h), int(w)


def _size(text: str | None) -> tuple[int, int] | None:
    """Unlike other commands, `info` takes sides that are no multiples of 32."""
    from detrkit.engine.derive import parse_sides

    return parse_sides(text, "--size") if text is not None else None


def _check_column(sort: str, timed: bool, training: bool) -> None:
    from detrkit.engine.model_report import SORTED_BY
    from detrkit.errors import UsageError, did_you_mean

    if sort not in SORTED_BY:
        raise UsageError(
            f"--sort {sort}: no such column{did_you_mean(sort, SORTED_BY)}",
            hint=f"there are: {', '.join(SORTED_BY)}",
        )
    if sort == "time" and not timed:
        raise UsageError("--sort time and --no-time exclude each other")
    if sort == "saved" and not training:
        raise UsageError("--sort saved needs --training, which measures that")


def _check_files(graphs: list[Path] | tuple[()], csv: Path | None) -> None:
    """Before the work: whether the files can be written, and what they are to be."""
    from detrkit.files import make_folder

    if graphs:
        from detrkit.explain.graph import check_ending
    for file in (*graphs, *([csv] if csv is not None else [])):
        if file in graphs:
            check_ending(file)
        make_folder(file.parent)
