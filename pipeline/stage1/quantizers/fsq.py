"""Finite scalar quantization (Mentzer et al. 2023, arXiv:2309.15505).

Shapes: ... any leading axes, L latent width = number of levels, V = prod(levels) codes.
"""

import math

import torch
from torch import Tensor, nn

from configs.schema import FSQConfig
from pipeline.stage1.quantizers.base import Quantized


class FSQ(nn.Module):
    """Each latent channel is squashed to its levels and rounded; the code is their product.

    No codebook, no auxiliary loss, no collapse. Gradients pass straight through the rounding
    (equation 1 and appendix A.1 of the paper). The first level runs fastest in the code. The
    convention `centred` is the paper's, levels in [-1, 1]; `unit` squashes by a sigmoid to levels in
    [0, 1], as TerraMind's tokenizers do.
    """

    _levels: Tensor
    _basis: Tensor

    def __init__(self, config: FSQConfig):
        super().__init__()
        self.levels, self.is_unit = config.levels, config.convention == "unit"
        self.num_codes = math.prod(self.levels)
        basis = [math.prod(self.levels[:i]) for i in range(len(self.levels))]
        self.register_buffer("_levels", torch.tensor(self.levels), persistent=False)
        self.register_buffer("_basis", torch.tensor(basis), persistent=False)

    def bound(self, z: Tensor) -> Tensor:
        """Latents squashed to the interval that rounds to exactly `levels` values."""
        levels = self._levels.to(z.dtype)
        if self.is_unit:
            return torch.sigmoid(z) * (levels - 1)
        half = (levels - 1) * (1 + 1e-3) / 2
        # An even number of levels has no level at zero: shift by half a step.
        offset = torch.where(self._levels % 2 == 0, 0.5, 0.0).to(z.dtype)
        shift = torch.atanh(offset / half)
        return torch.tanh(z + shift) * half - offset

    def forward(self, z: Tensor) -> Quantized:
        """Latents [B, N, L]; the quantised ones lie in [-1, 1], or [0, 1]."""
        bounded = self.bound(z.float())
        rounded = bounded + (bounded.round() - bounded).detach()
        digits = rounded.detach().round().long() + self._lowest()
        codes = (digits * self._basis).sum(-1)
        return Quantized((rounded / self._scale()).to(z.dtype), codes, z.new_zeros(len(z)))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [...] -> quantised latents [..., L], the same values `forward` returned."""
        digits = (codes[..., None] // self._basis) % self._levels
        return (digits - self._lowest()) / self._scale()

    def _lowest(self) -> Tensor:
        """Steps from the lowest level up to zero."""
        return torch.zeros_like(self._levels) if self.is_unit else self._levels // 2

    def _scale(self) -> Tensor:
        """Steps that make one."""
        return self._levels - 1 if self.is_unit else self._levels // 2
