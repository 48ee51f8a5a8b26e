"""Terms of the reconstruction loss against plain loops over pixels, and what they refuse."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs import ConfigError
from configs.registry import BandStatistics, modality
from configs.schema import PixelLossConfig
from pipeline.layers.spectral import spectral_angle
from pipeline.stage1.losses import ReconstructionLoss
from pipeline.stage1.losses.classes import class_loss
from pipeline.stage1.losses.gradient import gradient_loss
from pipeline.stage1.losses.pixel import pixel_loss

RGB, DEM, LULC, TWO_DATES = (modality(n) for n in ("S2RGB", "DEM", "LULC", "LULCchange"))
STATISTICS = {
    "S2RGB": BandStatistics((87.0, 81.0, 67.0), (59.0, 48.0, 43.0)),
    "DEM": BandStatistics((670.0,), (951.0,)),
}


def make(name: str, **config) -> ReconstructionLoss:
    return ReconstructionLoss(PixelLossConfig(**config), modality(name), STATISTICS.get(name))


def images(name: str = "S2RGB", b: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    shape = (b, modality(name).num_bands, 7, 6)
    valid = torch.rand(b, 7, 6, generator=rng) > 0.3
    return torch.randn(shape, generator=rng), torch.randn(shape, generator=rng), valid


def classes(name: str, b: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    c = modality(name).num_bands
    x = torch.randint(1, 10, (b, c, 7, 6), generator=rng, dtype=torch.uint8)
    return torch.randn(b, c * 10, 7, 6, generator=rng), x, torch.rand(b, 7, 6, generator=rng) > 0.3


CASES = {
    "l1": ("S2RGB", {"pixel": "l1"}),
    "l2": ("S2RGB", {"pixel": "l2"}),
    "angle": ("S2RGB", {"pixel": "huber", "spectral_angle": 0.7}),
    "gradient": ("DEM", {"gradient": 0.5}),
    "classes": ("LULC", {"class_weights": {"water": 3.0}}),
    "two dates": ("LULCchange", {}),
}


def case(key: str) -> tuple[ReconstructionLoss, Tensor, Tensor, Tensor]:
    name, config = CASES[key]
    inputs = classes(name) if modality(name).kind == "classes" else images(name)
    return make(name, **config), *inputs


@pytest.mark.parametrize(
    ("kind", "formula"),
    [
        ("l1", abs),
        ("l2", lambda e: e**2),
        ("huber", lambda e: 0.5 * e**2 if abs(e) < 1 else abs(e) - 0.5),
    ],
)
def test_pixel_terms_are_their_formulas(kind, formula):
    prediction, x, _ = images()
    prediction = 2 * prediction
    found = pixel_loss(kind, prediction, x)
    for b, r, c in [(0, 0, 0), (2, 6, 5), (1, 3, 2)]:
        errors = (prediction - x)[b, :, r, c].tolist()
        assert float(found[b, r, c]) == pytest.approx(sum(map(formula, errors)) / 3, rel=1e-5)


def test_cross_entropy_is_averaged_over_maps_and_weighed_by_class():
    logits, x, valid = classes("LULCchange")
    weights = torch.ones(10)
    weights[4] = 5.0
    found = class_loss(logits, x, weights)
    for b, r, c in [(0, 0, 0), (2, 6, 5)]:
        losses = []
        for m in range(2):
            p = torch.softmax(logits[b, 10 * m : 10 * m + 10, r, c], 0)
            truth = int(x[b, m, r, c])
            losses.append(-math.log(p[truth]) * (5 if truth == 4 else 1))
        assert float(found[b, r, c]) == pytest.approx(np.mean(losses), rel=1e-5)
    loss = make("LULCchange", class_weights={"crops": 5.0})
    expected = torch.stack([f[v].mean() for f, v in zip(found, valid, strict=True)])
    torch.testing.assert_close(loss(logits, x, valid), expected)


def test_one_map_costs_what_cross_entropy_says():
    logits, x, valid = classes("LULC")
    plain = F.cross_entropy(logits, x[:, 0].long(), reduction="none")
    expected = torch.stack([p[v].mean() for p, v in zip(plain, valid, strict=True)])
    torch.testing.assert_close(make("LULC")(logits, x, valid), expected)


def test_spectral_angle_is_the_arc_cosine_of_physical_values():
    prediction, x, valid = images()
    stats = STATISTICS["S2RGB"]
    both = [v * torch.tensor(stats.std)[:, None, None] for v in (prediction, x)]
    p, t = (v + torch.tensor(stats.mean)[:, None, None] for v in both)
    plain, angle = make("S2RGB")(prediction, x, valid), make("S2RGB", spectral_angle=2.0)
    found = (angle(prediction, x, valid) - plain) / 2
    for b in range(3):
        angles = []
        for r, c in valid[b].nonzero().tolist():
            u, v = p[b, :, r, c].double().numpy(), t[b, :, r, c].double().numpy()
            angles.append(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
        assert float(found[b]) == pytest.approx(np.mean(angles), rel=1e-4)


def test_brightness_does_not_change_the_angle_and_darkness_has_none():
    t = torch.rand(1, 5, 2, 2) + 0.1
    zero = torch.zeros_like(t)
    assert spectral_angle(3 * t, t, 1e-6).max() < 1e-3
    torch.testing.assert_close(spectral_angle(-t, t, 1e-6), torch.full((1, 2, 2), math.pi))
    torch.testing.assert_close(spectral_angle(zero, t, 1e-6), torch.full((1, 2, 2), math.pi / 2))
    assert spectral_angle(t, zero, 1e-6).tolist() == zero[:, 0].tolist()


@pytest.mark.parametrize("start", ["same", "zero", "opposite", "tiny"])
def test_the_angle_s_gradient_is_finite_everywhere(start):
    t = torch.rand(1, 4, 2, 2) + 0.1
    t[..., 0] = 0.0
    values = {"same": t, "zero": 0 * t, "opposite": -t, "tiny": t * 1e-30}
    p = values[start].clone().requires_grad_()
    spectral_angle(p, t, 1e-2).sum().backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()
    assert p.grad.abs().max() <= 2 / 1e-2


def test_a_dark_prediction_is_drawn_towards_the_truth():
    t = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    p = torch.zeros_like(t).requires_grad_()
    spectral_angle(p, t, 0.1).sum().backward()
    assert p.grad is not None
    assert F.cosine_similarity(-p.grad, t).item() == pytest.approx(1)


def test_gradient_loss_is_a_mean_over_pairs_of_valid_neighbours():
    prediction, x, valid = images("DEM")
    valid[2] = False
    found = gradient_loss(prediction, x, valid)
    e = (prediction - x)[:, 0]
    for b in range(2):
        pairs = []
        for r in range(7):
            for c in range(6):
                for dr, dc in ((1, 0), (0, 1)):
                    if r + dr < 7 and c + dc < 6 and valid[b, r, c] and valid[b, r + dr, c + dc]:
                        pairs.append(abs(float(e[b, r + dr, c + dc] - e[b, r, c])))
        assert float(found[b]) == pytest.approx(np.mean(pairs), rel=1e-5)
    assert found[2] == 0
    assert gradient_loss(x + 5, x, valid).abs().max() < 1e-6


@pytest.mark.parametrize("key", CASES)
def test_invalid_pixels_change_neither_loss_nor_gradient(key):
    loss, prediction, x, valid = case(key)
    prediction.requires_grad_()
    before = loss(prediction, x, valid)
    (wanted,) = torch.autograd.grad(before.sum(), prediction)
    assert not wanted[~valid[:, None].expand_as(prediction)].any()
    assert wanted[valid[:, None].expand_as(prediction)].any()
    holes = ~valid[:, None]
    broken = torch.where(holes, torch.nan, prediction.detach()).requires_grad_()
    strange = torch.where(holes, 255 if x.dtype == torch.uint8 else torch.nan, x).to(x.dtype)
    after = loss(broken, strange, valid)
    (found,) = torch.autograd.grad(after.sum(), broken)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("key", CASES)
def test_a_sample_s_loss_does_not_depend_on_its_batch(key):
    loss, prediction, x, valid = case(key)
    whole = loss(prediction, x, valid)
    parts = [loss(prediction[i : i + 1], x[i : i + 1], valid[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(parts), whole)
    valid[1] = False
    assert loss(prediction, x, valid)[1] == 0


@pytest.mark.parametrize("key", CASES)
def test_the_sum_is_float32_whatever_comes_in_and_around(key):
    loss, prediction, x, valid = case(key)
    narrow = prediction.bfloat16()
    expected = loss(narrow.float(), x, valid)
    cast = nn.Sequential(loss).bfloat16()[0]
    found = cast(narrow, x, valid)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not loss.state_dict()
    assert not list(loss.parameters())


def test_terms_add_up_by_their_weights():
    prediction, x, valid = images("DEM")
    plain, steep = make("DEM"), make("DEM", gradient=0.25)
    expected = plain(prediction, x, valid) + 0.25 * gradient_loss(prediction, x, valid)
    torch.testing.assert_close(steep(prediction, x, valid), expected)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("DEM", {"spectral_angle": 1.0}, "at least 2 bands"),
        ("S1GRD", {"spectral_angle": 1.0}, "in dB"),
        ("S2L2A", {"spectral_angle": 1.0}, "needs the statistics"),
        ("LULC", {"spectral_angle": 1.0}, "class map"),
        ("LULC", {"gradient": 1.0}, "class map"),
        ("LULC", {"perceptual": 1.0, "perceptual_network": "somewhere"}, "class map"),
        ("S2RGB", {"perceptual": 1.0, "perceptual_network": "somewhere"}, "needs the encoder"),
        ("S2RGB", {"class_weights": {"water": 2.0}}, "has no classes"),
        ("LULC", {"class_weights": {"ocean": 2.0}}, "no class 'ocean'; it has .*water"),
        ("LULC", {"class_weights": {"water": -2.0}}, "below 0"),
        ("captions", {}, "no pixels"),
    ],
)
def test_terms_without_a_meaning_are_refused(name, config, message):
    with pytest.raises(ConfigError, match=message):
        make(name, **config)
