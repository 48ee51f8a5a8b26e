"""What plain resampling keeps of a window at a tokenizer's rate: how good the tokens have to be.

    images       area average down, 8 bits per band and cell, bicubic up
    class maps   majority vote down, log2(K) bits per map and cell, nearest up

The grid of cells is square and the largest that takes no more bits than the window's tokens. Images
spend part of them on the range of each band, two numbers of the stored type.

Shapes: B batch, C bands or maps, K classes, H W pixels of the window, G cells per side.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from configs.schema import Modality
from pipeline.data.transforms import measured_pixels
from pipeline.engine.objective import Sums
from pipeline.stage1.classes import to_channels
from pipeline.stage1.judging import Judge

_LEVELS = 256


@dataclass(frozen=True)
class Baseline:
    """A resampler that may spend as many bits on a window of `side` pixels as its tokens take."""

    modality: Modality
    bits: float
    side: int

    @classmethod
    def at_rate(cls, modality: Modality, num_tokens: int, vocab_size: int, side: int) -> "Baseline":
        """As many bits as the tokens take, written down without a model of which are likely."""
        return cls(modality, num_tokens * math.log2(vocab_size), side)

    @property
    def header_bits(self) -> int:
        """The range of each band of an image, in its stored type."""
        if self.modality.kind == "classes":
            return 0
        return 2 * 8 * np.dtype(self.modality.dtype).itemsize * self.modality.num_bands

    @property
    def cell_bits(self) -> float:
        """One cell of all bands or maps."""
        levels = self.modality.num_classes if self.modality.kind == "classes" else _LEVELS
        return self.modality.num_bands * math.log2(levels)

    @property
    def cells(self) -> int:
        """G: the largest grid that fits, at most the window itself; 0 if not one cell does."""
        count = int(max(0.0, self.bits - self.header_bits) / self.cell_bits)
        return min(self.side, math.isqrt(count))

    def restore(self, maps: np.ndarray) -> np.ndarray:
        """Windows [B, C, H, W] as stored -> what is left of them, float32 or uint8 classes."""
        valid = np.stack([measured_pixels(m, self.modality) for m in maps])
        # uint16 and the like are types that torch hardly knows.
        x = torch.from_numpy(maps.astype(np.float32))
        made = resample(x, torch.from_numpy(valid), self.modality, self.cells)
        return made.numpy().astype(np.uint8 if self.modality.kind == "classes" else np.float32)

    def record(
        self, windows: Iterable[tuple[np.ndarray, np.ndarray]], judge: Judge
    ) -> dict[str, object]:
        """What a run keeps about it: rate, grid and scores; no scores where nothing fits."""
        scores = baseline_scores(windows, judge, self.cells) if self.cells else {}
        spent = self.header_bits + self.cells**2 * self.cell_bits if self.cells else 0.0
        finite = {k: v if math.isfinite(v) else None for k, v in scores.items()}
        return {"bits": self.bits, "spent_bits": spent, "cells": self.cells, "scores": finite}


def resample_image(x: Tensor, valid: Tensor, cells: int) -> Tensor:
    """Images [B, C, H, W] in physical units -> the same through G x G cells, float32.

    `valid` [B, H, W] bool: other pixels count for nothing. Without a single valid pixel all is 0.
    """
    x, inside = x.float(), valid[:, None]
    low = torch.where(inside, x, torch.inf).amin((2, 3), keepdim=True)
    high = torch.where(inside, x, -torch.inf).amax((2, 3), keepdim=True)
    low, high = low.nan_to_num(posinf=0.0), high.nan_to_num(neginf=0.0)
    # Relative to the lowest value, so that a constant image loses nothing to rounding.
    means, known = _averages(torch.where(inside, x - low, 0.0), valid, cells)
    overall = torch.where(inside, x - low, 0.0).sum((2, 3), keepdim=True)
    overall = overall / inside.sum((2, 3), keepdim=True).clamp(min=1)
    step = (high - low) / (_LEVELS - 1)
    stored = (torch.where(known, means, overall) / step.clamp(min=1e-30)).round()
    small = stored.clamp(0, _LEVELS - 1) * step
    made = F.interpolate(small, x.shape[-2:], mode="bicubic", align_corners=False)
    return made.clamp(min=torch.zeros_like(low), max=high - low) + low


def resample_classes(x: Tensor, valid: Tensor, cells: int, num_classes: int) -> Tensor:
    """Class maps [B, C, H, W] -> the same through G x G cells, int64.

    A cell takes the class that covers most of its valid pixels, the lowest of equals; one without
    any takes that of the whole window.
    """
    batch, maps = x.shape[:2]
    single = x.reshape(batch * maps, 1, *x.shape[2:])
    inside = valid.repeat_interleave(maps, 0)
    one_hot = F.one_hot(single[:, 0].long(), num_classes).movedim(-1, 1)
    votes = one_hot.float() * inside[:, None]
    shares, known = _averages(votes, inside, cells)
    overall = votes.sum((2, 3), keepdim=True)
    small = torch.where(known, shares, overall).argmax(1, keepdim=True)
    made = F.interpolate(small.float(), x.shape[-2:], mode="nearest-exact")
    return made.long().reshape(x.shape)


def resample(x: Tensor, valid: Tensor, modality: Modality, cells: int) -> Tensor:
    """Windows [B, C, H, W] of either kind through G x G cells."""
    if modality.kind == "classes":
        return resample_classes(x, valid, cells, modality.num_classes)
    return resample_image(x, valid, cells)


def baseline_scores(
    windows: Iterable[tuple[np.ndarray, np.ndarray]], judge: Judge, cells: int
) -> dict[str, float]:
    """Scores of resampled windows, as the tokenizer's: same sums, same units.

    Args:
        windows: pairs as the tokenizer gets them, normalised [C, H, W] (class maps: classes) and
            valid bool [H, W].
        judge: knows the modality and its statistics.
        cells: G, above 0.
    """
    total: Sums = {}
    device = judge.mean.device if judge.has_statistics else None
    for pixels, good in windows:
        x = torch.from_numpy(pixels)[None].to(device)
        valid = torch.from_numpy(good)[None].to(device)
        # Normalising is linear in each band, and so is everything that a resampler does.
        made = resample(x, valid, judge.modality, cells)
        if judge.modality.kind == "classes":
            made = to_channels(made, judge.modality.num_classes)
        for name, value in judge(made, x, valid).items():
            total[name] = total[name] + value if name in total else value
    return judge.scores(total)


def _averages(amounts: Tensor, valid: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Means of [B, K, H, W] over the valid pixels of each cell [B, K, G, G], and which have any.

    Cells whose borders cut pixels count these whole, as torch's area interpolation does.
    """
    share = F.interpolate(valid[:, None].float(), (cells, cells), mode="area")
    means = F.interpolate(amounts, (cells, cells), mode="area") / share.clamp(min=1e-12)
    return means, share > 0
