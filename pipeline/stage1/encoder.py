"""Pixels -> latents: a ViT over the patches of one modality.

Shapes: B batch, C bands, H W pixels, p patch, N patches, D width, L latent width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.layers.blocks import BlockStyle, EncoderBlock, Mlp
from pipeline.layers.patches import patchify
from pipeline.stage1.grids import GridPositions

CLASS_WIDTH = 8
PUBLIC_NORM_EPS = 1e-6


class PixelInput(nn.Module):
    """Normalised bands [B, C, H, W] -> patch embeddings [B, N, D]."""

    def __init__(self, num_bands: int, patch: int, width: int):
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(num_bands * patch * patch, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(patchify(x, self.patch).to(self.proj.weight.dtype))


class ClassInput(nn.Module):
    """Class maps [B, C, H, W] -> patch embeddings [B, N, D]; each class has an embedding.

    Class numbers are names, not amounts: nothing may average them. Several maps, such as two dates, are
    of the same classes and share their embeddings, which lie side by side in a patch.
    """

    def __init__(
        self,
        num_classes: int,
        patch: int,
        width: int,
        num_maps: int = 1,
        class_width: int = CLASS_WIDTH,
    ):
        super().__init__()
        self.patch = patch
        self.class_embed = nn.Embedding(num_classes, class_width)
        self.proj = nn.Linear(num_maps * class_width * patch * patch, width)

    def forward(self, x: Tensor) -> Tensor:
        channels = self.class_embed(x.long()).permute(0, 1, 4, 2, 3).flatten(1, 2)
        return self.proj(patchify(channels, self.patch))


class PublicEnd(nn.Module):
    """What ends a ViT of 4M and TerraMind: a residual MLP with tanh, in float32: [B, N, D] -> [B, N, D]."""

    def __init__(self, width: int, mlp_ratio: float):
        super().__init__()
        self.fc1 = nn.Linear(width, int(width * mlp_ratio))
        self.fc2 = nn.Linear(int(width * mlp_ratio), width)

    def forward(self, h: Tensor, normed: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            inner = F.linear(normed.float(), self.fc1.weight.float(), self.fc1.bias.float())
            end = F.linear(torch.tanh(inner), self.fc2.weight.float(), self.fc2.bias.float())
            return h.float() + end


class Encoder(nn.Module):
    """Patches, positions, transformer blocks, and a tanh MLP down to the latent width.

    `forward(x[B, C, H, W]) -> [B, N, L]`. With `public` in the layout of 4M and TerraMind.
    """

    def __init__(
        self,
        embed: nn.Module,
        positions: GridPositions,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        latent_width: int,
        *,
        public: bool = False,
    ):
        super().__init__()
        width, eps = positions.width, PUBLIC_NORM_EPS if public else 1e-5
        self.embed_input = embed
        self.positions = positions
        self.blocks = nn.ModuleList(
            EncoderBlock(width, num_heads, mlp_ratio, BlockStyle(eps=eps)) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps)
        self.post_mlp = PublicEnd(width, mlp_ratio) if public else Mlp(width, width)
        self.to_latent = nn.Linear(width, latent_width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed_input(x)
        h = h + self.positions(h)
        for block in self.blocks:
            h = block(h)
        normed = self.norm(h)
        if isinstance(self.post_mlp, PublicEnd):
            h = self.post_mlp(h, normed).to(self.to_latent.weight.dtype)
        else:
            h = torch.tanh(self.post_mlp(normed))
        return self.to_latent(h)
