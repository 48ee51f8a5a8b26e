"""What every quantizer gives."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Quantized(NamedTuple):
    """Latents after quantization.

    `latents` [B, N, L] carry the gradient of what came in; `codes` [B, N] int64; `loss` [B] is what
    the quantizer itself asks for. `stats` and `rows` are for its codebook (see StepOutput).
    """

    latents: Tensor
    codes: Tensor
    loss: Tensor
    stats: Mapping[str, Tensor] = {}
    rows: Mapping[str, Tensor] = {}


def uses(codes: Tensor, num_codes: int) -> Tensor:
    """How often each code occurs in [...] int64: [V] float32."""
    flat = codes.flatten()
    counts = torch.zeros(num_codes, device=codes.device)
    return counts.index_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))
