"""Pixels -> latents: a ViT over the patches of one modality.

Shapes: B batch, C bands, H W pixels, p patch, N patches, D width, L latent width.
"""

import torch
from torch import Tensor, nn

from pipeline.layers.blocks import EncoderBlock, Mlp
from pipeline.layers.patches import patchify

CLASS_WIDTH = 8


class PixelInput(nn.Module):
    """Normalised bands [B, C, H, W] -> patch embeddings [B, N, D]."""

    def __init__(self, num_bands: int, patch: int, width: int):
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(num_bands * patch * patch, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(patchify(x, self.patch).to(self.proj.weight.dtype))


class ClassInput(nn.Module):
    """Class maps [B, 1, H, W] -> patch embeddings [B, N, D]; each class has an embedding.

    Class numbers are names, not amounts: nothing may average them.
    """

    def __init__(self, num_classes: int, patch: int, width: int):
        super().__init__()
        self.patch = patch
        self.class_embed = nn.Embedding(num_classes, CLASS_WIDTH)
        self.proj = nn.Linear(CLASS_WIDTH * patch * patch, width)

    def forward(self, x: Tensor) -> Tensor:
        channels = self.class_embed(x[:, 0].long()).permute(0, 3, 1, 2)
        return self.proj(patchify(channels, self.patch))


class Encoder(nn.Module):
    """Patches, positions, transformer blocks, and a tanh MLP down to the latent width.

    `forward(x[B, C, H, W]) -> [B, N, L]`. `positions` is [N, D] for the full window.
    """

    def __init__(
        self,
        embed: nn.Module,
        positions: Tensor,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        latent_width: int,
    ):
        super().__init__()
        width = positions.shape[1]
        self.embed_input = embed
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(EncoderBlock(width, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.post_mlp = Mlp(width, width)
        self.to_latent = nn.Linear(width, latent_width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed_input(x)
        h = h + self.positions.to(h.dtype)
        for block in self.blocks:
            h = block(h)
        h = torch.tanh(self.post_mlp(self.norm(h)))
        return self.to_latent(h)
