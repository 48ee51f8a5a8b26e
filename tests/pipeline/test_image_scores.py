"""Scores of images and class maps against torchmetrics and plain loops."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import (
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
)
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image import PeakSignalNoiseRatio, SpectralAngleMapper
from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError

from pipeline.layers.image_scores import image_scores, image_sums
from pipeline.layers.scores import class_scores, confusion_matrix, miou
from pipeline.layers.ssim import ssim_sums

BANDS = ("B02", "B03", "B04")
RANGES = torch.tensor([3000.0, 3000.0, 3000.0])


def images(b: int = 4, side: int = 20) -> tuple[Tensor, Tensor]:
    """Reflectances in DN, smooth enough to have structure, and a noisy guess."""
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(b, 3, side // 4, side // 4, generator=rng) * 2500 + 200
    x = torch.nn.functional.interpolate(x, size=(side, side), mode="bilinear")
    return x + 120 * torch.randn(x.shape, generator=rng) + 30, x


def masks(b: int = 4, side: int = 20) -> Tensor:
    valid = torch.ones(b, side, side, dtype=torch.bool)
    valid[1, :7] = False
    valid[2, 3, 16] = False
    valid[3] = False
    return valid


def everywhere(x: Tensor) -> Tensor:
    return torch.ones_like(x[:, 0], dtype=torch.bool)


def inner_ssim(guess: Tensor, x: Tensor, span: float) -> Tensor:
    """That of torchmetrics, without its windows that hang over the border into a mirror."""
    _, full = structural_similarity_index_measure(
        guess.double(), x.double(), data_range=span, return_full_image=True
    )
    assert isinstance(full, Tensor)
    return full[..., 5:-5, 5:-5].mean()


def test_scores_over_all_pixels_are_torchmetrics():
    guess, x = images()
    scores = image_scores(image_sums(guess, x, everywhere(x), RANGES), BANDS)
    span = float(RANGES[0])
    angle = SpectralAngleMapper()(guess.double(), x.double())
    expected = {
        "mae": MeanAbsoluteError()(guess, x),
        "rmse": MeanSquaredError(squared=False)(guess, x),
        "psnr": PeakSignalNoiseRatio(data_range=span)(guess, x),
        "ssim": inner_ssim(guess, x, span),
        "angle_deg": torch.rad2deg(angle),
        "bias": (guess - x).double().mean(),
    }
    for name, value in expected.items():
        assert scores[name] == pytest.approx(float(value), rel=1e-5), name


def test_scores_per_band_are_torchmetrics_of_that_band_with_its_own_range():
    guess, x = images()
    ranges = torch.tensor([3000.0, 500.0, 10_000.0])
    scores = image_scores(image_sums(guess, x, everywhere(x), ranges), BANDS)
    for c, band in enumerate(BANDS):
        g, t, span = guess[:, c : c + 1].double(), x[:, c : c + 1].double(), float(ranges[c])
        expected = {
            "mae": MeanAbsoluteError()(g, t),
            "rmse": MeanSquaredError(squared=False)(g, t),
            "psnr": PeakSignalNoiseRatio(data_range=span)(g, t),
            "ssim": inner_ssim(g, t, span),
            "bias": (g - t).mean(),
        }
        for name, value in expected.items():
            assert scores[f"{name}/{band}"] == pytest.approx(float(value), rel=1e-5), name
    for name in ("mae", "bias", "ssim"):
        mean = np.mean([scores[f"{name}/{band}"] for band in BANDS])
        assert scores[name] == pytest.approx(mean)


def slow_ssim(guess: np.ndarray, truth: np.ndarray, valid: np.ndarray, span: float) -> list[float]:
    """Equation 13 of the paper, window by window: [H, W] -> its value in every whole window."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    found = []
    for r in range(guess.shape[0] - 10):
        for c in range(guess.shape[1] - 10):
            window = np.s_[r : r + 11, c : c + 11]
            if not valid[window].all():
                continue
            x, y = guess[window], truth[window]
            mx, my = (weights * x).sum(), (weights * y).sum()
            vx, vy = (weights * (x - mx) ** 2).sum(), (weights * (y - my) ** 2).sum()
            cov = (weights * (x - mx) * (y - my)).sum()
            high = (2 * mx * my + c1) * (2 * cov + c2)
            found.append(high / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return found


def test_ssim_is_averaged_over_windows_without_an_invalid_pixel():
    guess, x = images()
    valid = masks()
    total, windows = ssim_sums(guess, x, valid, RANGES)
    for c in range(3):
        values = [
            s
            for b in range(4)
            for s in slow_ssim(guess[b, c].double().numpy(), x[b, c].double().numpy(),
                               valid[b].numpy(), float(RANGES[c]))
        ]  # fmt: skip
        assert len(values) == windows
        assert float(total[c]) == pytest.approx(sum(values), rel=1e-9)


def test_heights_with_six_digits_keep_their_structure():
    rng = torch.Generator().manual_seed(0)
    x = 4000 + torch.rand(1, 1, 16, 16, generator=rng)
    total, windows = ssim_sums(x + 0.01, x, everywhere(x), torch.tensor([1.0]))
    expected = slow_ssim(
        (x + 0.01)[0, 0].double().numpy(), x[0, 0].double().numpy(), np.ones((16, 16), bool), 1.0
    )
    assert float(total / windows) == pytest.approx(np.mean(expected), rel=1e-6)


def test_scores_count_valid_pixels_only():
    guess, x = images()
    valid = masks()
    scores = image_scores(image_sums(guess, x, valid, RANGES), BANDS)
    errors = np.concatenate([(guess - x)[b, :, valid[b]].double().numpy() for b in range(4)], 1)
    assert scores["mae"] == pytest.approx(np.abs(errors).mean())
    assert scores["rmse"] == pytest.approx(np.sqrt((errors**2).mean()))
    u, v = (
        np.concatenate([t[b, :, valid[b]].double().numpy() for b in range(4)], 1)
        for t in (guess, x)
    )
    cosine = (u * v).sum(0) / np.linalg.norm(u, axis=0) / np.linalg.norm(v, axis=0)
    assert scores["angle_deg"] == pytest.approx(np.degrees(np.arccos(cosine)).mean())


@pytest.mark.parametrize("strange", [0.0, 1e9, math.nan, math.inf])
def test_what_stands_in_invalid_pixels_changes_no_sum(strange):
    guess, x = images()
    holes = ~masks()[:, None]
    expected = image_sums(guess, x, masks(), RANGES)
    guess, x = (torch.where(holes, strange, t) for t in (guess, x))
    found = image_sums(guess, x, masks(), RANGES)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_sums_of_batches_add_up_however_they_are_cut():
    guess, x = images()
    valid = masks()
    whole = image_sums(guess, x, valid, RANGES)
    for cut in ([1, 3], [1, 1, 1, 1], [2, 2]):
        pieces = zip(guess.split(cut), x.split(cut), valid.split(cut), strict=True)
        parts = [image_sums(*piece, RANGES) for piece in pieces]
        for name, value in whole.items():
            summed = torch.stack([part[name] for part in parts]).sum(0)
            torch.testing.assert_close(summed, value, rtol=1e-12, atol=0)


def test_scores_without_anything_to_judge_are_left_out():
    guess, x = images(side=8)
    small = image_scores(image_sums(guess, x, everywhere(x), RANGES), BANDS)
    assert "mae" in small
    assert not [name for name in small if name.startswith("ssim")]
    dark = image_sums(guess, torch.zeros_like(x), everywhere(x), RANGES)
    assert "angle_deg" not in image_scores(dark, BANDS)
    radar = image_sums(guess, x, everywhere(x), RANGES, spectral=False)
    assert "angle_deg" not in image_scores(radar, BANDS)
    nothing = image_sums(guess, x, ~everywhere(x), RANGES)
    assert image_scores(nothing, BANDS) == {}


def test_a_perfect_image_has_perfect_scores():
    _, x = images()
    scores = image_scores(image_sums(x, x, everywhere(x), RANGES), BANDS)
    assert scores["psnr"] == 100
    assert scores["ssim"] == pytest.approx(1)
    assert [scores[n] for n in ("mae", "rmse", "bias", "angle_deg")] == [0, 0, 0, 0]


def test_class_scores_are_torchmetrics():
    torch.manual_seed(0)
    truth, guess = torch.randint(0, 4, (2, 2, 9, 8)), torch.randint(0, 4, (2, 2, 9, 8))
    valid = torch.rand(2, 9, 8) > 0.3
    confusion = confusion_matrix(guess, truth.to(torch.uint8), valid, 4)
    flat = [t[valid[:, None].expand_as(t)] for t in (guess, truth)]
    assert confusion.tolist() == MulticlassConfusionMatrix(4)(*flat).tolist()
    names = {0: "water", 1: "trees", 2: "crops", 3: "built area"}
    scores = class_scores(confusion, names)
    iou = MulticlassJaccardIndex(4, average="none")(*flat)
    f1 = MulticlassF1Score(4, average="none")(*flat)
    for value, name in names.items():
        assert scores[f"iou/{name}"] == pytest.approx(float(iou[value]), rel=1e-5)
        assert scores[f"f1/{name}"] == pytest.approx(float(f1[value]), rel=1e-5)
    assert scores["miou"] == miou(confusion) == pytest.approx(float(iou.mean()), rel=1e-5)
    assert scores["f1"] == pytest.approx(float(f1.mean()), rel=1e-5)


def test_classes_that_the_truth_lacks_are_not_listed():
    confusion = torch.tensor([[8, 0, 2], [0, 0, 0], [0, 0, 5]])
    scores = class_scores(confusion, {0: "water", 1: "trees", 2: "crops"}, ignore=2)
    assert [n for n in scores if "/" in n] == ["iou/water", "f1/water"]
    assert scores["f1"] == pytest.approx(16 / 18)
    empty = class_scores(torch.zeros(3, 3), {0: "water"})
    assert math.isnan(empty["miou"])
    assert math.isnan(empty["f1"])
