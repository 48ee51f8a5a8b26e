"""Fixed sine-cosine positions, in metres for maps so that grids of different resolution agree.

A 10 m grid of 8-pixel patches and a 30 m grid of 4-pixel patches cover the same ground with
patches of different size; their centres get codes of the same function of ground distance.
"""

import torch
from torch import Tensor

# The finest wavelength resolves neighbouring patches of 80 m; the coarsest spans several tiles.
METRES_PER_UNIT = 40.0
MAX_PERIOD = 10_000.0


def sincos(values: Tensor, width: int) -> Tensor:
    """[N] positions -> [N, width] codes (Vaswani et al. 2017, section 3.5). `width` is even."""
    half = width // 2
    rates = MAX_PERIOD ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = values.double()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def grid_positions(rows: int, columns: int, patch_m: float, width: int) -> Tensor:
    """Codes of patch centres on the ground, row-major: [rows * columns, width].

    Half the width codes the distance down, half the distance right. `width` is a multiple of 4.
    """
    down = (torch.arange(rows) + 0.5) * patch_m / METRES_PER_UNIT
    right = (torch.arange(columns) + 0.5) * patch_m / METRES_PER_UNIT
    y, x = torch.meshgrid(down, right, indexing="ij")
    return torch.cat([sincos(y.flatten(), width // 2), sincos(x.flatten(), width // 2)], dim=1)
