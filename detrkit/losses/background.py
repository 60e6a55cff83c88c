"""How much the class losses count for queries that answer for no box: `bg_loss_weight`.

With l_q the class loss of query q, summed over the classes, N boxes and weight w:

    L = 1/N (sum of l_q over matched q  +  w · sum of l_q over the others)

in every output that is judged, the denoising queries included. An image without targets has only
such others, so w is also the weight of these images. At 1 nothing is multiplied.

`alpha` of the varifocal and `mal_alpha` of the matchability loss weigh every class that is absent,
also those of a matched query; here the matched queries stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from detrkit.losses.matches import Matching


def background_weights(matching: Matching, queries: int, weight: float) -> Tensor | None:
    """Weight of each query's class loss.

    Args:
        matching: pairs of L outputs.
        queries: N = B·Q.
        weight: of queries without a pair.

    Returns:
        (L, N): 1 where there is a pair, `weight` elsewhere. None where all are 1.
    """
    if weight == 1:
        return None
    device = matching.queries.device
    weights = torch.full((len(matching.queries), queries), float(weight), device=device)
    weights[matching.rows(), matching.queries] = 1.0
    return weights
