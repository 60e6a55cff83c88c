"""The selective scan S6. Mamba, Gu and Dao, COLM 2024, arXiv:2312.00752, section 3.

δ_t = softplus(dt_t + bias)
h_t = exp(δ_t A) h_t-1 + δ_t B_t u_t        h_0 = 0
y_t = <C_t, h_t> + D u_t

A linear recurrence: two steps after another are one step of the same kind, so that the states at
odd times are a recurrence of half the length, and those at even times follow from them. That
takes 2 log₂ L tensor operations and work linear in L, and multiplies factors between 0 and 1 only,
which may vanish but never overflow.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detrkit.ops.kernels import kernel_for
from detrkit.ops.precision import precise

#: Steps whose states are held at once; longer sequences go piece by piece. Few fit in the caches of
#: a CPU; on a GPU, and in an exported graph, each piece costs operations.
CPU_CHUNK, CHUNK = 128, 2048


def selective_scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
) -> Tensor:
    """S6 over sequences, in float32 at least; on a GPU with `mamba_ssm`, if it is installed.

    Args:
        u: (batch, G·d, L) values; channels of a group follow each other.
        dt: (batch, G·d, L) step sizes before the softplus.
        A: (G·d, n), negative.
        B, C: (batch, G, n, L), shared by the channels of a group.
        D, dt_bias: (G·d,).

    Returns:
        (batch, G·d, L) in the type of `u`.
    """
    dtype = u.dtype
    u, dt, A, B, C, D, dt_bias = map(precise, (u, dt, A, B, C, D, dt_bias))
    with torch.autocast(u.device.type, enabled=False):
        kernel = kernel_for(u, "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
        if kernel is not None:
            y = kernel(u, dt, A, B, C, D, delta_bias=dt_bias, delta_softplus=True)
        else:
            y = _scan(u, F.softplus(dt + dt_bias[:, None]), A, B, C) + D[:, None] * u
    return y.to(dtype)


def _scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """<C_t, h_t>, a chunk after another."""
    groups = B.shape[1]
    A = A.unflatten(0, (groups, -1))  # (G, d, n)
    u, delta = (x.permute(2, 0, 1).unflatten(2, (groups, -1)) for x in (u, delta))  # (L, b, G, d)
    B, C = (x.permute(3, 0, 1, 2) for x in (B, C))  # (L, b, G, n)
    cached = u.device.type == "cpu" and not torch.jit.is_tracing()
    chunk = CPU_CHUNK if cached else CHUNK
    state = None
    outputs = []
    for start in range(0, u.shape[0], chunk):
        now = slice(start, start + chunk)
        step = delta[now, ..., None]
        decay = (step * A).exp()  # (L, b, G, d, n)
        added = step * u[now, ..., None] * B[now, :, :, None]
        if state is not None:
            added = torch.cat([added[:1] + decay[:1] * state, added[1:]])
        states = linear_recurrence(decay, added)
        state = states[-1:]
        outputs.append((states @ C[now, ..., None]).squeeze(-1))
    return torch.cat(outputs).flatten(2).permute(1, 2, 0)


def linear_recurrence(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t h_t-1 + b_t along the first dimension, h_0 = 0. Two (L, …) -> (L, …)."""
    if torch.jit.is_tracing() or not torch.is_grad_enabled():
        return _recurrence(a, b)
    return _Recurrence.apply(a, b)


def _recurrence(a: Tensor, b: Tensor) -> Tensor:
    length = a.shape[0]
    if length == 1:
        return b
    pairs = length // 2
    before, here = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2)
    second = _recurrence(a[here] * a[before], a[here] * b[before] + b[here])
    first = torch.cat([b[:1], a[2::2] * second[: (length - 1) // 2] + b[2::2]])
    whole = torch.stack([first[:pairs], second], 1).flatten(0, 1)
    return torch.cat([whole, first[pairs:]]) if length % 2 else whole


class _Recurrence(torch.autograd.Function):
    """Keeps a and h only; the gradient is a recurrence too, backwards in time."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        h = _recurrence(a, b)
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        a, h = ctx.saved_tensors
        later = torch.cat([a[1:], torch.zeros_like(a[:1])])
        b_gradient = linear_recurrence(later.flip(0), gradient.flip(0)).flip(0)
        earlier = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
        return b_gradient * earlier, b_gradient
