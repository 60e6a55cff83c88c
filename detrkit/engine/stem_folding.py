"""The first convolution of a model of 3 channels in a model of C channels.

timm's rule (`adapt_input_conv`), which everyone who uses its models knows:

    C = 1   the sum over the three channels: gray gives what the same gray as RGB gave
    else    channel i gets the weights of channel i mod 3, times 3 / C: the response to equal
            channels stays what it was where C is a multiple of 3, and of its size otherwise

So bands in the order red, green, blue, others keep what the model knows about colours. The other
way round, from C channels to 3 or to another number, nothing says which band is which: such a
stem is not loaded.
"""

from __future__ import annotations

import math

from torch import Tensor


def can_fold(given: Tensor, own: Tensor) -> bool:
    """Whether `given` is a stem of 3 channels and `own` the same one of another number."""
    return (
        given.ndim == own.ndim == 4
        and given.shape[1] == 3 != own.shape[1]
        and (given.shape[0], given.shape[2:]) == (own.shape[0], own.shape[2:])
    )


def folded(kernel: Tensor, in_channels: int) -> Tensor:
    """A kernel (out, 3, k, k) for `in_channels` channels, (out, in_channels, k, k)."""
    if in_channels == 1:
        return kernel.sum(1, keepdim=True)
    repeated = kernel.repeat(1, math.ceil(in_channels / 3), 1, 1)[:, :in_channels]
    return repeated * (3 / in_channels)
