"""Class activation maps: where a layer's channels speak for a number of the answer.

A is what a layer returns, (C, h, w); G = dy/dA the derivative of the explained number y by it; a
map is (h, w). i runs over places, c over channels. The functions here return maps with their sign,
before the relu.

    gradcam        relu(sum_c w_c A_c), w_c = mean_i G_ci
                   Selvaraju et al., ICCV 2017, arXiv:1610.02391, eq. 1 and 2
    gradcam++      relu(sum_c w_c A_c), w_c = sum_i a_ci relu(G_ci),
                   a_ci = G_ci² / (2 G_ci² + G_ci³ sum_j A_cj)
                   Chattopadhyay et al., WACV 2018, arXiv:1710.11063
    hirescam       relu(sum_c G_c A_c)
                   Draelos and Carin, arXiv:2011.08891
    layercam       relu(sum_c relu(G_c) A_c)
                   Jiang et al., IEEE Transactions on Image Processing 30, 2021
    xgradcam       relu(sum_c w_c A_c), w_c = sum_i G_ci A_ci / sum_i A_ci
                   Fu et al., BMVC 2020, arXiv:2008.02312
    eigencam       relu(A v), v the first right singular vector of A as (places, channels)
                   Muhammad and Yeasin, IJCNN 2020, arXiv:2008.00299
    eigengradcam   relu((G A) v), v that of G A
                   EigenCAM with the gradient, of the package pytorch-grad-cam

Deviations: HiResCAM's paper shows negative values as well. The sign of a singular vector is free:
here EigenCAM's map has a positive sum, and EigenGradCAM's agrees with HiResCAM's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from detrkit.errors import UsageError

_TINY = 1e-12


def _channels(a: Tensor, weights: Tensor) -> Tensor:
    return (weights[:, None, None] * a).sum(0)


def gradcam(a: Tensor, g: Tensor) -> Tensor:
    return _channels(a, g.mean((1, 2)))


def gradcam_plus_plus(a: Tensor, g: Tensor) -> Tensor:
    below = 2 * g**2 + g**3 * a.sum((1, 2), keepdim=True)
    alpha = torch.where(below.abs() > _TINY, g**2 / below, torch.zeros_like(g))
    return _channels(a, (alpha * g.relu()).sum((1, 2)))


def hirescam(a: Tensor, g: Tensor) -> Tensor:
    return (g * a).sum(0)


def layercam(a: Tensor, g: Tensor) -> Tensor:
    return (g.relu() * a).sum(0)


def xgradcam(a: Tensor, g: Tensor) -> Tensor:
    total = a.sum((1, 2))
    weights = torch.where(total.abs() > _TINY, (g * a).sum((1, 2)) / total, torch.zeros_like(total))
    return _channels(a, weights)


def eigencam(a: Tensor, g: Tensor) -> Tensor:
    projected = first_component(a)
    return projected if projected.sum() >= 0 else -projected


def eigengradcam(a: Tensor, g: Tensor) -> Tensor:
    projected = first_component(g * a)
    return projected if (projected * hirescam(a, g)).sum() >= 0 else -projected


def first_component(maps: Tensor) -> Tensor:
    """(C, h, w) -> (h, w): each place along the first right singular vector of (h·w, C)."""
    rows = maps.flatten(1).T.double()  # (h·w, C)
    if not rows.any():
        return maps.new_zeros(maps.shape[1:])
    # the vector from the smaller Gram matrix: C is at most some hundreds
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    return (rows @ vectors[:, -1]).reshape(maps.shape[1:]).to(maps.dtype)


#: name -> activation (C, h, w), gradient (C, h, w) -> signed map (h, w).
METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "hirescam": hirescam,
    "layercam": layercam,
    "xgradcam": xgradcam,
    "eigencam": eigencam,
    "eigengradcam": eigengradcam,
}

#: As papers write them.
TITLES = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGrad-CAM",
    "eigencam": "Eigen-CAM",
    "eigengradcam": "EigenGradCAM",
    "rollout": "attention rollout",
    "cross-attention": "cross-attention",
}


def map_of(layer: str, tensor: Tensor, size: tuple[int, int], prefix: int = 0) -> Tensor:
    """What a layer returned for one image as a map (C, h, w).

    Args:
        layer: its name, for the message.
        tensor: (1, C, h, w), or tokens (1, N, C) in rows of the image.
        size: (H, W) of the model's input.
        prefix: tokens that stand before those of the image inside a vision transformer.

    Raises:
        UsageError: it is neither, but queries or vectors.
    """
    if tensor.ndim == 4:
        return tensor[0]
    if tensor.ndim == 3 and not layer.startswith("decoder."):  # queries are no places
        for before in (prefix, 0):
            shape = grid_of(tensor.shape[1] - before, size)
            if shape is not None:
                return tensor[0, before:].T.unflatten(1, shape)
    raise UsageError(
        f"layer {layer} is no map of the image: its shape is {tuple(tensor.shape)}",
        hint="`--layers` lists shapes; maps are 1 x C x h x w, or tokens of the image",
    )


def grid_of(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """(h, w) of so many tokens over an input (H, W); None where no stride gives them."""
    for stride in (4, 8, 16, 32, 64):
        for shape in ((size[0] // stride, size[1] // stride),
                      (-(-size[0] // stride), -(-size[1] // stride))):  # fmt: skip
            if tokens and shape[0] * shape[1] == tokens:
                return shape
    return None
