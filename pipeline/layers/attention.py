"""Multi-head attention, to itself and to a context.

Shapes: B batch, N queries, K keys, D width, H heads, E = D / H.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rotation(NamedTuple):
    """Rotary positions of tokens (Su et al. 2021, section 3.4): cosines and sines, [B, 1, N, E / 2]."""

    cos: Tensor
    sin: Tensor

    def turn(self, x: Tensor) -> Tensor:
        """Rotate pairs of channels: [B, H, N, E] -> the same shape."""
        first, second = x.chunk(2, dim=-1)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class HeadNorm(nn.Module):
    """Normalises queries and keys per head, so that logits stay bounded (Dehghani et al. 2023, 3.2)."""

    def __init__(self, head_width: int, eps: float = 1e-5):
        super().__init__()
        self.q = nn.LayerNorm(head_width, eps, bias=False)
        self.k = nn.LayerNorm(head_width, eps, bias=False)

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.q(q), self.k(k)


class SelfAttention(nn.Module):
    """Scaled dot-product attention of a sequence to itself (Vaswani et al. 2017, eq. 1).

    `forward(x[B, N, D], mask[B, 1, N, N] | None) -> [B, N, D]`; True in the mask lets attend.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        bias: bool = True,
        qk_norm: bool = False,
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.norm = HeadNorm(width // num_heads, norm_eps) if qk_norm else None
        self.proj = nn.Linear(width, width, bias=bias)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, rotation: Rotation | None = None
    ) -> Tensor:
        b, n, d = x.shape
        # Sizes are spelled out: of an empty batch nothing could be inferred.
        e = d // self.num_heads
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, e).permute(2, 0, 3, 1, 4)
        y = _attend(q, k, v, mask, self.norm, rotation, rotation)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


class CrossAttention(nn.Module):
    """Attention of queries to a context.

    `forward(x[B, N, D], context[B, K, D], mask[B, 1, N|1, K] | None) -> [B, N, D]`.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        bias: bool = True,
        qk_norm: bool = False,
        norm_eps: float = 1e-5,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(width, 2 * width, bias=bias)
        self.norm = HeadNorm(width // num_heads, norm_eps) if qk_norm else None
        self.proj = nn.Linear(width, width, bias=bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        mask: Tensor | None = None,
        rotation: Rotation | None = None,
        context_rotation: Rotation | None = None,
    ) -> Tensor:
        b, n, d = x.shape
        e = d // self.num_heads
        q = self.q(x).view(b, n, self.num_heads, e).transpose(1, 2)
        kv = self.kv(context).view(b, context.shape[1], 2, self.num_heads, e)
        k, v = kv.permute(2, 0, 3, 1, 4)
        y = _attend(q, k, v, mask, self.norm, rotation, context_rotation)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    norm: HeadNorm | None,
    query_rotation: Rotation | None,
    key_rotation: Rotation | None,
) -> Tensor:
    if norm is not None:
        q, k = norm(q, k)
    if query_rotation is not None and key_rotation is not None:
        q, k = query_rotation.turn(q), key_rotation.turn(k)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def padding_mask(lengths: Tensor, num_keys: int) -> Tensor:
    """True where a key is real: lengths[B] -> [B, 1, 1, K], ready for either attention."""
    keys = torch.arange(num_keys, device=lengths.device)
    return (keys[None] < lengths[:, None])[:, None, None]
