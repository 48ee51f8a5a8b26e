"""The error of each pixel of an image."""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

_LOSSES: dict[str, Callable[..., Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "huber": F.smooth_l1_loss,
}


def pixel_loss(kind: Literal["l1", "l2", "huber"], prediction: Tensor, truth: Tensor) -> Tensor:
    """Error averaged over bands, of normalised images [B, C, H, W] -> [B, H, W].

    `huber` is quadratic below one standard deviation and linear above.
    """
    return _LOSSES[kind](prediction, truth, reduction="none").mean(1)
