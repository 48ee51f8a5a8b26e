"""The deterministic decoder: quantised latents -> pixels or class logits, by a ViT."""

from torch import Tensor, nn

from pipeline.layers.blocks import EncoderBlock
from pipeline.layers.patches import unpatchify


class VitDecoder(nn.Module):
    """`forward(z[B, N, L]) -> [B, K, H, W]`; K is the number of bands, or of classes."""

    def __init__(
        self,
        latent_width: int,
        positions: Tensor,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        num_channels: int,
        patch: int,
        size: int,
    ):
        super().__init__()
        width = positions.shape[1]
        self.patch, self.size = patch, size
        self.from_latent = nn.Linear(latent_width, width)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(EncoderBlock(width, num_heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.to_pixels = nn.Linear(width, num_channels * patch * patch)

    def forward(self, z: Tensor) -> Tensor:
        h = self.from_latent(z.to(self.from_latent.weight.dtype))
        h = h + self.positions.to(h.dtype)
        for block in self.blocks:
            h = block(h)
        return unpatchify(self.to_pixels(self.norm(h)), self.patch, self.size, self.size)
