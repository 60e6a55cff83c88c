"""What was evaluated: weights, data, machine, configuration, speed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from detrkit import words
from detrkit.eval_report.remarks import Remark
from detrkit.metrics.schema import ModelJson, SpeedJson
from detrkit.report import Column, Html, details, listing, table
from detrkit.report.cells import cell


@dataclass(frozen=True)
class Setting:
    """The circumstances of an evaluation.

    Attributes:
        subject: the weights, or the file of detections.
        data: what it was measured on, in words.
        speed, model: of the model; None where none was run.
        environment: versions and hardware.
        config: resolved YAML; None where there is none.
        left_out: {reason: how many} rows of a file of detections that were not counted.
        broken: image files that could not be read.
    """

    subject: str
    data: str
    speed: SpeedJson | None
    model: ModelJson | None
    environment: Mapping[str, Any]
    config: str | None
    left_out: Mapping[str, int]
    broken: tuple[str, ...]

    @classmethod
    def of(cls, subject: str, numbers: Mapping[str, Any]) -> Setting:
        """That of the content of `metrics.json`.

        Args:
            subject: the weights, or the file of detections.
            numbers: what is written there.
        """
        return cls(
            subject=subject,
            data=str(numbers["data"]),
            speed=numbers["speed"],
            model=numbers["model"],
            environment=numbers["environment"],
            config=numbers["config"],
            left_out=numbers.get("left_out", {}),
            broken=tuple(numbers.get("broken", ())),
        )

    @property
    def title(self) -> str:
        """Of the page."""
        return f"Evaluation of {PurePath(self.subject).name or self.subject}"

    @property
    def subtitle(self) -> str:
        """Below it."""
        return f"{self.subject} on {self.data}"

    @property
    def remarks(self) -> Iterable[Remark]:
        """What was not evaluated."""
        if self.broken:
            names = ", ".join(f"`{PurePath(path).name}`" for path in self.broken[:5])
            more = ", …" if len(self.broken) > 5 else ""
            yield Remark(
                "warning",
                "unreadable",
                f"{words.count(len(self.broken), 'image file')} could not be read; boxes in them "
                f"count as missed: {names}{more}",
            )
        for reason, count in self.left_out.items():
            if count:
                text = f"{words.count(count, 'detection')} left out: {reason}."
                yield Remark("warning", "left-out", text)


def costs(setting: Setting) -> Iterable[Html]:
    """Milliseconds, parameters, operations."""
    speed, model = setting.speed, setting.model
    if speed is not None:
        yield table(
            [Column("stage"), Column("ms per image", True)],
            [
                (stage, cell(milliseconds, "{:.2f}"))
                for stage, milliseconds in (
                    ("preprocessing", speed["preprocess"]),
                    ("model", speed["model"]),
                    ("postprocessing", speed["postprocess"]),
                    ("total", speed["total"]),
                )
            ],
            caption=f"{speed['fps']:.1f} images per second on {speed['device']}, batch "
            f"{speed['batch']}, over {speed['images']:,} images; reading of files not included",
            sortable=False,
        )
    if model is not None:
        facts = (
            ("file, MB", model["file_bytes"], 1e6),
            ("parameters, million", model["parameters"], 1e6),
            ("GFLOPs", model["flops"], 1e9),
            ("GMACs", model["macs"], 1e9),
        )
        yield table(
            [Column("what"), Column("number", True)],
            [(what, cell(value / unit, "{:.3g}")) for what, value, unit in facts if value],
            caption="The model, for an input of "
            + " × ".join(map(str, model["input"]))
            + ("" if model["flops"] else "; FLOPs not counted: the file is no checkpoint"),
            sortable=False,
        )


def settings(setting: Setting) -> Iterable[Html]:
    """Versions, hardware, YAML."""
    yield table(
        [Column("what"), Column("value")],
        [
            (name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
            for name, value in setting.environment.items()
            if value is not None
        ],
        caption="Where it was measured",
        sortable=False,
    )
    if setting.config:
        yield details("Configuration", listing(setting.config, "Configuration"))
