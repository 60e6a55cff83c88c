"""What kinds of operations a forward pass spends its time in, by torch's profiler."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from detrkit.engine.benchmarking.breakdown import Spent

#: Kinds of operations of PyTorch and of ONNX; the first that is found in a name counts.
_KINDS = (
    ("optimizer", r"adam|\bsgd"),
    ("memory", r"^resize_"),
    ("data loading", r"dataloader"),
    ("attention", r"attention|scaled_dot"),
    ("convolution", r"conv"),
    ("pooling, resizing", r"pool|upsample|resize|interpolate"),
    ("quantization", r"quantize"),
    ("matrix product", r"matmul|gemm|addmm|bmm|\bmm\b|linear|einsum"),
    ("sampling", r"grid_?sampl|deform"),
    ("normalization", r"norm"),
    ("activation", r"relu|silu|swish|gelu|sigmoid|tanh|softmax|elu|erf|clamp|clip|mish"),
    ("selection", r"topk|sort|gather|scatter|index|where|nonzero|argm|masked"),
    (
        "memory",
        r"copy|clone|contiguous|\bcat\b|concat|stack|split|chunk|reshape|view|transpose|permute"
        r"|expand|slice|squeeze|reorder|cast|\bto\b|empty|fill|zero|ones|full|\bpad|shape|flatten"
        r"|identity|repeat|tile|select|narrow|strided|detach|alias|constant|range|unbind|memcpy"
        r"|memset|resolve|\bt\b|lift_fresh",
    ),
    (
        "arithmetic",
        r"add|sub|mul|div|pow|exp|log|sqrt|sum|mean|max|min|abs|neg|reciprocal|floor|ceil|round"
        r"|sin|cos|equal|less|greater|\b(eq|ne|lt|gt|le|ge)\b|\b(and|or|not)\b|cumsum|sign",
    ),
)
_PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern in _KINDS)


def kind_of_operator(name: str) -> str:
    """`aten::addmm` and `FusedMatMul` -> "matrix product"; "other" for names that tell nothing."""
    plain = name.rpartition("::")[2].lower().lstrip("_")
    return next((kind for kind, pattern in _PATTERNS if pattern.search(plain)), "other")


def time_operators(
    call: Callable[[], object], device: torch.device, *, passes: int = 5
) -> list[Spent]:
    """Time by kind of operation, the most first; of kernels on a GPU, of operators elsewhere.

    The profiler costs time at every operation, the more the smaller they are: shares are worth
    more than milliseconds.

    Args:
        call: a forward pass, which has run before.
        device: that computes.
        passes: that are averaged.
    """
    quiet_profiler()
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with torch.inference_mode(), profile(activities=activities) as profiled:
        for _ in range(passes):
            call()
        if on_gpu:
            torch.cuda.synchronize(device)
    return grouped(
        (
            (event.key, own_milliseconds(event, device), event.count)
            for event in profiled.key_averages()
        ),
        passes,
    )


def quiet_profiler() -> None:
    """Keeps the profiler's library from writing its log to stderr; before its first use."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")


def own_milliseconds(event: Any, device: torch.device) -> float:
    """Of an event of a profile: of its kernels on a GPU, of the host elsewhere."""
    on_gpu = device.type == "cuda"
    own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
    return float(own) / 1000


def grouped(operations: Iterable[tuple[str, float, float]], passes: int) -> list[Spent]:
    """Adds operations of a kind up, the most time first.

    Args:
        operations: (name, milliseconds, calls) over all passes.
        passes: to average over.
    """
    times: dict[str, dict[str, float]] = {}
    calls: dict[str, float] = {}
    for name, milliseconds, count in operations:
        if milliseconds > 0:
            kind = kind_of_operator(name)
            own = times.setdefault(kind, {})
            own[name] = own.get(name, 0.0) + milliseconds
            calls[kind] = calls.get(kind, 0.0) + count
    rows = [
        Spent(
            kind,
            sum(members.values()) / passes,
            calls[kind] / passes,
            ", ".join(sorted(members, key=lambda name: -members[name])[:3]),
        )
        for kind, members in times.items()
    ]
    return sorted(rows, key=lambda row: -row.milliseconds)
