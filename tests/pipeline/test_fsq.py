"""FSQ against the formulas of the paper (arXiv:2309.15505)."""

import itertools
import math

import pytest
import torch
from pydantic import ValidationError

from configs.schema import FSQConfig
from pipeline.stage1.quantizers.fsq import FSQ

LEVELS = [(8, 8, 8, 6, 5), (7, 5, 5, 5), (3,), (2, 4)]


def make(levels: tuple[int, ...], convention: str = "centred") -> FSQ:
    return FSQ(FSQConfig.model_validate({"levels": levels, "convention": convention}))


@pytest.mark.parametrize("levels", LEVELS)
def test_codes_and_latents_are_inverse(levels):
    fsq = make(levels)
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
    quantised, codes, *_ = make(levels)(z)
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
    assert make(levels)(grid).codes.unique().numel() == math.prod(levels)


def test_the_gradient_passes_straight_through_the_rounding():
    fsq = make((7, 5))
    z = torch.randn(20, 2, dtype=torch.float64).float().requires_grad_()
    fsq(z).latents.sum().backward()
    reference = z.detach().clone().requires_grad_()
    (fsq.bound(reference) / torch.tensor([3, 2])).sum().backward()
    torch.testing.assert_close(z.grad, reference.grad)


@pytest.mark.parametrize("levels", LEVELS)
def test_the_unit_convention_is_a_rounded_sigmoid_with_the_first_level_fastest(levels):
    torch.manual_seed(0)
    z = torch.randn(500, len(levels)) * 3
    quantised, codes, *_ = make(levels, "unit")(z)
    for row, code, values in zip(z.tolist(), codes.tolist(), quantised.tolist(), strict=True):
        digits = [round((n - 1) / (1 + math.exp(-x))) for x, n in zip(row, levels, strict=True)]
        assert values == pytest.approx([d / (n - 1) for d, n in zip(digits, levels, strict=True)])
        assert code == sum(d * math.prod(levels[:i]) for i, d in enumerate(digits))
    torch.testing.assert_close(make(levels, "unit").decode(codes), quantised)


def test_a_level_of_one_value_is_refused():
    with pytest.raises(ValidationError, match="at least 2"):
        FSQConfig(levels=(5, 1))
