"""Kinds of tensors in a detector's state dict, told by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

#: One row per class: `enc_score_head`, `dec_score_head.3`, their like.
_CLASS_ROWS = re.compile(r"(^|\.)(\w*score_head|\w*class_head)(\.\d+)?\.(weight|bias)$")
#: One row per class and one more for padding.
_CLASS_ROWS_AND_PADDING = re.compile(r"(^|\.)denoising_class_embed\.weight$")
#: One row per query: of decoders that start from a learned content.
_QUERY_ROWS = re.compile(r"(^|\.)tgt_embed\.weight$")
#: Computed from the image size, or counted; a model keeps its own. Some authors' files lack them.
_DERIVED = re.compile(
    r"(^|\.)(anchors|valid_mask|num_points_scale|periods|bias_mask|num_batches_tracked)$"
)


def is_class_rows(name: str) -> bool:
    """Whether the tensor is a score head's: one row per class."""
    return bool(_CLASS_ROWS.search(name))


def has_class_rows(name: str) -> bool:
    """Whether the tensor has one row per class (and maybe one for padding)."""
    return is_class_rows(name) or bool(_CLASS_ROWS_AND_PADDING.search(name))


def padding_rows(name: str) -> int:
    """Rows that stand for no class."""
    return 1 if _CLASS_ROWS_AND_PADDING.search(name) else 0


def has_query_rows(name: str) -> bool:
    """Whether the tensor has one row per query."""
    return bool(_QUERY_ROWS.search(name))


def is_derived(name: str) -> bool:
    """Whether the tensor is computed or counted rather than learned."""
    return bool(_DERIVED.search(name))


def class_count(state: Mapping[str, Tensor]) -> int | None:
    """How many classes the score heads have."""
    for name, value in state.items():
        if is_class_rows(name):
            return len(value)
    return None
