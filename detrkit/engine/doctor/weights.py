"""What would be loaded from weights, found from names and shapes alone: no model is built."""

from __future__ import annotations

import torch
from torch import nn

from detrkit.config import Config
from detrkit.engine.class_matching import read_class_map
from detrkit.engine.doctor.report import Check, Section, Status, guarded, note, ok, warning
from detrkit.engine.download import place_of
from detrkit.engine.load_report import LoadReport, some
from detrkit.engine.overheard import overheard
from detrkit.engine.parts import build_model, is_shared_name, pretrained_source
from detrkit.engine.weights import changed_queries, match_weights, read_checkpoint
from detrkit.errors import WeightsError
from detrkit.structures import ClassMap
from detrkit.words import count

#: Below this share of loaded tensors the weights are hardly those of the model.
HARDLY = 0.5


def examine_weights(cfg: Config, class_map: ClassMap | None) -> Section | None:
    """What the run would start from; None where it starts from random weights by intent.

    Args:
        cfg: the configuration; `tuning` names weights.
        class_map: of the data; None: not known, heads are compared by their number of rows.
    """
    section = Section("weights")
    if class_map is not None:
        cfg = cfg.with_values({"num_classes": len(class_map)}, origin="data set")

    def look() -> list[Check]:
        with torch.device("meta"):  # names and shapes, no numbers
            model = build_model(cfg)
        return _tuning(model, cfg, class_map) if cfg.run.tuning else _backbone(model)

    with overheard() as said:
        section.checks += guarded("weights", look)
    section.checks += [warning("weights.said", line) for line in said]
    return section if section.checks else None


def _tuning(model: nn.Module, cfg: Config, class_map: ClassMap | None) -> list[Check]:
    source = str(cfg.run.tuning)
    checkpoint = read_checkpoint(source)
    given = cfg.run.tuning_class_map
    report = match_weights(
        model.state_dict(),
        checkpoint.weights,
        class_map=class_map,
        source_classes=checkpoint.class_map,
        class_pairs=read_class_map(given) if given else None,
        source=source,
    ).report
    report.num_queries = changed_queries(checkpoint, cfg)
    checks = [_loaded(report)]
    if report.by_class:
        checks.append(_heads(report))
    own = cfg.run.eval_spatial_size
    spec = checkpoint.image_spec
    if spec is not None and own is not None and tuple(spec.size) != tuple(own):
        checks.append(
            note(
                "weights.size",
                f"they were trained at {spec.size[0]}x{spec.size[1]}, the run trains at "
                f"{own[0]}x{own[1]}",
                f"--size {spec.size[0]}x{spec.size[1]} starts better, if the objects are as large",
                values={"theirs": list(spec.size), "ours": list(own)},
            )
        )
    return checks


def _loaded(report: LoadReport) -> Check:
    loaded = len(report.copied)
    lines = report.describe(4).splitlines()
    values = report.to_dict()
    if not loaded or loaded < HARDLY * report.total:
        return Check(
            "weights.tensors",
            Status.PROBLEM,
            f"{loaded} of {report.total} tensors of the model are in {report.source}: "
            "they are those of another model or size",
            f"`detrkit weights inspect {report.source}` says which",
            details=tuple(lines[1:]),
            values=values,
            exit_code=WeightsError.exit_code,
        )
    others = len(report.missing) + len(report.mismatched)
    return Check(
        "weights.tensors",
        Status.WARNING if others else Status.OK,
        lines[0] + (f"; {others} keep their random values" if others else ""),
        "is it another size or variant of the model?" if others else "",
        details=tuple(line for line in lines[1:] if "class" not in line.split(":")[0]),
        values=values,
    )


def _heads(report: LoadReport) -> Check:
    matched, new = report.matched_classes, report.new_classes
    pairs = [mine if mine == their else f"{mine} (from {their})" for mine, their in matched.items()]
    values = {"matched": matched, "new": new}
    total = len(matched) + len(new)
    if not matched:
        return note(
            "weights.classes",
            f"none of {count(total, 'class')} is one of theirs: the class heads start from random",
            "normal for classes of your own; --class-map FILE says which are alike",
            values=values,
        )
    text = f"class heads: {some(pairs, 6)} by name"
    if new:
        return note("weights.classes", f"{text}; from random: {some(new, 6)}", values=values)
    return ok("weights.classes", text, values=values)


def _backbone(model: nn.Module) -> list[Check]:
    """Pretrained weights of the backbone: here already, or to be downloaded."""
    backbone = getattr(model, "backbone", None)
    source = None if backbone is None else pretrained_source(backbone)
    if backbone is None or source is None:
        return []
    place = place_of(source, shared=is_shared_name(backbone)) if isinstance(source, str) else source
    if place.is_file():
        return [
            ok("weights.backbone", f"pretrained backbone: {place}", values={"path": str(place)})
        ]
    return [
        note(
            "weights.backbone",
            f"pretrained backbone: will be downloaded from {source}",
            f"without a connection: put the file at {place}, "
            f"or -u {type(backbone).__name__}.pretrained=False",
            values={"url": source, "place": str(place)},
        )
    ]
