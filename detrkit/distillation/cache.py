"""A teacher's answers to pictures that come again.

A picture is known by its pixels as the student gets them, behind all augmentation: an answer is
never one to another picture, and where augmentation draws every picture anew nothing is found.
What fixed transforms make of an image is the same in every epoch: from the second on the teacher
rests.

The teacher sees one picture at a time. Beside others its answer would differ in the last bits, and
a run that was resumed, with an empty memory, is to end with the same weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from detrkit.distillation.teacher import Answers, Teacher

log = logging.getLogger("detrkit")

#: The shape of a picture and two sums over its pixels.
Fingerprint = tuple[int, ...]


class AnswerCache:
    """Keeps answers in main memory; those to pictures that an epoch did not bring go at its end.

    Args:
        megabytes: so much at most; what comes when it is full is asked for again.
    """

    def __init__(self, megabytes: float) -> None:
        self.limit = int(megabytes * 1e6)
        self.bytes = 0
        self._kept: dict[Fingerprint, Answers] = {}
        self._of_epoch: set[Fingerprint] = set()
        self._epochs = self._asked = self._found = 0
        self._factors = torch.zeros(2, 0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._kept)

    def ask(self, teacher: Teacher, images: Tensor) -> Answers:
        """What the teacher says about a batch (B, C, H, W) float32, or said of its pictures."""
        answers = [self._answer(teacher, image) for image in images.split(1)]
        return _combined(answers, lambda parts: torch.cat([x.to(images.device) for x in parts]))

    def _answer(self, teacher: Teacher, image: Tensor) -> Answers:
        key = self._fingerprint(image)
        self._asked += 1
        self._of_epoch.add(key)
        if key in self._kept:
            self._found += 1
            return self._kept[key]
        answer = teacher(image)
        size = _bytes(answer)
        if self.bytes + size <= self.limit:
            self._kept[key] = _combined([answer], lambda whole: whole[0].to("cpu", copy=True))
            self.bytes += size
        return answer

    def begin_epoch(self) -> None:
        """Lets go of what the epoch behind did not bring; says once how much is found."""
        if self._asked:
            self._epochs += 1
        if self._epochs == 2 and self._asked:
            self._say()
        for key in self._kept.keys() - self._of_epoch:
            self.bytes -= _bytes(self._kept.pop(key))
        self._of_epoch.clear()
        self._asked = self._found = 0

    def clear(self) -> None:
        """Lets go of everything."""
        self._kept.clear()
        self._of_epoch.clear()
        self.bytes = 0

    def _say(self) -> None:
        if self._found:
            log.info(
                "%.0f %% of the pictures of an epoch are answered from memory (%.0f of %.0f MB)",
                100 * self._found / self._asked, self.bytes / 1e6, self.limit / 1e6,
            )  # fmt: skip
        else:
            log.warning(
                "distillation.cache_mb: no picture came twice in two epochs, for transforms are "
                "random; without it the teacher is faster: it sees whole batches"
            )

    def _fingerprint(self, image: Tensor) -> Fingerprint:
        """Sums of the pixels' bits, each with a random factor of 64 bits, on the device."""
        pixels = image.contiguous().view(torch.int32).flatten().long()
        if self._factors.shape[1] < len(pixels) or self._factors.device != image.device:
            draws = torch.Generator().manual_seed(0)
            factors = torch.randint(-(2**63), 2**63 - 1, (len(pixels), 2), generator=draws)
            self._factors = factors.T.contiguous().to(image.device)
        sums = (self._factors[:, : len(pixels)] * pixels).sum(1)
        return (*image.shape, *sums.tolist())


def _combined(answers: Sequence[Answers], function: Callable[[list[Tensor]], Tensor]) -> Answers:
    """What a function makes of every value that several answers have, in its place."""
    first = answers[0]
    edges = first.edges
    if edges is not None:
        every = [answer.edges for answer in answers if answer.edges is not None]
        edges = replace(
            edges,
            logits=function([one.logits for one in every]),
            references=function([one.references for one in every]),
        )
    logits = [answer.logits for answer in answers if answer.logits is not None]
    boxes = [answer.boxes for answer in answers if answer.boxes is not None]
    return Answers(
        function(logits) if logits else None,
        function(boxes) if boxes else None,
        edges,
        {stage: function([answer.maps[stage] for answer in answers]) for stage in first.maps},
    )


def _bytes(answers: Answers) -> int:
    tensors = [answers.logits, answers.boxes, *answers.maps.values()]
    if answers.edges is not None:
        tensors += [answers.edges.logits, answers.edges.references]
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)
