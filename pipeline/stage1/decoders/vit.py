"""The deterministic decoder: quantised latents -> pixels or class logits, by a ViT."""

from torch import Tensor, nn

from pipeline.layers.blocks import BlockStyle, EncoderBlock
from pipeline.layers.patches import unpatchify
from pipeline.stage1.encoder import PUBLIC_NORM_EPS, PublicEnd
from pipeline.stage1.grids import GridPositions


class VitDecoder(nn.Module):
    """`forward(z[B, N, L]) -> [B, K, H, W]`; K is the number of bands, or of maps times classes."""

    def __init__(
        self,
        latent_width: int,
        positions: GridPositions,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        num_channels: int,
        patch: int,
        *,
        public: bool = False,
    ):
        super().__init__()
        width, eps = positions.width, PUBLIC_NORM_EPS if public else 1e-5
        self.patch = patch
        self.from_latent = nn.Linear(latent_width, width)
        self.positions = positions
        self.blocks = nn.ModuleList(
            EncoderBlock(width, num_heads, mlp_ratio, BlockStyle(eps=eps)) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps)
        self.post_mlp = PublicEnd(width, mlp_ratio) if public else None
        self.to_pixels = nn.Linear(width, num_channels * patch * patch)

    def forward(self, z: Tensor) -> Tensor:
        return self.unpatchify(self.to_pixels(self.features(z)))

    def features(self, z: Tensor) -> Tensor:
        """What the last layer makes pixels from: [B, N, D]."""
        h = self.from_latent(z.to(self.from_latent.weight.dtype))
        h = h + self.positions(h)
        for block in self.blocks:
            h = block(h)
        if self.post_mlp is None:
            return self.norm(h)
        return self.post_mlp(h, self.norm(h)).to(self.to_pixels.weight.dtype)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """[B, N, K*p*p] of a square window -> [B, K, H, W]."""
        side = self.positions.side(patches.shape[1]) * self.patch
        return unpatchify(patches, self.patch, side, side)
