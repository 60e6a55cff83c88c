"""From outputs to detections: the best scores over all queries and classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detrkit.models.outputs import Outputs
from detrkit.registry import MODULES
from detrkit.structures import ClassMap, Detections, ImageSpec


@MODULES.register(
    "PostProcessor",
    "DFINEPostProcessor",
    "RTDETRPostProcessor",
    share=("num_classes", "use_focal_loss", "num_top_queries", "remap_mscoco_category"),
)
class PostProcessor(nn.Module):
    """Ranks every class of every query; no suppression of overlaps, DETRs need none.

    Args:
        num_classes: K.
        use_focal_loss: scores are sigmoids, and a query may answer with several classes;
            otherwise scores are softmaxes over K classes and a last "nothing", one per query.
        num_top_queries: detections kept per image; fewer where there are fewer candidates.
        remap_mscoco_category: accepted from authors' files. Category ids are the ClassMap's
            matter: detections leave with the data set's own ids either way.
    """

    def __init__(
        self,
        num_classes: int = 80,
        use_focal_loss: bool = True,
        num_top_queries: int = 300,
        remap_mscoco_category: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.use_focal_loss = use_focal_loss
        self.num_top_queries = num_top_queries
        self.remap_mscoco_category = remap_mscoco_category

    def forward(self, logits: Tensor, boxes_cxcywh: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tensor part, which exports.

        Args:
            logits: (B, Q, K), with a last "nothing" class if scores are softmaxes.
            boxes_cxcywh: (B, Q, 4), 0–1.

        Returns:
            labels (B, n) int64, boxes_cxcywh (B, n, 4), scores (B, n), best first.
        """
        labels, query, scores = self.rank(logits)
        boxes = boxes_cxcywh.gather(1, query.unsqueeze(-1).expand(-1, -1, 4))
        return labels, boxes, scores

    def rank(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which queries answer with which classes, best first.

        Args:
            logits: (B, Q, K) as for `forward`.

        Returns:
            labels (B, n) int64, queries (B, n) int64, scores (B, n).
        """
        if self.use_focal_loss:
            classes = logits.shape[-1]
            count = min(self.num_top_queries, logits.shape[1] * classes)
            best, index = logits.flatten(1).topk(count, dim=-1)  # sigmoid keeps the order
            scores, query = best.sigmoid(), index // classes
            labels = index - query * classes
        else:
            count = min(self.num_top_queries, logits.shape[1])
            probability, label = logits.softmax(-1)[..., :-1].max(-1)
            scores, query = probability.topk(count, dim=-1)
            labels = label.gather(1, query)
        return labels, query, scores

    @torch.no_grad()
    def postprocess(
        self,
        outputs: Outputs,
        orig_sizes: Sequence[tuple[int, int]],
        image_spec: ImageSpec,
        class_map: ClassMap,
        image_ids: Sequence[int | str | None] | None = None,
        paths: Sequence[str | None] | None = None,
    ) -> list[Detections]:
        """Detections in pixels of the original images; one transfer from the device.

        Args:
            outputs: of the detector; `pred_logits` and `pred_boxes` are used.
            orig_sizes: (h, w) of each original image.
            image_spec: how the images became the model's input.
            class_map: names and category ids of the labels.
            image_ids, paths: of each image, to be carried along.
        """
        labels, boxes, scores = self(outputs["pred_logits"].float(), outputs["pred_boxes"].float())
        packed = torch.cat([boxes, scores[..., None], labels[..., None].float()], dim=-1).cpu()
        detections = []
        for i, orig_size in enumerate(orig_sizes):
            boxes_cxcywh, score, label = packed[i].split([4, 1, 1], dim=-1)
            detections.append(
                Detections(
                    boxes_xyxy=image_spec.restore_boxes(boxes_cxcywh, orig_size).numpy(),
                    scores=score[:, 0].numpy(),
                    labels=label[:, 0].long().numpy(),
                    class_map=class_map,
                    orig_size=orig_size,
                    image_id=None if image_ids is None else image_ids[i],
                    path=None if paths is None else paths[i],
                )
            )
        return detections
