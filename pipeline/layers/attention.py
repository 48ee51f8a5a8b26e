"""Multi-head attention, to itself and to a context.

Shapes: B batch, N queries, K keys, D width, H heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Scaled dot-product attention of a sequence to itself (Vaswani et al. 2017, eq. 1).

    `forward(x[B, N, D], mask[B, 1, N, N] | None) -> [B, N, D]`; True in the mask lets attend.
    """

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


class CrossAttention(nn.Module):
    """Attention of queries to a context.

    `forward(x[B, N, D], context[B, K, D], mask[B, 1, N|1, K] | None) -> [B, N, D]`.
    """

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, d = x.shape
        q = self.q(x).view(b, n, self.num_heads, -1).transpose(1, 2)
        kv = self.kv(context).view(b, context.shape[1], 2, self.num_heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(y.transpose(1, 2).reshape(b, n, d))


def padding_mask(lengths: Tensor, num_keys: int) -> Tensor:
    """True where a key is real: lengths[B] -> [B, 1, 1, K], ready for either attention."""
    keys = torch.arange(num_keys, device=lengths.device)
    return (keys[None] < lengths[:, None])[:, None, None]
