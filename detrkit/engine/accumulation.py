"""Gradients of a batch, all at once or in parts that fit into memory (`accumulate`).

The sum over the parts is the gradient of the whole batch, because every loss is divided by what
the whole batch holds: its boxes, and for D-FINE and DEIM its matched queries. How many queries
are matched is known only after all parts have been through the model, so for these families the
parts run twice, first without gradients and only to be matched: one forward pass more.

What depends on the images that stand in a part together stays different: batch norm's
statistics, and how the denoising queries are padded and their noise drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from detrkit.distillation.distiller import Distiller
from detrkit.engine.distributed.replicas import unwrapped
from detrkit.losses.criterion import SetCriterion
from detrkit.ops.precision import upcast
from detrkit.phases import phase
from detrkit.structures import Batch


@dataclass
class Backward:
    """Adds up the gradients of a batch.

    Attributes:
        model: may be wrapped for distributed training.
        criterion: (outputs, targets, epoch) -> weighted losses. One that is not a
            `SetCriterion` is taken for a mean over images.
        autocast: the context of a forward pass.
        scaler: scales the loss.
        seed: seeds part n of the step.
        distiller: adds what the student learns from a teacher; None: there is none.
    """

    model: nn.Module
    criterion: nn.Module
    autocast: Callable[[], AbstractContextManager[Any]]
    scaler: GradScaler
    seed: Callable[[int], None]
    distiller: Distiller | None = None

    def __call__(self, batch: Batch, parts: int, epoch: int) -> dict[str, Tensor]:
        """Computes losses and gradients; processes exchange these once, in the last part.

        Args:
            batch: of this process.
            parts: in how many parts; every process must get as many.
            epoch: for the criterion.

        Returns:
            The weighted losses of the whole batch, detached.
        """
        pieces = batch.split(parts)
        judge = self._judge(batch, pieces, epoch)
        sums: dict[str, Tensor] = {}
        for number, piece in enumerate(pieces):
            self.seed(number)
            with nullcontext() if number + 1 == len(pieces) else _silent(self.model):
                with phase("forward"), self.autocast(), self._watching():
                    outputs = upcast(self.model(piece.images, piece.targets))
                with phase("loss"):
                    losses = judge(number, outputs)  # in float32
                losses = self._distilled(losses, piece, outputs, len(piece) / len(batch), number)
                loss = torch.stack(list(losses.values())).sum()
                with phase("backward"):
                    self.scaler.scale(loss).backward()
            for name, value in losses.items():
                value = value.detach()
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def _watching(self) -> AbstractContextManager[None]:
        if self.distiller is None:
            return nullcontext()
        return self.distiller.watching(unwrapped(self.model))

    def _distilled(
        self, losses: dict[str, Tensor], piece: Batch, outputs: Any, share: float, number: int
    ) -> dict[str, Tensor]:
        """The losses with those of the distillation: each a mean over the images of the batch."""
        if self.distiller is None:
            return losses
        return self.distiller.add(
            unwrapped(self.model), piece, outputs, losses, share, number, self.autocast
        )

    def _judge(
        self, batch: Batch, pieces: list[Batch], epoch: int
    ) -> Callable[[int, Any], dict[str, Tensor]]:
        """(number of a part, its outputs) -> its share of the batch's losses."""
        criterion = self.criterion
        if len(pieces) == 1:
            return lambda _, outputs: criterion(outputs, batch.targets, epoch=epoch)
        if not isinstance(criterion, SetCriterion):
            return lambda number, outputs: {
                name: value * (len(pieces[number]) / len(batch))
                for name, value in criterion(outputs, pieces[number].targets, epoch=epoch).items()
            }
        matched = self._match(criterion, pieces, epoch) if criterion.divides_by_matches else []
        known = iter(matched)
        whole = None

        def judge(number: int, outputs: Any) -> dict[str, Tensor]:
            nonlocal whole
            whole = whole or criterion.measure(batch.targets, matched, outputs)
            losses: dict[str, Tensor] = criterion(
                outputs,
                pieces[number].targets,
                epoch=epoch,
                matched=next(known, None),
                whole=whole,
            )
            return losses

        return judge

    @torch.no_grad()
    def _match(self, criterion: SetCriterion, pieces: list[Batch], epoch: int) -> list[Any]:
        """Matches all parts; the second pass will see the same outputs, seeded alike."""
        model = unwrapped(self.model)
        matched = []
        with _fixed_statistics(model):
            for number, piece in enumerate(pieces):
                self.seed(number)
                with self.autocast():
                    outputs = model(piece.images, piece.targets)
                matched.append(criterion.match(upcast(outputs), piece.targets, epoch))
        return matched


def _silent(model: nn.Module) -> AbstractContextManager[Any]:
    """Gradients stay in this process."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


@contextmanager
def _fixed_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms in training leave their running statistics alone."""
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
