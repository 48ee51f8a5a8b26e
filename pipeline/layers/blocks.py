"""Pre-norm blocks: of a transformer's encoder, of its decoder with cross-attention, and an MLP alone."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.layers.attention import CrossAttention, Rotation, SelfAttention


@dataclass(frozen=True)
class BlockStyle:
    """What blocks are made of. The default is ViT's; 4M's has `mlp: swiglu` and no biases.

    `norm_bias` is that of layer norms; None: as `bias`.
    """

    norm: Literal["layer", "rms"] = "layer"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    bias: bool = True
    qk_norm: bool = False
    eps: float = 1e-5
    norm_bias: bool | None = None

    def make_norm(self, width: int) -> nn.Module:
        if self.norm == "rms":
            return nn.RMSNorm(width, self.eps)
        bias = self.bias if self.norm_bias is None else self.norm_bias
        return nn.LayerNorm(width, self.eps, bias=bias)

    def make_mlp(self, width: int, ratio: float) -> nn.Module:
        """`ratio` is the hidden width over the width; a gated MLP takes 2/3 of it, for equal cost."""
        if self.mlp == "swiglu":
            return GatedMlp(width, int(width * ratio * 2 / 3), self.bias)
        return Mlp(width, int(width * ratio), self.bias)


class Mlp(nn.Module):
    """Two linear layers with GELU between: [..., D] -> [..., D]."""

    def __init__(self, width: int, hidden: int, bias: bool = True):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class GatedMlp(nn.Module):
    """SwiGLU (Shazeer 2020, eq. 5), fc2(silu(fc1(x)) * fc3(x)): [..., D] -> [..., D]."""

    def __init__(self, width: int, hidden: int, bias: bool = True):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, width, bias=bias)
        self.fc3 = nn.Linear(width, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x)) * self.fc3(x))


class MlpBlock(nn.Module):
    """An MLP, pre-normalised and residual, for each token by itself: [..., D] -> [..., D]."""

    def __init__(self, width: int, mlp_ratio: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class EncoderBlock(nn.Module):
    """Self-attention and MLP, each pre-normalised and residual: [B, N, D] -> [B, N, D]."""

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float, style: BlockStyle = BlockStyle()
    ):
        super().__init__()
        self.norm1 = style.make_norm(width)
        self.attn = SelfAttention(width, num_heads, style.bias, style.qk_norm, style.eps)
        self.norm2 = style.make_norm(width)
        self.mlp = style.make_mlp(width, mlp_ratio)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, rotation: Rotation | None = None
    ) -> Tensor:
        x = x + self.attn(self.norm1(x), mask, rotation)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to a context, MLP: [B, N, D] -> [B, N, D]."""

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float, style: BlockStyle = BlockStyle()
    ):
        super().__init__()
        self.norm1 = style.make_norm(width)
        self.self_attn = SelfAttention(width, num_heads, style.bias, style.qk_norm, style.eps)
        self.query_norm = style.make_norm(width)
        self.context_norm = style.make_norm(width)
        self.cross_attn = CrossAttention(width, num_heads, style.bias, style.qk_norm, style.eps)
        self.norm2 = style.make_norm(width)
        self.mlp = style.make_mlp(width, mlp_ratio)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        self_mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        rotation: Rotation | None = None,
        context_rotation: Rotation | None = None,
    ) -> Tensor:
        x = x + self.self_attn(self.norm1(x), self_mask, rotation)
        queries, keys = self.query_norm(x), self.context_norm(context)
        x = x + self.cross_attn(queries, keys, context_mask, rotation, context_rotation)
        return x + self.mlp(self.norm2(x))


def init_transformer(module: nn.Module) -> None:
    """Truncated normal (0.02) for weights, zero biases, unit norms; for `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        nn.init.ones_(module.weight)
        if isinstance(module, nn.LayerNorm) and module.bias is not None:
            nn.init.zeros_(module.bias)
