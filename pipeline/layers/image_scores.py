"""Scores of images from sums that add up over samples, batches and ranks.

Shapes: B batch, C bands, H W pixels. Everything is in physical units and float64.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.layers.spectral import has_spectral_direction, spectral_angle
from pipeline.layers.ssim import ssim_sums

_NO_LENGTH = 1e-12


@torch.no_grad()
def image_sums(
    prediction: Tensor, x: Tensor, valid: Tensor, ranges: Tensor, *, spectral: bool = True
) -> dict[str, Tensor]:
    """What `image_scores` needs to know of a batch; sums of several batches are their elementwise sums.

    Args:
        prediction, x: [B, C, H, W] in physical units.
        valid: bool [B, H, W]; what stands elsewhere is not looked at.
        ranges: [C], the span of values of each band: the peak of PSNR and the L of SSIM.
        spectral: also angles between band vectors; they mean nothing for one band, or for dB.
    """
    truth = torch.where(valid[:, None], x, 0.0).double()
    prediction = torch.where(valid[:, None], prediction, 0.0).double()
    error = prediction - truth
    square = (error**2).sum((0, 2, 3))
    similarity, windows = ssim_sums(prediction, truth, valid, ranges)
    sums = {
        "pixels": valid.sum().double(),
        "error": error.sum((0, 2, 3)),
        "absolute": error.abs().sum((0, 2, 3)),
        "square": square,
        "relative_square": square / ranges.double() ** 2,
        "ssim": similarity,
        "windows": windows,
    }
    if spectral:
        compared = has_spectral_direction(truth, _NO_LENGTH)
        sums["angle"] = (spectral_angle(prediction, truth, _NO_LENGTH) * compared).sum()
        sums["spectra"] = compared.sum().double()
    return sums


def image_scores(sums: Mapping[str, Tensor], bands: Sequence[str]) -> dict[str, float]:
    """Scores over all bands, and per band as `mae/B04`; those that nothing was summed for are left out.

    mae, bias    mean error, absolute and signed (prediction - truth), in the bands' unit
    rmse         root of the mean squared error; over all bands, of its mean over bands
    psnr         dB, of the mean squared error in shares of the range, likewise; 100 where it is smaller
    ssim         mean over windows
    angle_deg    mean angle between the true and the predicted spectrum of a pixel
    """
    if not sums["pixels"]:
        return {}
    pixels, windows = sums["pixels"], sums["windows"]
    means = {
        "mae": sums["absolute"] / pixels,
        "bias": sums["error"] / pixels,
        "rmse": sums["square"] / pixels,
        "psnr": sums["relative_square"] / pixels,
    }
    if windows:
        means["ssim"] = sums["ssim"] / windows
    finish = {"rmse": math.sqrt, "psnr": _decibels}
    scores: dict[str, float] = {}
    for metric, mean in means.items():
        last = finish.get(metric, float)
        scores[metric] = last(float(mean.mean()))
        values = zip(bands, mean.tolist(), strict=True)
        scores |= {f"{metric}/{band}": last(value) for band, value in values}
    if sums.get("spectra"):
        scores["angle_deg"] = math.degrees(float(sums["angle"] / sums["spectra"]))
    return scores


def _decibels(relative_square: float) -> float:
    return -10 * math.log10(max(relative_square, 1e-10))
