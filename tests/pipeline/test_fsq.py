"""FSQ against the formulas of the paper (arXiv:2309.15505)."""

import itertools
import math

import pytest
import torch

from pipeline.stage1.quantizers.fsq import FSQ

LEVELS = [(8, 8, 8, 6, 5), (7, 5, 5, 5), (3,), (2, 4)]


@pytest.mark.parametrize("levels", LEVELS)
def test_codes_and_latents_are_inverse(levels):
    fsq = FSQ(levels)
    codes = torch.arange(fsq.num_codes)
    latents = fsq.decode(codes)
    digits = torch.stack(
        [(codes // math.prod(levels[:i])) % levels[i] for i in range(len(levels))], -1
    )
    expected = (digits - torch.tensor([n // 2 for n in levels])) / torch.tensor(
        [n // 2 for n in levels]
    )
    torch.testing.assert_close(latents, expected)
    assert latents.min() >= -1
    assert latents.max() <= 1


@pytest.mark.parametrize("levels", LEVELS)
def test_a_latent_becomes_the_level_the_formula_says(levels):
    torch.manual_seed(0)
    z = torch.randn(500, len(levels)) * 3
    quantised, codes = FSQ(levels)(z)
    for row, code, values in zip(z.tolist(), codes.tolist(), quantised.tolist(), strict=True):
        expected = 0
        for i, (x, n) in enumerate(zip(row, levels, strict=True)):
            half = (n - 1) * (1 + 1e-3) / 2
            offset = 0.5 if n % 2 == 0 else 0.0
            level = round(math.tanh(x + math.atanh(offset / half)) * half - offset)
            assert values[i] == pytest.approx(level / (n // 2))
            expected += (level + n // 2) * math.prod(levels[:i])
        assert code == expected


def test_all_codes_can_be_reached():
    levels = (4, 3, 2)
    grid = torch.tensor(list(itertools.product(torch.linspace(-4, 4, 41).tolist(), repeat=3)))
    assert FSQ(levels)(grid)[1].unique().numel() == math.prod(levels)


def test_the_gradient_passes_straight_through_the_rounding():
    fsq = FSQ((7, 5))
    z = torch.randn(20, 2, dtype=torch.float64).float().requires_grad_()
    quantised, _ = fsq(z)
    quantised.sum().backward()
    reference = z.detach().clone().requires_grad_()
    (fsq.bound(reference) / torch.tensor([3, 2])).sum().backward()
    torch.testing.assert_close(z.grad, reference.grad)


def test_a_level_of_one_value_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        FSQ((5, 1))
