"""Structural similarity (Wang, Bovik, Sheikh and Simoncelli 2004, IEEE TIP 13(4), section III.B)."""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW_PX = 11
SIGMA_PX = 1.5
_K1, _K2 = 0.01, 0.03


def ssim_sums(
    prediction: Tensor, truth: Tensor, valid: Tensor, ranges: Tensor
) -> tuple[Tensor, Tensor]:
    """Similarity summed over windows that are valid in all their pixels: (sum [C], windows []), float64.

    Images [B, C, H, W] in physical units, valid [B, H, W], `ranges` [C] the span of values of each band
    (L in the paper). Windows of 11 x 11 pixels under a Gaussian of 1.5 pixels, one around each pixel,
    none beyond the border; so that images smaller than a window have none.
    """
    num_bands = prediction.shape[1]
    if min(prediction.shape[2:]) < WINDOW_PX:
        return torch.zeros_like(ranges, dtype=torch.float64), valid.new_zeros(
            (), dtype=torch.float64
        )
    whole = F.max_pool2d((~valid)[:, None].float(), WINDOW_PX, stride=1) == 0
    x = torch.where(valid[:, None], prediction, 0.0).double()
    y = torch.where(valid[:, None], truth, 0.0).double()
    # In float64: variances are differences of squares, of heights with six digits.
    products = torch.stack([x, y, x * x, y * y, x * y])
    mean_x, mean_y, xx, yy, xy = _blurred(products.flatten(0, 1)).unflatten(0, (5, -1))
    c1, c2 = ((k * ranges.double()).view(num_bands, 1, 1) ** 2 for k in (_K1, _K2))
    var_x, var_y, cov = xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    similarity = luminance * (2 * cov + c2) / (var_x + var_y + c2)
    return (similarity * whole).sum((0, 2, 3)), whole.sum().double()


def _blurred(x: Tensor) -> Tensor:
    """Weighted means over windows: [B, C, H, W] -> [B, C, H - 10, W - 10]."""
    offsets = torch.arange(WINDOW_PX, dtype=x.dtype, device=x.device) - WINDOW_PX // 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA_PX**2))
    weights = weights / weights.sum()
    planes = x.flatten(0, 1)[:, None]
    planes = F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return planes[:, 0].unflatten(0, x.shape[:2])
