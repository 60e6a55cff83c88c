"""Where the objects lie on a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from detrkit.ops.boxes import cxcywh_to_xyxy

#: In cells: an edge on the border of two cells touches one of them, whatever rounding says.
_SLACK = 1e-3


class Regions(NamedTuple):
    """Cells of a map, (B, 1, h, w) each.

    Attributes:
        foreground: bool, whether a cell touches a box.
        share: one over the cells of the smallest box that a cell touches; in the background one
            over the cells of the image's background.
    """

    foreground: Tensor
    share: Tensor


def regions_of(boxes: Sequence[Tensor], size: tuple[int, int]) -> Regions:
    """Marks the cells that boxes touch.

    Args:
        boxes: per image boxes_cxcywh (N, 4), 0–1, on one device.
        size: (h, w) of the map.
    """
    h, w = size
    device = boxes[0].device
    column, row = torch.arange(w, device=device), torch.arange(h, device=device)
    masks, shares = [], []
    for own in boxes:
        corners = cxcywh_to_xyxy(own.float()).clamp(0, 1)
        corners = corners * corners.new_tensor([w, h, w, h])
        low = (corners[:, :2] + _SLACK).floor()
        high = torch.maximum((corners[:, 2:] - _SLACK).ceil(), low + 1)
        in_x = (column >= low[:, :1]) & (column < high[:, :1])  # (N, w)
        in_y = (row >= low[:, 1:]) & (row < high[:, 1:])  # (N, h)
        inside = in_y[:, :, None] & in_x[:, None, :]  # (N, h, w)
        cells = inside.sum((1, 2), keepdim=True).clamp(min=1)
        share = (inside / cells).amax(0) if len(own) else torch.zeros(h, w, device=device)
        mask = share > 0
        rest = (~mask).sum().clamp(min=1)
        masks.append(mask)
        shares.append(torch.where(mask, share, 1 / rest))
    return Regions(torch.stack(masks)[:, None], torch.stack(shares)[:, None])
