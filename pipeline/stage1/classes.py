"""Class maps as channels, for decoders and critics that work on amounts.

Shapes: B batch, C maps, K classes, H W pixels; channels run map by map, class by class.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def to_channels(x: Tensor, num_classes: int) -> Tensor:
    """Classes [B, C, H, W] -> one-hot float32 [B, C*K, H, W], 1 for the class and -1 for the others."""
    one_hot = F.one_hot(x.long(), num_classes).permute(0, 1, 4, 2, 3)
    return one_hot.flatten(1, 2).float() * 2 - 1


def straight_through(logits: Tensor, num_classes: int) -> Tensor:
    """Logits [B, C*K, H, W] -> the likeliest class as `to_channels` shows it, with the gradient of the
    probabilities (Bengio et al. 2013): a critic could tell probabilities from classes at a glance.
    """
    split = logits.float().unflatten(1, (-1, num_classes))
    soft = split.softmax(2)
    hard = torch.zeros_like(soft).scatter_(2, split.argmax(2, keepdim=True), 1.0)
    return (soft + (hard - soft).detach()).flatten(1, 2) * 2 - 1


def to_classes(channels: Tensor, num_classes: int) -> Tensor:
    """Logits or channels [B, C*K, H, W] -> the likeliest classes [B, C, H, W] int64."""
    return channels.unflatten(1, (-1, num_classes)).argmax(2)
