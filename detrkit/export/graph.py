"""The graph that every format holds: preprocessed images in, detections in pixels out.

    images             (N, C, h, w) float32, as `ImageSpec.normalized` gives them
    orig_target_sizes  (N, 2) int64, (width, height) of the original images
    labels             (N, n) int64, best score first
    boxes              (N, n, 4) float32, xyxy in original pixels
    scores             (N, n) float32, 0–1

These are the names and shapes of the authors' exporters. A raw graph has `images` alone, and the
decoder's heads: `logits` (N, Q, K) and `boxes` (N, Q, 4), cxcywh as fractions of the input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detrkit.errors import UsageError
from detrkit.export.pieces import in_pieces
from detrkit.layers.affine import Bound
from detrkit.models.backbones.hgnetv2 import Stem
from detrkit.models.decoders.two_stage import TwoStageDecoder
from detrkit.models.detector import Detector
from detrkit.models.postprocess import PostProcessor


class DetectionGraph(nn.Module):
    """A detector and what follows it, as one module without options.

    Args:
        detector: deployed, see `exportable`.
        postprocessor: heads -> detections; None: the heads themselves, a raw graph.
    """

    def __init__(self, detector: Detector, postprocessor: PostProcessor | None) -> None:
        super().__init__()
        self.detector = detector
        self.postprocessor = postprocessor

    @property
    def input_names(self) -> tuple[str, ...]:
        """In the order of `forward`'s arguments."""
        return ("images",) if self.postprocessor is None else ("images", "orig_target_sizes")

    @property
    def output_names(self) -> tuple[str, ...]:
        """In the order of what `forward` returns."""
        return ("logits", "boxes") if self.postprocessor is None else ("labels", "boxes", "scores")

    def forward(
        self, images: Tensor, orig_target_sizes: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """As the file's head says."""
        outputs = self.detector(images)
        if self.postprocessor is None:
            return outputs["pred_logits"], outputs["pred_boxes"]
        assert orig_target_sizes is not None
        labels, boxes, scores = self.postprocessor(outputs["pred_logits"], outputs["pred_boxes"])
        centre, half = boxes[..., :2], 0.5 * boxes[..., 2:]
        pixels = orig_target_sizes.to(boxes.dtype).repeat(1, 2)[:, None]  # (N, 1, 4)
        return labels, torch.cat([centre - half, centre + half], dim=-1) * pixels, scores


@dataclass(frozen=True)
class InputShape:
    """Which images a file takes.

    Attributes:
        size: (h, w); where `dynamic_size`, the one that it was made with.
        channels: C.
        batch: images in a call; None: any number.
        dynamic_size: whether it takes images of other sizes, multiples of `STRIDE`, too.
    """

    size: tuple[int, int]
    channels: int = 3
    batch: int | None = None
    dynamic_size: bool = False

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch must be at least 1, got {self.batch}")
        if any(side < STRIDE or side % STRIDE for side in self.size):
            raise UsageError(
                "sides of the input must be multiples of {}, got {}x{}".format(STRIDE, *self.size),
                hint="choose another with --size",
            )

    def example(self, raw: bool = False) -> tuple[Tensor, ...]:
        """Inputs to trace with. A dynamic batch has two images: one would count as fixed."""
        batch = self.batch or 2
        images = torch.rand(
            batch, self.channels, *self.size, generator=torch.Generator().manual_seed(0)
        )
        sizes = torch.tensor([self.size[::-1]] * batch)
        return (images,) if raw else (images, sizes)


#: The coarsest stride of the models' maps; sides of images are multiples of it.
STRIDE = 32


def exportable(detector: Detector, shape: InputShape, *, pieces: bool = True) -> Detector:
    """A copy for tracing: deployed into plain layers, its constants made for the size.

    Args:
        detector: any.
        shape: of the images.
        pieces: whether blocks add parts of sums instead of stacking maps; not for less than 32
            bits, which would round every part.
    """
    model = detector.deploy(fold_norms=True, plain=True)
    for stem in [m for m in model.modules() if isinstance(m, Stem)]:
        if not _never_negative(stem.stem1.act):
            stem.pool_border = _ALMOST_ZERO
    if pieces:
        in_pieces(model.encoder)
    if isinstance(model.decoder, TwoStageDecoder):
        model.decoder.set_size(None if shape.dynamic_size else shape.size)
    return model


#: ONNX Runtime's PadFusion moves zeros before a maximum into the pooling, which then ignores them;
#: that is another maximum where all pixels at the border are negative. Other numbers it leaves.
_ALMOST_ZERO = 1e-6


def _never_negative(act: nn.Module) -> bool:
    return isinstance(act, nn.ReLU) or (isinstance(act, Bound) and not act.upper and act.bound >= 0)
