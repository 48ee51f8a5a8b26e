"""Pre-norm transformer blocks: encoder, and decoder with cross-attention."""

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.layers.attention import CrossAttention, SelfAttention


class Mlp(nn.Module):
    """Two linear layers with GELU between: [..., D] -> [..., D]."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    """Self-attention and MLP, each pre-normalised and residual: [B, N, D] -> [B, N, D]."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float, norm_eps: float = 1e-5):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, norm_eps)
        self.attn = SelfAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, norm_eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to a context, MLP: [B, N, D] -> [B, N, D]."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attn = SelfAttention(width, num_heads)
        self.query_norm = nn.LayerNorm(width)
        self.context_norm = nn.LayerNorm(width)
        self.cross_attn = CrossAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        self_mask: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        x = x + self.self_attn(self.norm1(x), self_mask)
        x = x + self.cross_attn(self.query_norm(x), self.context_norm(context), context_mask)
        return x + self.mlp(self.norm2(x))


def init_transformer(module: nn.Module) -> None:
    """Truncated normal (0.02) for weights, zero biases, unit norms; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
