"""Vector quantization under cosine similarity, with a codebook that follows the latents.

    code   = the codebook vector most like the latent          (van den Oord et al. 2017; unit vectors
    update : count_k <- g count_k + (1 - g) uses of k           as in Yu et al. 2022, section 3.2)
             sum_k   <- g sum_k   + (1 - g) latents of k        (appendix A.1 of the first)
             vector_k = sum_k / |sum_k|

The codebook learns in `absorb`, from sums over the global batch: it is the same on all ranks, and the
same however the batch is cut. Codes that hardly anything falls to start again at a latent of the batch.

Shapes: B batch, N patches, L latent width, V codes, R candidate latents of the global batch.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema import VQConfig
from pipeline.layers.float32 import Float32Buffers
from pipeline.stage1.quantizers.base import Quantized, uses

_CHUNK = 4096
_UNPROVEN = 1 / 32


class VQ(Float32Buffers):
    """A codebook of unit vectors.

    `rows_per_sample` is how many latents of each sample are offered as new codes.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    updates: Tensor

    def __init__(self, config: VQConfig, rows_per_sample: int):
        super().__init__()
        self.config, self.num_codes = config, config.num_codes
        self._rows_per_sample = rows_per_sample
        self._unproven = config.dead_share or _UNPROVEN
        vectors = F.normalize(torch.randn(config.num_codes, config.latent_width), dim=1)
        self.register_buffer("codebook", vectors)
        self.register_buffer("counts", torch.ones(config.num_codes))
        self.register_buffer("sums", vectors.clone())
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, z: Tensor) -> Quantized:
        """Latents [B, N, L] -> unit vectors of the codebook; loss is the commitment, [B]."""
        unit = F.normalize(z.float(), dim=-1)
        codes = nearest(unit.detach().flatten(0, 1), self.codebook).view(z.shape[:-1])
        found = self.codebook[codes]
        loss = self.config.commitment * (unit - found).square().mean((1, 2))
        latents = (unit + (found - unit).detach()).to(z.dtype)
        if not self.training:
            return Quantized(latents, codes, loss)
        return Quantized(latents, codes, loss, self._stats(unit.detach(), codes), self._rows(unit))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [...] -> their vectors [..., L]."""
        return self.codebook[codes]

    @torch.no_grad()
    def absorb(self, stats: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        """Move the codebook after an update of the weights."""
        candidates = rows["latents"].float()
        if not int(self.updates):
            self._start(candidates, stats["uses"].sum() / self.num_codes)
        else:
            g = self.config.ema_decay
            self.counts.mul_(g).add_(stats["uses"].float(), alpha=1 - g)
            self.sums.mul_(g).add_(stats["latents"].float(), alpha=1 - g)
            if self.config.dead_share:
                self._revive(candidates)
        self.codebook.copy_(F.normalize(self.sums, dim=1))
        self.updates += 1

    def _start(self, candidates: Tensor, mean: Tensor) -> None:
        """K-means of the first latents; every code starts with little weight, unproven."""
        centres = candidates[self._some(len(candidates), self.num_codes)]
        for _ in range(self.config.kmeans_iterations):
            nearest_centre = nearest(candidates, centres)
            sums = torch.zeros_like(centres).index_add_(0, nearest_centre, candidates)
            taken = torch.bincount(nearest_centre, minlength=self.num_codes) > 0
            centres = torch.where(taken[:, None], F.normalize(sums, dim=1), centres)
        self.counts.fill_(self._unproven * mean)
        self.sums.copy_(centres * self.counts[:, None])

    def _revive(self, candidates: Tensor) -> None:
        least = self.config.dead_share * self.counts.mean()
        dead = (self.counts < least).nonzero()[:, 0]
        # Each latent makes one code at most: two at one place would leave one of them dead again.
        dead = dead[: len(candidates)]
        if len(dead):
            new = candidates[self._some(len(candidates), len(dead))]
            # A new code that nothing falls to is dead again at the next step, and tries elsewhere; one
            # that something falls to follows it quickly.
            self.counts[dead] = least
            self.sums[dead] = new * least

    def _some(self, available: int, wanted: int) -> Tensor:
        """Which candidates, at random: the same on every rank and after a resumption."""
        generator = torch.Generator().manual_seed(int(self.updates))
        repeats = -(-wanted // available)
        order = [torch.randperm(available, generator=generator) for _ in range(repeats)]
        return torch.cat(order)[:wanted].to(self.codebook.device)

    def _stats(self, unit: Tensor, codes: Tensor) -> dict[str, Tensor]:
        flat = codes.flatten()
        sums = torch.zeros_like(self.sums).index_add_(0, flat, unit.flatten(0, 1))
        return {"uses": uses(codes, self.num_codes), "latents": sums}

    def _rows(self, unit: Tensor) -> dict[str, Tensor]:
        """Candidates [B * K, L], taken evenly from each sample, elsewhere at each step."""
        n = unit.shape[1]
        k = min(n, self._rows_per_sample)
        places = (torch.arange(k, device=unit.device) * n // k + self.updates) % n
        return {"latents": unit.detach()[:, places].flatten(0, 1)}


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the codebook's vector with the largest product, [M, L], [V, L] -> [M].

    In chunks: the products of a whole batch would be larger than everything else in memory.
    """
    transposed = codebook.t()
    return torch.cat([(part @ transposed).argmax(1) for part in vectors.split(_CHUNK)])
