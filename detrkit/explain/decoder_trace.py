"""What a decoder does with a batch, watched through hooks: nothing that it computes changes.

Shape legend: B images, Q queries, K classes, L decoder layers, P positions of all levels of the
encoder's maps, R = reg_max bins. Boxes are cxcywh, 0–1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from detrkit.errors import UsageError
from detrkit.models.decoders.fdr import Refinement
from detrkit.models.decoders.query_selection import select_positions
from detrkit.models.decoders.refining import RefiningDecoder
from detrkit.models.decoders.two_stage import Queries, TwoStageDecoder
from detrkit.ops.distribution import distance2bbox


@dataclass(frozen=True)
class Refined:
    """Boxes as distributions of their edges, layer by layer (`detrkit.models.decoders.fdr`).

    Attributes:
        first: (B, Q, 4) boxes that the distances start from.
        corners: (L, B, Q, 4, R + 1) logits of the edges: left, top, right, bottom.
        distances: (L, B, Q, 4) expected shifts, in units of the box's size / `reg_scale`.
        boxes: (L, B, Q, 4) `first` moved by `distances`.
        weights: (R + 1,) W(n).
        reg_scale: its curvature, and the divisor of the unit.
    """

    first: Tensor
    corners: Tensor
    distances: Tensor
    boxes: Tensor
    weights: Tensor
    reg_scale: float


@dataclass(frozen=True)
class Decoded:
    """One batch.

    Attributes:
        logits: (B, Q, K) of the layer that answers.
        boxes: (B, Q, 4) of that layer.
        start: (B, Q, 4) boxes that the queries start from: the encoder's proposals.
        places: (B, Q) int64, 0 … P - 1: the positions that became queries, of all levels in a
            row, finest first. The number of a query is its rank in this selection; its place
            says what it is.
        shapes: (h, w) of each level.
        refined: of decoders that refine distributions; else None.
    """

    logits: Tensor
    boxes: Tensor
    start: Tensor
    places: Tensor
    shapes: tuple[tuple[int, int], ...]
    refined: Refined | None

    def strides(self, height: int) -> tuple[float, ...]:
        """Pixels of an input of so many rows per position, level by level."""
        return tuple(height / h for h, _ in self.shapes)

    @property
    def levels(self) -> Tensor:
        """(B, Q) int64: the level of each query's place, 0 the finest."""
        ends = torch.tensor([h * w for h, w in self.shapes], device=self.places.device).cumsum(0)
        return torch.bucketize(self.places, ends, right=True)


def decoder_of(model: nn.Module) -> TwoStageDecoder:
    """The decoder of a detector.

    Raises:
        UsageError: it is none of detrkit's, so that nothing is known about its insides.
    """
    decoder = getattr(model, "decoder", None)
    if not isinstance(decoder, TwoStageDecoder):
        raise UsageError(
            f"the decoder {type(decoder).__name__} cannot be looked into: its queries are not "
            "selected from the encoder's maps by a TwoStageDecoder",
            hint="derive it from detrkit.models.decoders.two_stage.TwoStageDecoder",
        )
    return decoder


def refining_decoder_of(model: nn.Module) -> RefiningDecoder:
    """The decoder of a detector whose edges are distributions.

    Raises:
        UsageError: it predicts boxes directly.
    """
    decoder = decoder_of(model)
    if not isinstance(decoder, RefiningDecoder):
        raise UsageError(
            f"{type(decoder).__name__} predicts boxes directly: its edges have no distributions",
            hint="D-FINE, DEIM on D-FINE and DEIMv2 have them; RT-DETR and RT-DETRv2 do not",
        )
    return decoder


