"""Positions of the patches of square windows, of one size or of several."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.layers.positions import grid_positions, sincos

PUBLIC_SIDE = 16
"""Patches along a side of the grid on which 4M and TerraMind define positions: 256 px windows."""


class GridPositions(nn.Module):
    """Codes of patches for each side, in patches, that a window may have.

    Of their centres on the ground, `patch_m` metres apart; or of their numbers, as 4M and TerraMind have
    them. `forward(h[B, N, D]) -> [N, D]`, in the type of `h`.
    """

    def __init__(self, sides: tuple[int, ...], patch_m: float, width: int, *, public: bool = False):
        super().__init__()
        self.width, self.sides = width, tuple(sorted(set(sides)))
        for side in self.sides:
            codes = (
                public_positions(side, width)
                if public
                else grid_positions(side, side, patch_m, width)
            )
            self.register_buffer(f"side{side}", codes, persistent=False)

    def forward(self, h: Tensor) -> Tensor:
        return getattr(self, f"side{self.side(h.shape[1])}").to(h.dtype)

    def side(self, num_patches: int) -> int:
        """Patches along one side of a window of so many."""
        side = math.isqrt(num_patches)
        assert side in self.sides, (num_patches, self.sides)
        return side


def public_positions(side: int, width: int) -> Tensor:
    """Codes [side * side, D] of row and column numbers, a table of 16 x 16 resized to other sides."""
    codes = sincos(torch.arange(PUBLIC_SIDE, dtype=torch.float64), width // 2)
    rows = codes[:, None].expand(-1, PUBLIC_SIDE, -1)
    table = torch.cat([rows, rows.transpose(0, 1)], dim=2).permute(2, 0, 1)
    if side != PUBLIC_SIDE:
        table = F.interpolate(table[None], (side, side), mode="bicubic", align_corners=False)[0]
    return table.flatten(1).T
