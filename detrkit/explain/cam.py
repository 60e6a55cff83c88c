"""Class activation maps: where a layer's channels speak for a number of the answer.

A is what a layer returns, (C, h, w); G = dy/dA the derivative of the explained number y by it; a
map is (h, w). i runs over places, c over channels.

    method         map                                                        source
    gradcam        relu(sum_c w_c A_c), w_c = mean_i G_ci                     arXiv:1610.02391, eq. 1, 2
    gradcam++      relu(sum_c w_c A_c), w_c = sum_i a_ci relu(G_ci),          arXiv:1710.11063, eq. 10, 19
                   a_ci = G_ci² / (2 G_ci² + G_ci³ sum_j A_cj)
    hirescam       relu(sum_c G_c A_c)                                        arXiv:2011.08891, eq. 3
    layercam       relu(sum_c relu(G_c) A_c)                                  TIP 2021, Jiang et al., eq. 5, 6
    xgradcam       relu(sum_c w_c A_c), w_c = sum_i G_ci A_ci / sum_i A_ci    arXiv:2008.02312, eq. 7
    eigencam       relu(A v), v the first right singular vector of A          arXiv:2008.00299, section III
    eigengradcam   relu((G A) v), v that of G A                               pytorch-grad-cam

Deviations: HiResCAM's paper shows negative values as well. The sign of a singular vector is free:
here EigenCAM's map has a positive sum, and EigenGradCAM's agrees with HiResCAM's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
}


def class_activation_map(
    method: str, activation: Tensor, gradient: Tensor, *, signless: bool = False
) -> Tensor:
    """A map of one image.

    Args:
        method: of `METHODS`.
        activation, gradient: (C, h, w).
        signless: count influence in either direction, |·| instead of relu(·): for numbers such
            as a coordinate, of which more is no better than less.

    Returns:
        (h, w), at least 0.
    """
    signed = METHODS[method](activation, gradient)
    return signed.abs() if signless else signed.relu()


def as_map(tensor: Tensor, size: tuple[int, int], prefix: int = 0) -> Tensor | None:
    """What a layer returned for one image as a map (C, h, w).

    Args:
        tensor: (1, C, h, w), or tokens (1, N, C) in rows of the image.
        size: (H, W) of the model's input.
        prefix: tokens that stand before those of the image.

    Returns:
        None where it is neither: queries, vectors.
    """
    if tensor.ndim == 4:
        return tensor[0]
    if tensor.ndim != 3:
        return None
    shape = grid_of(tensor.shape[1] - prefix, size)
    return None if shape is None else tensor[0, prefix:].T.unflatten(1, shape)


def grid_of(tokens: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """(h, w) of so many tokens over an input (H, W); None where no stride gives them."""
    for stride in (4, 8, 16, 32, 64):
        for shape in ((size[0] // stride, size[1] // stride),
                      (-(-size[0] // stride), -(-size[1] // stride))):  # fmt: skip
            if tokens and shape[0] * shape[1] == tokens:
                return shape
    return None
