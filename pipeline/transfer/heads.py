"""Heads: feature maps of a backbone in, predictions out.

Shapes: B batch, D width of features, h w their grid, K outputs, H W pixels of the label, E decoder width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema.transfer import HeadType
from pipeline.transfer.backbone import spread_layers

_POOLS = (1, 2, 3, 6)
_MAX_GROUPS = 8


class VectorHead(nn.Module):
    """Mean over places, standardised by what training saw, and a linear layer: one vector per sample."""

    def __init__(self, width: int, num_outputs: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.linear = nn.Linear(width, num_outputs)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """[B, D, h, w] of the last layer -> [B, K]."""
        x = maps[-1].mean((2, 3))
        # Statistics of one sample are none.
        if self.training and len(x) == 1:
            return self.linear(F.batch_norm(x, self.norm.running_mean, self.norm.running_var))
        return self.linear(self.norm(x))


class LinearMapHead(nn.Module):
    """A linear layer per place, interpolated to the label's pixels."""

    def __init__(self, width: int, num_outputs: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(width, affine=False)
        self.linear = nn.Conv2d(width, num_outputs, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """[B, D, h, w] of the last layer -> [B, K, H, W]."""
        return _resized(self.linear(self.norm(maps[-1])), size)


class ConvHead(nn.Module):
    """A light decoder: transposed convolutions double the grid up to the label's, at most four times."""

    def __init__(self, width: int, num_outputs: int, num_doublings: int, channels: int = 128):
        super().__init__()
        self.num_doublings = num_doublings
        steps: list[nn.Module] = [_block(width, channels)]
        for _ in range(min(num_doublings, 4)):
            half = max(channels // 2, 16)
            steps += [nn.ConvTranspose2d(channels, half, 2, stride=2), _block(half, half)]
            channels = half
        self.steps = nn.Sequential(*steps)
        self.linear = nn.Conv2d(channels, num_outputs, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """[B, D, h, w] of the last layer -> [B, K, H, W]."""
        return _resized(self.linear(self.steps(maps[-1])), size)


class UperHead(nn.Module):
    """UPerNet (Xiao et al. 2018) over a plain ViT: a pyramid of four layers, pooled, fused top down.

    A ViT has one grid: earlier layers are brought to 4, 2, 1 and 1/2 times of it, as BEiT does.
    """

    num_maps = 4

    def __init__(self, width: int, num_outputs: int, channels: int = 128):
        super().__init__()
        self.levels = nn.ModuleList(_block(width, channels, 1) for _ in range(4))
        self.pools = nn.ModuleList(_block(channels, channels // 4, 1) for _ in _POOLS)
        self.bottleneck = _block(channels + len(_POOLS) * (channels // 4), channels)
        self.smooth = nn.ModuleList(_block(channels, channels) for _ in range(3))
        self.fuse = _block(4 * channels, channels)
        self.linear = nn.Conv2d(channels, num_outputs, 1)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Four maps [B, D, h, w], from early layers to late ones -> [B, K, H, W]."""
        h, w = maps[-1].shape[-2:]
        sizes = [(4 * h, 4 * w), (2 * h, 2 * w), (h, w), (max(1, h // 2), max(1, w // 2))]
        # Fewer layers than levels: the first one stands for those that are not there.
        given = [maps[0]] * (4 - len(maps)) + list(maps)
        pyramid = [
            level(_resized(x, s))
            for level, x, s in zip(self.levels, given, sizes, strict=True)
        ]  # fmt: skip
        top = pyramid[-1]
        pooled = [
            _resized(pool(F.adaptive_avg_pool2d(top, p)), sizes[-1])
            for pool, p in zip(self.pools, _POOLS, strict=True)
        ]
        pyramid[-1] = self.bottleneck(torch.cat([top, *pooled], 1))
        for i in (2, 1, 0):
            pyramid[i] = pyramid[i] + _resized(pyramid[i + 1], sizes[i])
        smooth = [s(x) for s, x in zip(self.smooth, pyramid[:3], strict=True)]
        fused = [_resized(x, sizes[0]) for x in (*smooth, pyramid[3])]
        return _resized(self.linear(self.fuse(torch.cat(fused, 1))), size)


def make_head(
    kind: HeadType, *, is_map: bool, width: int, num_outputs: int, num_doublings: int
) -> "VectorHead | LinearMapHead | ConvHead | UperHead":
    """A fresh head; `num_doublings` is how often its grid may grow."""
    if not is_map:
        return VectorHead(width, num_outputs)
    if kind == "linear":
        return LinearMapHead(width, num_outputs)
    if kind == "conv":
        return ConvHead(width, num_outputs, num_doublings)
    return UperHead(width, num_outputs)


def layers_for(kind: HeadType, depth: int) -> list[int]:
    """Whose features a head looks at."""
    return spread_layers(depth, UperHead.num_maps) if kind == "upernet" else [depth - 1]


def _block(inner: int, outer: int, kernel: int = 3) -> nn.Module:
    # Group norm: few labels make small batches.
    groups = max(g for g in range(1, _MAX_GROUPS + 1) if outer % g == 0)
    return nn.Sequential(
        nn.Conv2d(inner, outer, kernel, padding=kernel // 2, bias=False),
        nn.GroupNorm(groups, outer),
        nn.GELU(),
    )


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
