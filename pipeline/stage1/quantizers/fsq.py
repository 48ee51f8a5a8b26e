"""Finite scalar quantization (Mentzer et al. 2023, arXiv:2309.15505).

Shapes: ... any leading axes, L latent width = number of levels, V = prod(levels) codes.
"""

import math

import torch
from torch import Tensor, nn


class FSQ(nn.Module):
    """Each latent channel is squashed by tanh to its levels and rounded; the code is their product.

    No codebook, no auxiliary loss, no collapse. Gradients pass straight through the rounding
    (equation 1 and appendix A.1 of the paper). The first level runs fastest in the code.
    """

    _levels: Tensor
    _basis: Tensor

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        if min(levels) < 2:
            raise ValueError(f"every FSQ level needs at least 2 values, got {levels}")
        self.levels = levels
        self.num_codes = math.prod(levels)
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("_levels", torch.tensor(levels), persistent=False)
        self.register_buffer("_basis", torch.tensor(basis), persistent=False)

    def bound(self, z: Tensor) -> Tensor:
        """Latents squashed to the open interval that rounds to exactly `levels` values."""
        levels = self._levels.to(z.dtype)
        half = (levels - 1) * (1 + 1e-3) / 2
        # An even number of levels has no level at zero: shift by half a step.
        offset = torch.where(self._levels % 2 == 0, 0.5, 0.0).to(z.dtype)
        shift = torch.atanh(offset / half)
        return torch.tanh(z + shift) * half - offset

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents [..., L] -> (quantised latents in [-1, 1] with gradient, codes [...] int64)."""
        bounded = self.bound(z.float())
        rounded = bounded + (bounded.round() - bounded).detach()
        return (rounded / self._half_width()).to(z.dtype), self._codes(rounded)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [...] -> quantised latents [..., L], the same values `forward` returned."""
        digits = (codes[..., None] // self._basis) % self._levels
        return (digits - self._half_width()) / self._half_width()

    def _codes(self, rounded: Tensor) -> Tensor:
        digits = rounded.detach().round().long() + self._half_width()
        return (digits * self._basis).sum(-1)

    def _half_width(self) -> Tensor:
        return self._levels // 2
