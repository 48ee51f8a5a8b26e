"""U-ViT (Bao et al. 2023, arXiv:2209.12152): a transformer with long skips that removes noise.

    step token + (patches + latents under them) -> first half -> middle -> second half -> image
                                                       '------ long skips ------'

Shapes: B batch, C bands, H W pixels, L latent width, N patches, D width.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import DiffusionConfig
from pipeline.layers.blocks import EncoderBlock
from pipeline.layers.patches import patchify, unpatchify
from pipeline.layers.positions import METRES_PER_UNIT, grid_positions
from pipeline.stage1.decoders.noise import StepEmbedding

MLP_RATIO = 4.0


@lru_cache(maxsize=16)
def _positions(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Codes of the places of a grid, one unit apart: [N, D]; kept, for sampling asks many times."""
    with torch.inference_mode(False):
        return grid_positions(rows, columns, METRES_PER_UNIT, width).to(device)


class SkipBlock(nn.Module):
    """A block which begins by taking in what its mirror image in the first half began with."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.join = nn.Linear(2 * width, width)
        self.block = EncoderBlock(width, num_heads, MLP_RATIO)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.block(self.join(torch.cat([x, skip], dim=-1)))


class UViT(nn.Module):
    """`forward(x[B, C, H, W], steps[B], latents[B, L, h, w]) -> [B, C, H, W]` float32.

    Of `config.depth` blocks the middle one (of an even number: two) has no long skip. H and W are
    multiples of `config.patch_px`. A convolution at the end smooths the seams of patches.
    """

    def __init__(self, config: DiffusionConfig, latent_width: int, num_channels: int):
        super().__init__()
        width, patch = config.width, config.patch_px
        self.patch, self.width = patch, width
        half = (config.depth - 1) // 2
        self.step_embed = StepEmbedding(width, width)
        self.from_patches = nn.Linear(num_channels * patch * patch, width)
        self.from_latent = nn.Linear(latent_width, width)

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(EncoderBlock(width, config.heads, MLP_RATIO) for _ in range(count))

        self.first, self.middle = blocks(half), blocks(config.depth - 2 * half)
        self.second = nn.ModuleList(SkipBlock(width, config.heads) for _ in range(half))
        self.norm = nn.LayerNorm(width)
        self.to_patches = nn.Linear(width, num_channels * patch * patch)
        self.smooth = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        self._init_weights()

    def _init_weights(self) -> None:
        """Half the deviation of what comes into a layer comes out of it.

        That is the usual 0.02 at a width of 625, and lets narrow networks learn as well. More where
        the noisy patches enter would drown the position codes.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.5 * layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, steps: Tensor, latents: Tensor) -> Tensor:
        rows, columns = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        dtype = self.from_patches.weight.dtype
        under = F.interpolate(latents.to(dtype), size=(rows, columns), mode="nearest")
        h = self.from_patches(patchify(x, self.patch).to(dtype))
        h = h + self.from_latent(under.flatten(2).transpose(1, 2))
        h = h + _positions(rows, columns, self.width, x.device).to(h.dtype)
        h = torch.cat([self.step_embed(steps)[:, None].to(h.dtype), h], dim=1)
        skips = []
        for block in self.first:
            h = block(h)
            skips.append(h)
        for block in self.middle:
            h = block(h)
        for block in self.second:
            h = block(h, skips.pop())
        patches = self.to_patches(self.norm(h[:, 1:]))
        image = unpatchify(patches, self.patch, x.shape[-2], x.shape[-1])
        return self.smooth(image).float()
