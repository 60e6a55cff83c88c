"""Image files: can they be decoded, and is one of them in two parts of the data set?"""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from detrkit.data.image_check import read_indexed
from detrkit.data.index import DatasetIndex
from detrkit.engine.doctor.fault_checks import EXAMPLES, SPOILT
from detrkit.engine.doctor.report import Check, Status, ok
from detrkit.errors import DataError
from detrkit.words import count, share


def decode_check(
    parts: Mapping[str, DatasetIndex], cores: int, seconds: float | None, channels: int = 3
) -> tuple[Check, dict[str, list[int]]]:
    """Decodes images, in random order until the time is over.

    Args:
        parts: of the data set.
        cores: threads to use.
        seconds: time to spend; None: until all are done.
        channels: C, what the model takes.

    Returns:
        The check, and per part the numbers of the images that cannot be decoded.
    """
    every = [(name, i) for name, part in parts.items() for i in range(len(part))]
    order = np.random.default_rng(0).permutation(len(every))
    todo = (every[i] for i in order)
    broken: dict[str, list[int]] = {name: [] for name in parts}
    reasons: list[str] = []
    looked = 0
    started = time.perf_counter()
    with ThreadPoolExecutor(max(cores, 1), thread_name_prefix="decode") as threads:
        while chunk := list(islice(todo, 8 * max(cores, 1))):
            found = threads.map(lambda item: _failure(parts[item[0]], item[1], channels), chunk)
            for (name, number), reason in zip(chunk, found, strict=True):
                looked += 1
                if reason is not None:
                    broken[name].append(number)
                    reasons.append(reason)
            if seconds is not None and time.perf_counter() - started > seconds:
                break
    broken = {name: sorted(numbers) for name, numbers in broken.items()}
    rate = looked / max(time.perf_counter() - started, 1e-9)
    text = (
        f"{count(looked, 'image')} decoded"
        if looked == len(every)
        else (f"{looked:,} of {count(len(every), 'image')} decoded, drawn at random")
    )
    values = {"decoded": looked, "images": len(every), "broken": len(reasons), "per_second": rate}
    if not reasons:
        return ok("data.pixels", f"{text}, none is damaged", values=values), broken
    spoilt = len(reasons) > SPOILT * looked
    return Check(
        "data.pixels",
        Status.PROBLEM if spoilt else Status.WARNING,
        f"{text}, {len(reasons):,} of them are damaged ({share(len(reasons), looked)}): training "
        "puts others in their place, validation counts their boxes as missed",
        "copy them again, or leave them out: --fix",
        details=tuple(sorted(reasons)[:EXAMPLES]),
        values=values,
        exit_code=DataError.exit_code if spoilt else 0,
    ), broken


def _failure(part: DatasetIndex, number: int, channels: int) -> str | None:
    try:
        read_indexed(part, number, channels)
    except DataError as error:
        return error.message
    return None


def leak_checks(parts: Mapping[str, DatasetIndex], seconds: float) -> list[Check]:
    """Whether images that are trained on are measured on as well: scores on them prove nothing.

    The same file by its path, or another file of the same content. Files are compared where
    their lengths are equal, until the time is over.
    """
    train = parts.get("train")
    if train is None:
        return []
    checks = []
    deadline = time.perf_counter() + seconds
    lengths = _by_length(train.paths)
    for name, part in parts.items():
        if name == "train":
            continue
        trained = set(train.paths)
        common = {path: path for path in part.paths if path in trained}
        twins, complete = _twins(
            (path for path in part.paths if path not in trained), lengths, deadline
        )
        common |= twins
        if not common:
            said = "" if complete else " among those that could be compared in time"
            checks.append(ok(f"data.leak.{name}", f"no image of {name} is trained on{said}"))
            continue
        pairs = [a if a == b else f"{a} = {b}" for a, b in islice(sorted(common.items()), EXAMPLES)]
        checks.append(
            Check(
                f"data.leak.{name}",
                Status.WARNING,
                f"{len(common):,} of {count(len(part), 'image')} of {name} "
                f"({share(len(common), len(part))}) are trained on as well: "
                "their scores prove nothing",
                "split again, with all copies of an image in one part",
                details=tuple(pairs),
                values={"images": len(common), "complete": complete},
            )
        )
    return checks


def _by_length(paths: Iterable[str]) -> dict[int, list[str]]:
    found: defaultdict[int, list[str]] = defaultdict(list)
    for path in paths:
        length = _length(path)
        if length:
            found[length].append(path)
    return dict(found)


def _twins(
    paths: Iterable[str], lengths: Mapping[int, list[str]], deadline: float
) -> tuple[dict[str, str], bool]:
    """Path -> path of equal content, and whether all were compared."""
    found: dict[str, str] = {}
    digests: dict[str, bytes] = {}
    for path in paths:
        if time.perf_counter() > deadline:
            return found, False
        for other in lengths.get(_length(path), ()):
            if _digest(path, digests) == _digest(other, digests):
                found[path] = other
                break
    return found, True


def _length(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _digest(path: str, known: dict[str, bytes]) -> bytes:
    if path not in known:
        try:
            with open(path, "rb") as file:
                known[path] = hashlib.blake2b(file.read(), digest_size=16).digest()
        except OSError:
            known[path] = path.encode("utf-8", "surrogateescape")  # equal to no other
    return known[path]
