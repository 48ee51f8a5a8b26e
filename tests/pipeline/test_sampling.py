"""The way from noise to an image: known answers, and results that belong to a sample alone."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.stage1.decoders.noise import NoiseSchedule
from pipeline.stage1.decoders.sampling import (
    ddim_step,
    ddpm_step,
    guided,
    noise_like,
    sample,
    split,
    trailing_steps,
    uniform,
)

CPU = torch.device("cpu")


def test_steps_end_at_the_noisiest_as_published():
    # Lin et al. 2024, table 2: 1000 steps in 10 are 999, 899, ... 99.
    assert trailing_steps(1000, 10) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert trailing_steps(1000, 50)[-1] == 19
    assert trailing_steps(4, 4) == [3, 2, 1, 0]
    for num_steps in (1, 3, 7, 999):
        steps = trailing_steps(1000, num_steps)
        assert steps[0] == 999
        assert len(set(steps)) == num_steps
        assert min(steps) >= 0


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("num_steps", [1, 7])
def test_a_perfect_predictor_is_followed_to_the_image(prediction, sampler, num_steps):
    schedule = NoiseSchedule("linear", 1000, prediction, zero_terminal_snr=prediction != "eps")
    torch.manual_seed(0)
    x0 = torch.randn(3, 2, 4, 4)

    def perfect(x: Tensor, steps: Tensor) -> Tensor:
        shape = (-1, 1, 1, 1)
        alpha, sigma = schedule.alpha[steps].view(shape), schedule.sigma[steps].view(shape)
        return schedule.target(x0, (x - alpha * x0) / sigma, steps)

    seeds = torch.arange(3)
    found = sample(perfect, schedule, (2, 4, 4), seeds, CPU, sampler, num_steps)
    torch.testing.assert_close(found, x0, atol=1e-3, rtol=0)


def test_ddim_moves_along_the_line_between_image_and_noise():
    schedule = NoiseSchedule("cosine", 100, "x0", zero_terminal_snr=True)
    x0, eps = torch.tensor(3.0), torch.tensor(-2.0)
    expected = schedule.alpha[40] * 3.0 - schedule.sigma[40] * 2.0
    torch.testing.assert_close(ddim_step(schedule, x0, eps, 40), expected)
    assert ddim_step(schedule, x0, eps, -1) == 3.0


@pytest.mark.parametrize(("step", "to"), [(999, 600), (600, 599), (300, 20), (20, -1)])
def test_ddpm_keeps_the_distribution_of_noisy_images(step, to):
    """However long the stride: from x_t ~ N(alpha x0, sigma^2), x_s ~ N(alpha_s x0, sigma_s^2)."""
    schedule = NoiseSchedule("linear", 1000, "x0", zero_terminal_snr=True)
    generator = torch.Generator().manual_seed(0)
    count, x0 = 400_000, torch.tensor(2.0, dtype=torch.float64)
    before = torch.randn(count, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    signal = schedule.alpha_bar(step)
    x = signal**0.5 * x0 + (1 - signal) ** 0.5 * before
    after = ddpm_step(schedule, x, x0, noise, step, to)
    signal = schedule.alpha_bar(to)
    deviation = (1 - signal) ** 0.5
    assert after.mean().item() == pytest.approx(signal**0.5 * 2, abs=5 * deviation / count**0.5)
    assert after.std().item() == pytest.approx(deviation, rel=0.01)


def test_ddpm_samples_the_normal_distribution_it_was_told_of():
    """Of x0 ~ N(m, s^2) the best guess is known in closed form, and the samples must be that again."""
    schedule = NoiseSchedule("linear", 1000, "x0", zero_terminal_snr=True)
    m, s = 1.5, 0.4

    def best(x: Tensor, steps: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha[steps][:, None], schedule.sigma[steps][:, None]
        gain = alpha * s**2 / (alpha**2 * s**2 + sigma**2)
        return m + gain * (x - alpha * m)

    x = sample(best, schedule, (20_000,), torch.tensor([3]), CPU, "ddpm", 1000)
    assert x.mean().item() == pytest.approx(m, abs=5 * s / 20_000**0.5)
    assert x.std().item() == pytest.approx(s, rel=0.03)


def test_guidance_goes_beyond_the_condition():
    def says(value: float):
        return lambda x, steps: torch.full_like(x, value)

    x, steps = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    for guidance, expected in [(0.0, 1.0), (1.0, 5.0), (3.0, 13.0)]:
        assert (guided(says(5.0), says(1.0), guidance)(x, steps) == expected).all()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_sample_does_not_depend_on_its_batch(sampler):
    schedule = NoiseSchedule("linear", 1000, "x0", zero_terminal_snr=True)

    def predict(x: Tensor, steps: Tensor) -> Tensor:
        return (0.9 * x).tanh()

    seeds = torch.tensor([11, -4, 2**40, 11])
    together = sample(predict, schedule, (2, 4, 4), seeds, CPU, sampler, 5)
    for i in range(4):
        alone = sample(predict, schedule, (2, 4, 4), seeds[i : i + 1], CPU, sampler, 5)
        assert torch.equal(alone[0], together[i])
    assert torch.equal(together[0], together[3])
    assert not torch.equal(together[0], together[1])


def test_noise_is_standard_and_differs_between_seeds():
    noise = noise_like((3, 64, 64), torch.arange(20), CPU)
    assert abs(noise.mean()) < 5 / noise.numel() ** 0.5
    assert noise.std().item() == pytest.approx(1, abs=0.01)
    likeness = torch.corrcoef(noise.flatten(1))
    assert (likeness - torch.eye(20)).abs().max() < 5 / (3 * 64 * 64) ** 0.5


def splitmix64(x: int) -> int:
    """What the generator in state x gives next, in Python's integers (Steele et al. 2014)."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_noise_is_box_mullers_of_counted_numbers():
    noise = noise_like((5,), torch.tensor([-7, 3]), CPU)
    for row, seed in zip(noise.tolist(), (-7, 3), strict=True):
        bits = [splitmix64((seed + i * 0x9E3779B97F4A7C15) % 2**64) for i in range(3)]
        radius = [math.sqrt(-2 * math.log(((b >> 40) + 1) / 2**24)) for b in bits]
        angle = [2 * math.pi * (b >> 8 & 0xFFFFFF) / 2**24 for b in bits]
        pairs = [r * f(a) for f in (math.cos, math.sin) for r, a in zip(radius, angle, strict=True)]
        assert row == pytest.approx(pairs[:5], abs=1e-5)


def test_streams_are_splitmix64():
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    seeds = torch.tensor([0, 1, -1, 2**62, -(2**63)])
    for stream in (0, 1, 50):
        found = [x % 2**64 for x in split(seeds, stream).tolist()]
        assert found == [splitmix64(splitmix64(s) + stream) for s in seeds.tolist()]


def test_numbers_of_neighbouring_seeds_and_streams_are_even_and_unrelated():
    draws = torch.stack([uniform(torch.arange(20_000), stream) for stream in range(3)])
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws[0].float(), 50, 0, 1)
    # Chi-square with 49 degrees of freedom: below 100 but once in 10^5 times.
    assert ((counts - 400) ** 2 / 400).sum() < 100
    assert (torch.corrcoef(draws) - torch.eye(3)).abs().max() < 0.03
    following = torch.corrcoef(torch.stack([draws[0, :-1], draws[0, 1:]]))[0, 1]
    assert following.abs() < 0.03
