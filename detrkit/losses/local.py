"""The losses of the distance distributions: FGL and DDF over a stack of outputs.

D-FINE, Peng et al., ICLR 2025, arXiv:2410.13842, section 4. As in its authors' code the targets
of the distributions are computed once, from the first output: its reference boxes, and its
pairs, in their order. All outputs share both where the pairs are the union of the matches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.losses.boxes import iou_of
from detrkit.losses.ddf import Balance, ddf_loss
from detrkit.losses.fgl import fgl_loss
from detrkit.losses.matches import Matching
from detrkit.losses.stack import Stack, Values, edges_of, take
from detrkit.ops.boxes import cxcywh_to_xyxy
from detrkit.ops.distribution import bbox2distance


def local_losses(
    stack: Stack,
    reg_max: int,
    up: Tensor,
    reg_scale: Tensor,
    balance: Balance | None,
    own_teacher: bool,
) -> dict[str, Values]:
    """FGL of the outputs that have distributions, DDF of those that have a teacher.

    Args:
        stack: the outputs; any number of them, also none, has distributions.
        reg_max: R.
        up: () or (1,), with `reg_scale` the shape of the weighting function.
        reg_scale: () or (1,).
        balance: of matched and other queries in the distillation; none: no distillation.
        own_teacher: whether an output that is its own teacher has a loss, of zero.

    Returns:
        `loss_fgl` divided by `stack.box_scale`, `loss_ddf`.
    """
    rows = stack.having("pred_corners")
    if not rows:
        return {}
    corners = [edges_of(stack.outputs[row]["pred_corners"], reg_max) for row in rows]
    predicted, true = stack.pairs(stack.box_pairs)
    iou = take(iou_of(predicted, true), rows)
    queries = [stack.box_pairs.queries[row] for row in rows]
    references = stack.outputs[rows[0]]["ref_points"].detach().flatten(0, 1)[queries[0]]
    edges = bbox2distance(references.float(), cxcywh_to_xyxy(true[rows[0]]), reg_max, reg_scale, up)
    matched = torch.stack([c[q] for c, q in zip(corners, queries, strict=True)])
    terms: dict[str, Values] = {"loss_fgl": (fgl_loss(matched, edges, iou) / stack.box_scale, rows)}
    if balance is not None:
        terms.update(_distillation(stack, corners, iou, rows, balance, own_teacher))
    return terms


def _distillation(
    stack: Stack,
    corners: list[Tensor],
    iou: Tensor,
    rows: list[int],
    balance: Balance,
    own_teacher: bool,
) -> dict[str, Values]:
    """DDF. `corners` and `iou` are those of the outputs `rows`."""
    taught = stack.having("teacher_corners")
    if not taught:
        return {}
    teacher = stack.outputs[taught[0]]
    students = [
        row
        for row in taught
        if not _same_memory(stack.outputs[row]["pred_corners"], teacher["teacher_corners"])
    ]
    # A sum of nothing: zero, and a gradient of zeros whatever the numbers are.
    nothing = {row: corners[rows.index(row)][:0].sum() for row in taught}
    values = nothing if own_teacher else {row: nothing[row] for row in students}
    if students:
        places = [rows.index(row) for row in students]
        loss = ddf_loss(
            torch.stack([corners[place] for place in places]),
            edges_of(teacher["teacher_corners"].detach(), corners[0].shape[-1] - 1),
            teacher["teacher_logits"].detach().flatten(0, 1).float(),
            Matching(*(take(index, students) for index in stack.box_pairs)),
            take(iou, places),
            balance,
            stack.means_over,
        )
        values.update(zip(students, loss.unbind(), strict=True))
    return {"loss_ddf": (torch.stack(list(values.values())), list(values))} if values else {}


def _same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same numbers in the same place. Does not wait for the device."""
    return a.shape == b.shape and a.data_ptr() == b.data_ptr() and a.stride() == b.stride()
