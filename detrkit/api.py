"""The Python API: few functions over the engine, and stable.

import detrkit

detector = detrkit.load("best.pth")
for detection in detector.predict("photo.jpg", conf=0.5):
    print(detection.name, detection.score, detection.box_xyxy)
for detections in detector.predict("folder/", stream=True):
    detections.draw().save(...)
run = detrkit.train(detrkit.load_config("quickstart", update=["epochs=3"]))
metrics = detrkit.evaluate("best.pth", data="my_data/")
(file,) = detrkit.export("best.pth", precision="fp16")
block = detrkit.create("HybridEncoder", in_channels=[64, 128], ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detrkit.config import Config, load_config
from detrkit.registry import MODULES
from detrkit.structures import Detections

if TYPE_CHECKING:
    import torch
    from torch import nn

    from detrkit.engine.exporting import Exported, Format
    from detrkit.engine.predictor import Predictor
    from detrkit.engine.run_result import RunResult
    from detrkit.metrics import Metrics
    from detrkit.metrics.coco import Backend

__all__ = [
    "Detections",
    "build_model",
    "create",
    "evaluate",
    "export",
    "load",
    "load_config",
    "train",
]


def load(
    weights: str | Path,
    *,
    config: str | Path | Config | None = None,
    device: str | torch.device | None = None,
    size: tuple[int, int] | None = None,
    half: bool = False,
    compiled: bool = False,
    threads: int | None = None,
    provider: str | None = None,
) -> Predictor:
    """Opens weights, ready to detect; many threads may share the detector.

    Args:
        weights: a checkpoint or an exported file (.onnx, .xml, .engine, .torchscript, .pt2), by
            path or URL; a folder of Hugging Face transformers; `hf://organisation/name`.
        config: configuration or catalogue name, for weights that carry none and are not
            recognised.
        device: default the best one there is.
        size: (h, w) of the input, where it is not to be that of the weights.
        half: compute in 16 bits where the device does: fp16 on GPUs, bf16 on CPUs that have it.
        compiled: let PyTorch compile the model, which takes a minute at the first image.
        threads: of a CPU; None: the library's choice.
        provider: what computes an exported file: ONNX Runtime's "cpu", "cuda", "tensorrt",
            "openvino", …; OpenVINO's "cpu", "gpu", "npu", "auto".

    Raises:
        WeightsError: they cannot be opened.
        UsageError: there is no such device or provider, or it does not compute in 16 bits.
        MissingExtraError: the library that runs such files is not installed.
    """
    from detrkit.engine.predictor import Predictor
    from detrkit.engine.runtime import Runtime

    return Predictor(
        Runtime.open(
            weights, config, device=device, size=size, half=half, compiled=compiled,
            threads=threads, provider=provider,
        )
    )  # fmt: skip


def build_model(
    config: str | Path | Config, *, update: Sequence[str] = (), seed: int | None = None
) -> nn.Module:
    """A detector with random weights, in training mode.

    Args:
        config: configuration, file, or catalogue name such as "dfine_n_coco".
        update: `--update` values, "a.b=c".
        seed: same seed, same weights.
    """
    from detrkit.engine.parts import build_model as build

    return build(_resolved(config, update), seed=seed)


def create(name: str, /, **arguments: Any) -> Any:
    """Any registered component: a block, a loss, a transform.

    Raises:
        ConfigError: no component is called `name`; suggests a near one.
    """
    return MODULES.create(name, **arguments)


def train(
    config: str | Path | Config, *, update: Sequence[str] = (), output: str | Path | None = None
) -> RunResult:
    """Trains, as `detrkit train` does, in a new folder.

    Args:
        config: configuration, file, or catalogue name.
        update: `--update` values, "a.b=c".
        output: the folder; default `runs/<name>-<n>`.

    Returns:
        Where the run is and what it reached.
    """
    from detrkit.engine.training import train as run

    return run(_resolved(config, update), output=output)


def _resolved(config: str | Path | Config, update: Sequence[str]) -> Config:
    if isinstance(config, Config):
        return config.with_updates(update) if update else config
    return load_config(config, update=update)


def evaluate(
    weights: str | Path,
    *,
    data: str | Path | None = None,
    split: str | None = None,
    config: str | Path | Config | None = None,
    update: Sequence[str] = (),
    device: str | torch.device | None = None,
    batch: int = 8,
    size: tuple[int, int] | None = None,
    backend: Backend | None = None,
) -> Metrics:
    """Measures weights on a data set.

    Args:
        weights: as `load` takes them.
        data: folder or file of any layout that detrkit reads; default the validation data of
            the configuration.
        split: part of `data`: "train", "val" or "test"; default "val", else "test", else the
            only one.
        config: for weights that carry none, or to name other data.
        update: `--update` values for the configuration.
        device: default the best one there is.
        batch: images per forward pass.
        size: (h, w) of the input, where it is not to be that of the weights.
        backend: what counts, "hotcoco", "pycocotools" or "detrkit"; the first by default, the last
            where it is not installed.
    """
    from detrkit.engine.evaluation import evaluate_weights
    from detrkit.metrics.coco import checked_backend

    return evaluate_weights(
        weights,
        data=data,
        split=split,
        config=config,
        update=update,
        device=device,
        batch=batch,
        size=size,
        backend=checked_backend(backend),
    ).result.metrics


def export(
    weights: str | Path,
    formats: Sequence[Format] = ("onnx",),
    *,
    config: str | Path | Config | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> list[Exported]:
    """Exports weights and compares each file with them, as `detrkit export` does.

    Args:
        weights: a checkpoint, by path or URL.
        formats: of "onnx", "openvino", "torchscript", "torch_export", "tensorrt".
        config: for weights that carry none and are not recognised.
        output: a file or folder; default beside the weights.
        options: attributes of `detrkit.engine.exporting.ExportOptions`: `precision` ("fp32",
            "fp16", "bf16", "int8"), `size`, `dynamic_size`, `batch`, `raw`, `data`, `images`,
            `verify`, `tolerance`, …

    Raises:
        WeightsError: the weights cannot be opened, or a file answers differently.
        EngineNotBuilt: TensorRT or a GPU is missing; the other files are written.
    """
    from detrkit.engine.exporting import ExportOptions, export_weights

    wanted = ExportOptions(formats=tuple(formats), **options)
    return list(export_weights(weights, wanted, config=config, output=output))
