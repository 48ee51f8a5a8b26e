"""Errors of hidden patches: losses of each task, and held-out scores in physical units.

Shapes: B samples that have the group, N patches of p x p pixels, C bands, K classes.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.registry import BandStatistics
from pipeline.engine.objective import Sums
from pipeline.layers.float32 import Float32Buffers
from pipeline.multimae.groups import Group, GroupTable
from pipeline.multimae.patches import Patches, normed


def hidden_pixels(patches: Patches, hidden: Tensor) -> Tensor:
    """Which pixels count: valid ones of hidden patches, bool [B, N, p * p]."""
    return patches.valid & hidden[..., None]


def by_pixel(group: Group, values: Tensor) -> Tensor:
    """[B, N, p * p * C] -> [B, N, p * p, C], or K logits; of no samples too."""
    pixels = group.patch_px**2
    return values.unflatten(-1, (pixels, group.patch_values // pixels))


def task_loss(
    group: Group, prediction: Tensor, patches: Patches, hidden: Tensor, *, normed_target: bool
) -> tuple[Tensor, Tensor]:
    """Mean error over the hidden valid pixels of each sample [B], and who has any, bool [B].

    Args:
        group: says which error: squared, absolute, or cross-entropy.
        prediction: float32 [B, N, p * p * C], or logits [B, N, p * p * K].
        patches: the truth; class maps as numbers of classes.
        hidden: bool [B, N].
        normed_target: of values normed patch by patch.
    """
    counts = hidden_pixels(patches, hidden)
    made = by_pixel(group, prediction)
    if group.classes:
        error = F.cross_entropy(made.movedim(-1, 1), patches.values, reduction="none")
    else:
        values = normed(patches.values, patches.valid) if normed_target else patches.values
        apart = made - by_pixel(group, values)
        error = (apart.abs() if group.loss == "l1" else apart**2).mean(-1)
    num = counts.sum((1, 2))
    return torch.where(counts, error, 0.0).sum((1, 2)) / num.clamp(min=1), num > 0


class Judge(Float32Buffers):
    """Held-out errors of hidden pixels beside those of a trivial guess.

    Of images, in the modality's unit, the guess is a standardised 0: the mean of the data set, or with
    robust standardisation that of the sample. Of class maps the confusion tells both.
    """

    def __init__(self, table: GroupTable, statistics: Mapping[str, BandStatistics]):
        super().__init__()
        self.deviations = nn.ModuleDict()
        for group in table.groups:
            if not group.classes:
                known = statistics.get(group.modality)
                std = [known.std[b] if known else 1.0 for b in group.bands]
                self.deviations[group.name] = _Deviations(std)

    @torch.no_grad()
    def forward(self, group: Group, made: Tensor, patches: Patches, hidden: Tensor) -> Sums:
        """Sums that add up over batches and ranks, float64."""
        counts = hidden_pixels(patches, hidden)
        made = by_pixel(group, made)
        if group.classes:
            k = len(group.classes)
            pairs = patches.values[counts] * k + likeliest(group, made)[counts]
            confusion = torch.bincount(pairs, minlength=k * k).view(k, k)
            return {f"confusion/{group.name}": confusion.double()}
        truth = by_pixel(group, patches.values)
        deviations = self.deviations[group.name]
        assert isinstance(deviations, _Deviations)
        unit = patches.scale[..., None] * deviations.std
        error, guess = ((made - truth) * unit)[counts].double(), (truth * unit)[counts].double()
        return {
            f"square/{group.name}": (error**2).sum(0),
            f"absolute/{group.name}": error.abs().sum(0),
            f"guess_square/{group.name}": (guess**2).sum(0),
            f"guess_absolute/{group.name}": guess.abs().sum(0),
            f"pixels/{group.name}": counts.sum().double(),
        }


class _Deviations(Float32Buffers):
    std: Tensor

    def __init__(self, std: list[float]):
        super().__init__()
        self.register_buffer("std", torch.tensor(std), persistent=False)


def likeliest(group: Group, logits: Tensor) -> Tensor:
    """Logits [..., K] -> numbers of classes; never "no data": a map is a claim."""
    if group.nodata is not None:
        nothing = torch.tensor([group.nodata], device=logits.device)
        logits = logits.index_fill(-1, nothing, -torch.inf)
    return logits.argmax(-1)
