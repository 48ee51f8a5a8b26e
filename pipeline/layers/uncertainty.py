"""Losses of several tasks weighed by how certain the model is of each."""

import torch
from torch import Tensor


def weigh_by_uncertainty(
    loss: Tensor, log_variance: Tensor, weight: Tensor | float = 1.0
) -> Tensor:
    """exp(-s) loss + weight s / 2 for the learned log variance s of a task (Kendall et al. 2018, eq. 10).

    `weight` is what the loss has been multiplied by: what counts nothing, because there is nothing to
    predict, teaches nothing about the variance either.
    """
    return loss * torch.exp(-log_variance) + weight * log_variance / 2
