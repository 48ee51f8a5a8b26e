"""FSQ against the formulas of the paper (arXiv:2309.15505)."""

import itertools
import math

import pytest
import torch
from pydantic import ValidationError

from configs.schema import FSQConfig
from pipeline.stage1.quantizers.fsq import FSQ

LEVELS = [(8, 8, 8, 6, 5), (7, 5, 5, 5), (3,), (2, 4)]


def make(levels: tuple[int, ...], convention: str = "centred", evenness: float = 0.0) -> FSQ:
    values = {"levels": levels, "convention": convention, "evenness": evenness}
    return FSQ(FSQConfig.model_validate(values))


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


def used_unevenly(levels: tuple[int, ...], convention: str) -> FSQ:
    fsq = make(levels, convention, evenness=0.5)
    torch.manual_seed(1)
    fsq.share.copy_(torch.rand(fsq.num_codes).square())
    fsq.share.div_(fsq.share.sum())
    return fsq


@pytest.mark.parametrize("convention", ["centred", "unit"])
@pytest.mark.parametrize("levels", LEVELS)
def test_the_loss_of_uneven_use_lies_between_those_of_the_codes_around_a_latent(levels, convention):
    fsq = used_unevenly(levels, convention)
    torch.manual_seed(0)
    z = torch.randn(4, 5, len(levels)) * 2
    lowest = [0 if convention == "unit" else -(n // 2) for n in levels]
    for loss, latents in zip(fsq(z).loss, fsq.bound(z), strict=True):
        expected = 0.0
        for latent in latents.tolist():
            sides = []
            for x, low, n in zip(latent, lowest, levels, strict=True):
                below = min(max(math.floor(x), low), low + n - 2)
                part = x - below
                sides.append([(below - low, 1 - part), (below - low + 1, part)])
            for corner in itertools.product(*sides):
                code = sum(d * math.prod(levels[:i]) for i, (d, _) in enumerate(corner))
                share = float(fsq.share[code]) * fsq.num_codes
                expected += math.prod(w for _, w in corner) * math.log(share + 0.1)
        assert float(loss) == pytest.approx(0.5 * expected / len(latents), rel=1e-4)


def test_uneven_use_counts_in_training_alone():
    fsq = used_unevenly((4, 3), "centred")
    z = torch.randn(2, 3, 2)
    assert fsq(z).loss.abs().min() > 0
    assert not fsq.eval()(z).loss.any()
    assert not make((4, 3))(z).loss.any()
    assert not make((4, 3)).state_dict(), "without it nothing is kept"


def test_the_running_share_follows_the_uses():
    fsq = make((2, 2), evenness=1.0)
    fsq.absorb({"uses": torch.tensor([8.0, 0.0, 0.0, 0.0])}, {})
    torch.testing.assert_close(fsq.share, torch.tensor([0.2875, 0.2375, 0.2375, 0.2375]))


@pytest.mark.parametrize(("evenness", "recovers"), [(0.0, False), (1.0, True)])
def test_latents_that_collapsed_to_one_code_spread_with_evenness(evenness, recovers):
    torch.manual_seed(0)
    fsq = make((8, 6, 5), evenness=evenness)
    latents = (0.01 * torch.randn(1, 2000, 3)).requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=0.05)
    for _ in range(300):
        quantized = fsq(latents)
        # Something to be taught by, however little it asks for.
        (quantized.loss.sum() + 1e-3 * latents.square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
        fsq.absorb(quantized.stats, {})
    used = fsq(latents).codes.unique().numel() / fsq.num_codes
    assert used > 0.7 if recovers else used < 0.05
