"""Physical units -> zero mean and unit deviation per band, inside a module."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.layers.float32 import Float32Buffers


class Standardise(Float32Buffers):
    """[B, C, H, W] in physical units -> float32 [B, C, H, W].

    Pixels without a measurement in any band (not finite, or `nodata`) become 0, the mean, as
    `pipeline.data.transforms.Normaliser` has it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], nodata: float | None):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        scale = torch.tensor(std).clamp(min=1e-6).view(-1, 1, 1)
        self.register_buffer("std", scale, persistent=False)
        self.nodata = None if nodata is None or math.isnan(nodata) else nodata

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return torch.where(measured(x, self.nodata), (x - self.mean) / self.std, 0.0)


def measured(x: Tensor, nodata: float | None) -> Tensor:
    """Where all bands carry a measurement: [B, C, H, W] -> bool [B, 1, H, W]."""
    valid = torch.isfinite(x)
    if nodata is not None:
        valid = valid & (x != nodata)
    return valid.all(1, keepdim=True)
