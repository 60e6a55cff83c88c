"""Stages, stem and what follows a stage of a backbone, replaced by modules of maps.

    HGNetv2:
      block: [null, null, RepHMS, RepHMS]      # in the stages 2 and 3
      stem: LoG
      after: [null, null, null, SimAM]         # behind stage 3

New parts come after freezing: they have no pretrained weights, so they train, and so do their
batch norms. The rest takes what fits of pretrained weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from detrkit.modules.part import Part, build_part, per_level


def stage_blocks(
    parts: Sequence[Part | None] | None,
    where: str,
    stages: Sequence[tuple[int, int, int]],
) -> list[nn.Sequential | None]:
    """Blocks in place of a stage's, which keep the size.

    Args:
        parts: a module, or None, for each stage.
        where: the argument, for errors.
        stages: width in, width out and number of blocks, of each stage.

    Returns:
        The blocks, or None where the stage keeps its own.
    """
    return [
        None
        if part is None
        else nn.Sequential(
            *(
                build_part(part, f"{where}[{i}]", inner if j == 0 else outer, outer)
                for j in range(count)
            )
        )
        for i, (part, (inner, outer, count)) in enumerate(
            zip(per_level(parts, len(stages), where), stages, strict=True)
        )
    ]


def modules_after(
    parts: Sequence[Part | None] | None, where: str, widths: Sequence[int]
) -> nn.ModuleList:
    """What the map of each stage passes through; nothing by default.

    Args:
        parts: a module, or None, for each stage.
        where: the argument, for errors.
        widths: of the stages' maps.
    """
    return nn.ModuleList(
        nn.Identity() if part is None else build_part(part, f"{where}[{i}]", width, width)
        for i, (part, width) in enumerate(
            zip(per_level(parts, len(widths), where), widths, strict=True)
        )
    )
