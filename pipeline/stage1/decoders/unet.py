"""The patched U-Net of 4M and TerraMind's tokenizers: noisy image and latents -> what was asked for.

    image -> patches as channels + latents under them -> U-Net on the grid of patches -> image

The network is that of Dhariwal and Nichol 2021 (appendix) with additive time embeddings, on patches as
in Luhman and Luhman 2022 (arXiv:2207.04316). Keys of TerraMind's tokenizers are renamed by
`pipeline.stage1.terramind`; everything else is as there.

Shapes: B batch, C bands, H W pixels, L latent width, D channels, E width of the step embedding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import DiffusionConfig
from pipeline.layers.attention import SelfAttention
from pipeline.stage1.decoders.noise import StepEmbedding

MAX_GROUPS = 32


class Norm(nn.GroupNorm):
    """Group normalisation in float32, of 32 groups or as many as divide the channels."""

    def __init__(self, channels: int):
        super().__init__(math.gcd(MAX_GROUPS, channels), channels)

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(input.float(), self.num_groups, weight, bias, self.eps).to(input.dtype)


def _silent(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with weights of zero: a residual branch that starts as nothing."""
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class ResidualBlock(nn.Module):
    """Two convolutions, the step added between them: ([B, D, h, w], [B, E]) -> [B, D_out, h, w]."""

    def __init__(self, channels: int, out_channels: int, embed_width: int):
        super().__init__()
        self.norm1 = Norm(channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.shift = nn.Linear(embed_width, out_channels)
        self.norm2 = Norm(out_channels)
        self.conv2 = _silent(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        same = channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.shift(F.silu(embedding))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class GridAttention(nn.Module):
    """Residual self-attention between the places of a grid: [B, D, h, w] -> [B, D, h, w]."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.norm = Norm(channels)
        self.attn = SelfAttention(channels, num_heads)
        nn.init.zeros_(self.attn.proj.weight)
        nn.init.zeros_(self.attn.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attn(rows).transpose(1, 2).reshape(x.shape)


class Stage(nn.Module):
    """A residual block, with attention where the level has it."""

    def __init__(self, channels: int, out_channels: int, embed_width: int, num_heads: int | None):
        super().__init__()
        self.res = ResidualBlock(channels, out_channels, embed_width)
        self.attn = GridAttention(out_channels, num_heads) if num_heads else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attn(self.res(x, embedding))


class Down(nn.Module):
    """One resolution on the way down: [B, D, h, w] -> all that is left for the way up.

    The last of it, from the convolution to half the resolution if there is one, goes on down.
    """

    def __init__(self, stages: list[Stage], shrink: nn.Conv2d | None):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.shrink = shrink

    def forward(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, ...]:
        left = []
        for stage in self.stages:
            x = stage(x, embedding)
            left.append(x)
        if self.shrink is not None:
            left.append(self.shrink(x))
        return tuple(left)


class Up(nn.Module):
    """One resolution on the way up, with what was left for it, and on to the `size` of the next."""

    def __init__(self, stages: list[Stage], grow: nn.Conv2d | None):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.grow = grow

    def forward(
        self, x: Tensor, embedding: Tensor, skips: tuple[Tensor, ...], size: tuple[int, int]
    ) -> Tensor:
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            x = stage(torch.cat([x, skip], dim=1), embedding)
        if self.grow is not None:
            x = self.grow(F.interpolate(x, size=size, mode="nearest"))
        return x


class UNet(nn.Module):
    """`forward(x[B, C, H, W], steps[B], latents[B, L, h, w]) -> [B, C, H, W]` float32.

    H and W are multiples of `config.patch_px`; latents are spread over the patches that they lie on.
    Grids whose side is odd are halved upwards, so any number of patches will do.
    """

    def __init__(self, config: DiffusionConfig, latent_width: int, num_channels: int):
        super().__init__()
        self.patch, self.skips_per_level = config.patch_px, config.blocks_per_level + 1
        patch_channels = num_channels * config.patch_px**2
        embed_width = 4 * config.width
        widths = [config.width * m for m in config.multipliers]
        heads = [config.heads if attends else None for attends in config.attention]
        last = len(widths) - 1

        self.step_embed = StepEmbedding(config.width, embed_width)
        self.stem = nn.Conv2d(patch_channels + latent_width, widths[0], 3, padding=1)
        skips, channels = [widths[0]], widths[0]
        down = []
        for i, width in enumerate(widths):
            stages = []
            for _ in range(config.blocks_per_level):
                stages.append(Stage(channels, width, embed_width, heads[i]))
                channels = width
                skips.append(channels)
            shrink = nn.Conv2d(width, width, 3, stride=2, padding=1) if i < last else None
            if shrink is not None:
                skips.append(channels)
            down.append(Down(stages, shrink))
        self.down = nn.ModuleList(down)

        self.middle_in = Stage(channels, channels, embed_width, config.heads)
        self.middle_out = ResidualBlock(channels, channels, embed_width)

        up = []
        for i in range(last, -1, -1):
            stages = []
            for _ in range(self.skips_per_level):
                stages.append(Stage(channels + skips.pop(), widths[i], embed_width, heads[i]))
                channels = widths[i]
            grow = nn.Conv2d(channels, channels, 3, padding=1) if i else None
            up.append(Up(stages, grow))
        self.up = nn.ModuleList(up)
        self.norm = Norm(channels)
        self.to_patches = _silent(nn.Conv2d(channels, patch_channels, 3, padding=1))

    def forward(self, x: Tensor, steps: Tensor, latents: Tensor) -> Tensor:
        patches = F.pixel_unshuffle(x, self.patch)
        under = F.interpolate(latents.to(x.dtype), size=patches.shape[-2:], mode="nearest")
        h = torch.cat([patches, under], dim=1).to(self.stem.weight.dtype)
        embedding = self.step_embed(steps)
        skips = (self.stem(h),)
        for level in self.down:
            skips += level(skips[-1], embedding)
        h = self.middle_out(self.middle_in(skips[-1], embedding), embedding)
        for level in self.up:
            skips, here = skips[: -self.skips_per_level], skips[-self.skips_per_level :]
            rows, columns = (skips or here)[-1].shape[-2:]
            h = level(h, embedding, here, (rows, columns))
        out = self.to_patches(F.silu(self.norm(h)))
        return F.pixel_shuffle(out.float(), self.patch)
