"""Windows of one group as patches, standardised as it wants them.

Shapes: B samples, C bands, H W pixels, N patches of p x p pixels, v = p p C values (p p of class maps).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.layers.patches import patchify
from pipeline.multimae.groups import Group

TRUNCATED = 0.1
_FLOOR = 1e-6


class Patches(NamedTuple):
    """`values` [B, N, v], float32 or classes as they are stored; `valid` bool [B, N, p * p].

    Images are `values * scale + centre` of what came in, [B, 1, 1] each.
    """

    values: Tensor
    valid: Tensor
    centre: Tensor
    scale: Tensor


def cut_patches(group: Group, x: Tensor, valid: Tensor) -> Patches:
    """The patches of windows of the group's bands [B, C, H, W], which are normalised images or class maps,
    and where these are valid [B, H, W].

    What stands in invalid pixels becomes 0. Class maps keep the pixel in the middle of each
    `stride` x `stride`: no class arises that was not there.
    """
    first = group.stride // 2
    if group.stride > 1:
        x = x[..., first :: group.stride, first :: group.stride]
        valid = valid[..., first :: group.stride, first :: group.stride]
    x = torch.where(valid[:, None], x, 0)
    centre, scale = x.new_zeros(len(x), 1, 1), x.new_ones(len(x), 1, 1)
    if group.robust:
        centre, scale = robust_statistics(x, valid)
        x = torch.where(valid[:, None], (x - centre[..., None]) / scale[..., None], 0)
    in_patches = patchify(valid[:, None], group.patch_px)
    return Patches(patchify(x, group.patch_px), in_patches, centre, scale)


def robust_statistics(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the middle 80 % of each sample's valid values: two of [B, 1, 1].

    As `standardize_depth_map` of MultiMAE: values from rank [0.1 n] to [0.9 n], unbiased variance, 1e-6
    beside it. Here the values are normalised already, so that ground which rises by less than a
    thousandth of the data set's deviation stays flat. (0, 1) where nothing is valid.
    """
    flat = x.flatten(1)
    good = valid[:, None].expand_as(x).flatten(1)
    ordered = torch.where(good, flat, torch.inf).sort(1).values
    count = good.sum(1, keepdim=True)
    rank = torch.arange(flat.shape[1], device=x.device)
    low, high = ((share * count.double()).long() for share in (TRUNCATED, 1 - TRUNCATED))
    # Of fewer than three values nothing would be left in the middle.
    few = high <= low
    low, high = torch.where(few, 0, low), torch.where(few, count, high)
    middle = (rank >= low) & (rank < high)
    kept = middle.sum(1, keepdim=True)
    ordered = torch.where(middle, ordered, 0.0)
    mean = ordered.sum(1, keepdim=True) / kept.clamp(min=1)
    square = torch.where(middle, (ordered - mean) ** 2, 0.0).sum(1, keepdim=True)
    deviation = (square / (kept - 1).clamp(min=1) + _FLOOR).sqrt()
    deviation = torch.where(count > 0, deviation, 1.0)
    return mean[..., None], deviation[..., None]


def normed(values: Tensor, valid: Tensor) -> Tensor:
    """Each patch with mean 0 and variance 1 over its valid values (He et al. 2022, section 4.1).

    [B, N, p * p * C] -> the same; unbiased variance and 1e-6 beside it, as the public code has it.
    """
    num = valid.shape[-1]
    pixels = values.unflatten(-1, (num, values.shape[-1] // num))
    good = valid[..., None]
    count = good.sum((-2, -1), keepdim=True) * pixels.shape[-1]
    mean = torch.where(good, pixels, 0.0).sum((-2, -1), keepdim=True) / count.clamp(min=1)
    apart = torch.where(good, pixels - mean, 0.0)
    variance = (apart**2).sum((-2, -1), keepdim=True) / (count - 1).clamp(min=1)
    return (apart / (variance + _FLOOR).sqrt()).flatten(-2)
