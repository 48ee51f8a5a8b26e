"""Finite scalar quantization (Mentzer et al. 2023, arXiv:2309.15505).

Shapes: ... any leading axes, L latent width = number of levels, V = prod(levels) codes.
"""

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from configs.schema import FSQConfig
from pipeline.layers.float32 import Float32Buffers
from pipeline.stage1.quantizers.base import Quantized, uses

# Of the running distribution of codes, per step; and what a code that never occurs counts as, in
# shares of even use.
_DECAY = 0.95
_RARE = 0.1


class FSQ(Float32Buffers):
    """Each latent channel is squashed to its levels and rounded; the code is their product.

    No codebook, and as published no auxiliary loss. Gradients pass straight through the rounding
    (equation 1 and appendix A.1 of the paper). The first level runs fastest in the code. The
    convention `centred` is the paper's, levels in [-1, 1]; `unit` squashes by a sigmoid to levels in
    [0, 1], as TerraMind's tokenizers do.

    With `evenness` e the loss of a sample is e * mean of log q(c) over its latents: q is the running
    distribution of codes over global batches, and log q, known at the corners of the lattice, is
    interpolated between them. Its gradient is that of the negative entropy of q, and moves latents
    towards the rarer of the codes around them. Linear in the samples, so a batch may be cut anyhow.
    """

    _levels: Tensor
    _basis: Tensor
    _corners: Tensor
    share: Tensor

    def __init__(self, config: FSQConfig):
        super().__init__()
        self.levels, self.is_unit = config.levels, config.convention == "unit"
        self.num_codes, self.evenness = math.prod(self.levels), config.evenness
        basis = [math.prod(self.levels[:i]) for i in range(len(self.levels))]
        self.register_buffer("_levels", torch.tensor(self.levels), persistent=False)
        self.register_buffer("_basis", torch.tensor(basis), persistent=False)
        if self.evenness:
            corners = torch.tensor(list(itertools.product((0, 1), repeat=len(self.levels))))
            self.register_buffer("_corners", corners, persistent=False)
            self.register_buffer("share", torch.full((self.num_codes,), 1 / self.num_codes))

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
        latents = (rounded / self._scale()).to(z.dtype)
        if not (self.evenness and self.training):
            return Quantized(latents, codes, z.new_zeros(len(z)))
        loss = self.evenness * self.crowding(bounded).mean(1)
        return Quantized(latents, codes, loss, {"uses": uses(codes, self.num_codes)})

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [...] -> quantised latents [..., L], the same values `forward` returned."""
        digits = (codes[..., None] // self._basis) % self._levels
        return (digits - self._lowest()) / self._scale()

    @torch.no_grad()
    def absorb(self, stats: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        """Follow how often the codes are used; `rows` is empty."""
        if self.evenness:
            new = stats["uses"].float()
            self.share.lerp_(new / new.sum(), 1 - _DECAY)

    def crowding(self, bounded: Tensor) -> Tensor:
        """Bounded latents [B, N, L] -> how much their codes are used, log of shares of even use, [B, N].

        Multilinear between the 2^L lattice points around a latent.
        """
        lowest = self._lowest()
        down = bounded.detach().floor().long().clamp(-lowest, self._levels - 2 - lowest)
        part = (bounded - down)[..., None, :]
        weights = torch.where(self._corners == 1, part, 1 - part).prod(-1)
        code_below = ((down + lowest) * self._basis).sum(-1, keepdim=True)
        codes = code_below + (self._corners * self._basis).sum(-1)
        used = torch.log(self.share * self.num_codes + _RARE)
        return (weights * used[codes]).sum(-1)

    def _lowest(self) -> Tensor:
        """Steps from the lowest level up to zero."""
        return torch.zeros_like(self._levels) if self.is_unit else self._levels // 2

    def _scale(self) -> Tensor:
        """Steps that make one."""
        return self._levels - 1 if self.is_unit else self._levels // 2
