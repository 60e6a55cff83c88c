"""Where numbers stop being finite: a step made again, and a folder about it.

The batch goes through the model once more with the same random numbers and the same precision.
Hooks on all modules tell the first one, forwards, whose output is not finite, and the first one,
backwards, that gets such a gradient. `report.json` holds this and more, for each process its own:

    message, step, epoch, batch, amp, parts, seed, lr, lr_scale, roll_backs, weights
    processes: images (id, file), losses (of the step, of the repetition), pixels, targets,
        weights, forward, backward, groups (gradient norm, parameters not finite), pictures
"""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from detrkit.engine.accumulation import Backward
from detrkit.engine.amp import Precision
from detrkit.engine.distributed.group import gathered, shared
from detrkit.engine.distributed.replicas import unwrapped
from detrkit.engine.randomness import seed_step
from detrkit.files import write_bytes
from detrkit.structures import Batch

if TYPE_CHECKING:
    from detrkit.engine.divergence import Step
    from detrkit.engine.trainer import Trainer

log = logging.getLogger("detrkit")

T = TypeVar("T")

#: Parameters that are named in each group.
NAMED = 8


@dataclass(frozen=True)
class Place:
    """A module.

    Attributes:
        module: its name in the model, "" for the model itself.
        kind: its class.
        dtype: of the numbers.
        largest_input: magnitude of what went in; None where that was not finite either.
    """

    module: str
    kind: str
    dtype: str
    largest_input: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "module": self.module or "the model itself",
            "kind": self.kind,
            "dtype": self.dtype,
            "largest_input": self.largest_input,
        }


