"""Visible tokens of one stream as one vector per target, without attention.

Shapes: B batch, N input tokens, K targets, R reaches, D width.
"""

import torch
from torch import Tensor

from pipeline.layers.positions import METRES_PER_UNIT, distance_bias


def nearness(targets: Tensor, inputs: Tensor, reach_m: Tensor) -> Tensor:
    """Logs of weights that fall by 1/e in each of `reach_m` [R] metres: [B, R, K, N].

    Places [B, K, 2] and [B, N, 2] are in position units; to what has none, NaN, all is equally near.
    """
    return distance_bias(targets, inputs, METRES_PER_UNIT / reach_m)


def pool(x: Tensor, near: Tensor, mine: Tensor) -> Tensor:
    """Weighted means of a stream's tokens, one per reach and one that sees all alike.

    Args:
        x: [B, N, D] tokens of all streams.
        near: [B, R, K, N] as `nearness` gives it.
        mine: bool [B, N], which tokens are of the stream.

    Returns:
        [B, K, (R + 1) D]; zeros for a sample without any.
    """
    b, r, k, n = near.shape
    there = mine.any(1)[:, None, None].to(x.dtype)
    lowest = torch.finfo(near.dtype).min
    weights = near.masked_fill(~mine[:, None, None], lowest).softmax(-1).to(x.dtype)
    local = (weights.reshape(b, r * k, n) @ x).view(b, r, k, -1).transpose(1, 2).flatten(2)
    share = mine.to(x.dtype) / mine.sum(1, keepdim=True).clamp(min=1)
    everywhere = (share[:, None] @ x).expand(-1, k, -1)
    return torch.cat([local, everywhere], -1) * there
