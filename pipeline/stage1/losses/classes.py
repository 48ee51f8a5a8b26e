"""The error of each pixel of class maps."""

import torch.nn.functional as F
from torch import Tensor


def class_loss(logits: Tensor, maps: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross-entropy averaged over maps: logits [B, C*K, H, W], maps [B, C, H, W] -> [B, H, W].

    C maps of the same K classes; the logits of a map lie together. `weights` [K] multiply the loss of
    a pixel of that class; they are not divided out again, so that a window full of a rare class counts
    as much more as its weight says.
    """
    b, c, h, w = maps.shape
    apart = logits.reshape(b * c, -1, h, w)
    loss = F.cross_entropy(
        apart, maps.reshape(b * c, h, w).long(), weight=weights, reduction="none"
    )
    return loss.view(b, c, h, w).mean(1)
