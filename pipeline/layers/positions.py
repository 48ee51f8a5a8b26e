"""Fixed sine-cosine positions, in metres for maps so that grids of different resolution agree.

A 10 m grid of 8-pixel patches and a 30 m grid of 4-pixel patches cover the same ground with
patches of different size; their centres get codes of the same function of ground distance.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.layers.attention import Rotation
from pipeline.layers.float32 import Float32Buffers

# The finest wavelength resolves neighbouring patches of 80 m; the coarsest spans several tiles.
METRES_PER_UNIT = 40.0
MAX_PERIOD = 10_000.0
ROTARY_BASE = 100.0


class PlaceTable(Float32Buffers):
    """One code per place: rows [...] -> codes [..., width]. Float32 whatever the model around it is.

    `kept`: the table is part of the weights, for codes that are no function of the place.
    """

    table: Tensor

    def __init__(self, table: Tensor, kept: bool):
        super().__init__()
        self.register_buffer("table", table, persistent=kept)

    def forward(self, rows: Tensor) -> Tensor:
        return self.table[rows]


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
    down, right = grid_centres(rows, columns, patch_m).unbind(1)
    return torch.cat([sincos(down, width // 2), sincos(right, width // 2)], dim=1)


def grid_centres(rows: int, columns: int, patch_m: float) -> Tensor:
    """Patch centres in position units, (down, right), row-major: [rows * columns, 2]."""
    down = (torch.arange(rows) + 0.5) * patch_m / METRES_PER_UNIT
    right = (torch.arange(columns) + 0.5) * patch_m / METRES_PER_UNIT
    y, x = torch.meshgrid(down, right, indexing="ij")
    return torch.stack([y.flatten(), x.flatten()], dim=1)


def resized_positions(codes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Codes [h * w, D] of one grid as those of another over the same ground, bicubically.

    As TerraMind's `interpolate_pos_encoding`.
    """
    if old == new:
        return codes
    image = codes.float().T.reshape(1, -1, *old)
    image = F.interpolate(image, size=new, mode="bicubic", align_corners=False)
    return image.flatten(2)[0].T.to(codes.dtype)


def head_slopes(num_heads: int) -> Tensor:
    """How fast each head's attention falls with distance: [H], per position unit.

    Geometric from 2 down, as in ALiBi (Press et al. 2022, section 3); the last quarter of the heads
    has slope 0 and sees everywhere alike.
    """
    num_local = num_heads - max(1, num_heads // 4)
    slopes = 2.0 * 4.0 ** -torch.arange(num_local, dtype=torch.float32)
    return torch.cat([slopes, torch.zeros(num_heads - num_local)])


def distance_bias(queries: Tensor, keys: Tensor, slopes: Tensor) -> Tensor:
    """What to add to attention logits: [B, N, 2], [B, K, 2], [H] -> [B, H, N, K].

    Minus slope times the city-block distance on the ground. Tokens without a place have NaN
    coordinates; pairs with one of them get no bias.
    """
    apart = (queries[:, :, None] - keys[:, None]).abs().sum(-1).nan_to_num(0.0)
    return -slopes[:, None, None] * apart[:, None]


def rotation(centres: Tensor, head_width: int) -> Rotation:
    """Rotary positions in the plane: [B, N, 2] -> cosines and sines of [B, 1, N, head_width / 2].

    Half of the angles turn with the distance down, half with the distance right (Heo et al. 2024,
    "axial"); wavelengths go from 2 pi to 200 pi position units. Tokens without a place, NaN, do not turn.
    """
    count = head_width // 4
    rates = ROTARY_BASE ** (-torch.arange(count, device=centres.device) / count)
    angles = centres.nan_to_num(0.0)[..., None] * rates
    angles = angles.flatten(-2)[:, None]
    return Rotation(angles.cos(), angles.sin())