class DecoderTrace:
    """Watches the decoder of a detector while entered.

        with DecoderTrace(runtime.model) as trace:
            runtime.predict(images)
            decoded = trace.last

    Args:
        model: a detector, deployed or not.

    Raises:
        UsageError: as of `decoder_of`.
    """

    def __init__(self, model: nn.Module) -> None:
        self.decoder = decoder_of(model)
        self._hooks = ExitStack()
        self._seen: dict[str, Any] = {}
        self._last: Decoded | None = None

    @property
    def last(self) -> Decoded:
        """The last batch that was decoded.

        Raises:
            RuntimeError: there was none.
        """
        if self._last is None:
            raise RuntimeError("nothing was decoded while the trace was on")
        return self._last

    def __enter__(self) -> DecoderTrace:
        decoder, on = self.decoder, self._on
        layers = decoder.get_submodule("decoder")
        on(decoder.register_forward_pre_hook(lambda *_: self._begin()))
        for projection in decoder.input_proj:
            on(projection.register_forward_hook(self._saw_map))
        on(decoder.enc_score_head.register_forward_hook(self._scored))
        on(layers.register_forward_pre_hook(self._starts))
        on(layers.register_forward_hook(self._refined))
        if isinstance(decoder, RefiningDecoder):
            on(decoder.integral.register_forward_hook(self._integrated))
        on(decoder.register_forward_hook(self._end))
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def _on(self, handle: Any) -> None:
        self._hooks.callback(handle.remove)

    def _begin(self) -> None:
        self._seen = {"shapes": [], "integrals": []}

    def _saw_map(self, _: nn.Module, __: Any, out: Tensor) -> None:
        self._seen["shapes"].append((out.shape[2], out.shape[3]))

    def _scored(self, _: nn.Module, __: Any, out: Tensor) -> None:
        self._seen.setdefault("scored", out)  # in training mode the selected come once more

    def _starts(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        queries = given[0]
        self._seen["start"] = queries.box_logits if isinstance(queries, Queries) else given[1]

    def _refined(self, _: nn.Module, __: Any, out: Any) -> None:
        self._seen["refinement"] = out

    def _integrated(self, _: nn.Module, given: tuple[Any, ...], out: Tensor) -> None:
        self._seen["integrals"].append((given[0], given[1], out))

    def _end(self, _: nn.Module, __: Any, outputs: Any) -> None:
        seen, decoder = self._seen, self.decoder
        count = outputs["pred_logits"].shape[1]
        method = decoder.settings.query_select_method
        self._last = Decoded(
            logits=outputs["pred_logits"].float(),
            boxes=outputs["pred_boxes"].float(),
            start=seen["start"][:, -count:].float().sigmoid(),
            places=select_positions(seen["scored"], count, method),
            shapes=tuple(seen["shapes"]),
            refined=self._distributions(count),
        )

    def _distributions(self, count: int) -> Refined | None:
        refinement, integrals = self._seen["refinement"], self._seen["integrals"]
        if not integrals or not isinstance(refinement, Refinement):
            return None
        layers = self.decoder.get_submodule("decoder")
        scale = torch.as_tensor(layers.reg_scale)
        # only the last of all is what the box heads of evaluation answer with
        distances = torch.stack([out[:, -count:] for _, _, out in integrals])
        first = refinement.reference[:, -count:]
        corners = torch.stack([logits[:, -count:] for logits, _, _ in integrals])
        weights = integrals[0][1]
        return Refined(
            first=first.float(),
            corners=corners.float().unflatten(-1, (4, len(weights))),
            distances=distances.float(),
            boxes=distance2bbox(first, distances, scale).float(),
            weights=weights.float(),
            reg_scale=float(scale.abs()),
        )


@contextmanager
def judged_outputs(model: nn.Module) -> Iterator[None]:
    """While entered, a detector in evaluation answers with all that the criterion judges.

    That is every decoder layer and the encoder, as in training, yet without denoising queries,
    and with norms and dropout as in evaluation.

    Args:
        model: a detector that is not deployed: deploying drops heads.

    Raises:
        UsageError: as of `decoder_of`.
    """
    decoder = decoder_of(model)
    parts = (decoder, decoder.get_submodule("decoder"))
    before = [part.training for part in parts]
    denoising, decoder.num_denoising = decoder.num_denoising, 0
    for part in parts:
        part.training = True  # theirs alone: `train()` would reach norms and dropout
    try:
        yield
    finally:
        decoder.num_denoising = denoising
        for part, training in zip(parts, before, strict=True):
            part.training = training