class Search:
    """While entered, notes where in a model numbers first stop being finite.

    Attributes:
        forward: the first module whose output is not finite.
        backward: the first module, from the losses backwards, whose output gets such a gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.forward: Place | None = None
        self.backward: Place | None = None
        self._hooks: list[Any] = []

    def __enter__(self) -> Search:
        for name, module in self.model.named_modules():
            hook = partial(self._after, name)
            self._hooks.append(module.register_forward_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _after(self, name: str, module: nn.Module, inputs: Any, more: Any, outputs: Any) -> None:
        for tensor in _floats(outputs):
            kind, dtype = type(module).__name__, str(tensor.dtype).removeprefix("torch.")
            if self.forward is None and not _is_finite(tensor):
                largest = max((_largest(t) for t in _floats((inputs, more))), default=0.0)
                self.forward = Place(name, kind, dtype, largest if math.isfinite(largest) else None)
            if tensor.requires_grad:
                tensor.register_hook(partial(self._gradient, Place(name, kind, dtype)))

    def _gradient(self, place: Place, gradient: Tensor) -> None:
        if self.backward is None and not _is_finite(gradient):
            self.backward = place


def write_diagnosis(trainer: Trainer, step: Step, message: str) -> Path | None:
    """Makes a step again and writes what is found. Every process must call it.

    Args:
        trainer: of the run; it is left as it was.
        step: that was not finite.
        message: what was said about it.

    Returns:
        The folder; None if nothing could be written, which a warning says.
    """
    own = _unless_it_fails("diagnosis", partial(_diagnose, trainer, step)) or {}
    own["pictures"] = _unless_it_fails("picture", partial(_pictures, trainer, step.batch)) or []
    everyone = gathered(own)

    def write() -> Path:
        folder = trainer.keeper.directory.diverged(step.step)
        folder.mkdir(parents=True, exist_ok=True)
        for rank, process in enumerate(everyone or []):
            names = []
            for number, picture in enumerate(process["pictures"]):
                name = "-".join(
                    ["batch"]
                    + ([f"process{rank}"] if len(everyone or []) > 1 else [])
                    + ([str(number + 1)] if number else [])
                )
                names.append(f"{name}.png")
                (folder / names[-1]).write_bytes(picture)
            process["pictures"] = names
        report = {**_about(trainer, step, message), "processes": everyone}
        text = json.dumps(_plain(report), indent=2, ensure_ascii=False) + "\n"
        write_bytes(folder / "report.json", text.encode())
        return folder

    return shared(lambda: _unless_it_fails("diagnosis", write))


def _about(trainer: Trainer, step: Step, message: str) -> dict[str, Any]:
    state, directory = trainer.state, trainer.keeper.directory
    files = (directory.epoch_start, directory.last, directory.best)
    return {
        "message": message,
        "step": step.step,
        "epoch": step.epoch,
        "batch": step.number,
        "amp": trainer.precision.amp,
        "parts": step.parts,
        "seed": trainer.seed,
        "lr": trainer.lr,
        "lr_scale": state.lr_scale,
        "skips_in_a_row": state.skips_in_a_row,
        "roll_backs": state.roll_backs,
        "weights": [str(file) for file in files if file.is_file()],
    }


def _diagnose(trainer: Trainer, step: Step) -> dict[str, Any]:
    """What this process finds."""
    model = unwrapped(trainer.model)
    batch = step.batch.to(trainer.device)
    backward = Backward(
        model,
        trainer.criterion,
        trainer.autocast,
        Precision("off").scaler(trainer.device),
        partial(seed_step, trainer.seed, step.step, trainer.rank),
    )
    repeated: Mapping[str, Tensor] = {}
    broken = ""
    trainer.safeguard.begin(model)
    try:
        with _eager(), Search(model) as search:
            try:
                repeated = backward(batch, step.parts, step.epoch)
            except Exception as error:  # e.g. a plugin's own check: it is part of the finding
                broken = f"{type(error).__name__}: {error}"
        groups = {
            name: _group(model, trainer.optimizer.param_groups[position]["params"])
            for name, position in trainer.groups.items()
        }
    finally:
        trainer.safeguard.undo()
    ids = [target.image_id for target in batch.targets]
    files = _files(trainer, ids)
    weights = [*model.named_parameters(), *model.named_buffers()]
    return {
        "images": [{"id": image, "file": files.get(image)} for image in ids],
        "losses": {
            "step": {name: float(value) for name, value in step.losses.items()},
            "repetition": broken or {name: float(value) for name, value in repeated.items()},
        },
        "gradient_norm": float(step.norm),
        "pixels": [t.image_id for t, i in zip(batch.targets, batch.images, strict=True)
                   if not _is_finite(i)],
        "targets": [t.image_id for t in batch.targets if not _is_finite(t.boxes_cxcywh)],
        "weights": [name for name, value in weights if not _is_finite(value)],
        "forward": search.forward.to_dict() if search.forward else None,
        "backward": search.backward.to_dict() if search.backward else None,
        "groups": groups,
    }  # fmt: skip


def _group(model: nn.Module, parameters: list[Tensor]) -> dict[str, Any]:
    """Gradient norm of a group, and its first parameters whose gradient is not finite."""
    names = {id(p): name for name, p in model.named_parameters()}
    gradients = [(names[id(p)], p.grad) for p in parameters if p.grad is not None]
    bad = [name for name, gradient in gradients if not _is_finite(gradient)]
    norms = [float(gradient.float().norm()) for _, gradient in gradients]
    return {
        "gradient_norm": math.sqrt(sum(norm**2 for norm in norms)),
        "not_finite": len(bad),
        "first": bad[:NAMED],
    }


def _files(trainer: Trainer, ids: list[int | str]) -> dict[int | str, str]:
    """Files of images, as far as the loader knows them."""
    index = getattr(getattr(trainer.loader, "dataset", None), "index", None)
    if index is None:
        return {}
    wanted = set(ids)
    return {
        index.image_id(row): str(index.paths[row])
        for row in range(len(index))
        if index.image_id(row) in wanted
    }


def _pictures(trainer: Trainer, batch: Batch) -> list[bytes]:
    """The batch with its boxes, as PNG sheets."""
    from detrkit.engine.pictures import MOST, batch_picture

    keeper = trainer.keeper
    if keeper.class_map is None or keeper.image_spec is None:
        return []
    images = batch.images.nan_to_num(0.0, 0.0, 0.0)
    sheets = []
    for first in range(0, len(batch), MOST):
        part = Batch(images[first : first + MOST], batch.targets[first : first + MOST])
        file = io.BytesIO()
        batch_picture(part, keeper.class_map, keeper.image_spec).save(file, format="PNG")
        sheets.append(file.getvalue())
    return sheets


def _unless_it_fails(what: str, make: Callable[[], T]) -> T | None:
    """What goes wrong here must not hide what went wrong there."""
    try:
        return make()
    except Exception as error:
        log.warning("no %s of the step: %s", what, error)
        return None


def _eager() -> Any:
    """Compiled parts run as they are written, so that hooks see every module."""
    stance = getattr(torch.compiler, "set_stance", None)
    return stance("force_eager") if stance else nullcontext()


def _floats(values: Any) -> Iterator[Tensor]:
    """Floating-point tensors inside dicts, lists and tuples."""
    if isinstance(values, Tensor):
        if values.is_floating_point():
            yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from _floats(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _floats(value)


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.detach().isfinite().all())


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


def _plain(value: Any) -> Any:
    """JSON has no numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
