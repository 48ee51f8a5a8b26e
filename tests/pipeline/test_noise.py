"""Noise schedules against published closed forms; the three predictions against each other."""

import math

import numpy as np
import pytest
import torch

from pipeline.stage1.decoders.noise import NoiseSchedule, StepEmbedding, step_codes


def alpha_bar(schedule: NoiseSchedule) -> np.ndarray:
    return np.array([schedule.alpha_bar(t) for t in range(schedule.num_steps)])


def test_linear_is_the_product_of_the_betas_of_ddpm():
    schedule = NoiseSchedule("linear", 1000, "x0", zero_terminal_snr=False)
    product, expected = 1.0, []
    for t in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        expected.append(product)
    np.testing.assert_allclose(alpha_bar(schedule), expected, rtol=1e-12)
    assert expected[-1] == pytest.approx(4.036e-5, rel=1e-3)


def test_linear_with_fewer_steps_ends_in_as_much_noise():
    few = alpha_bar(NoiseSchedule("linear", 100, "x0", zero_terminal_snr=False))
    many = alpha_bar(NoiseSchedule("linear", 1000, "x0", zero_terminal_snr=False))
    np.testing.assert_allclose(few, many[9::10], atol=0.01)


def test_cosine_is_the_formula_until_beta_is_clipped():
    schedule = NoiseSchedule("cosine", 1000, "x0", zero_terminal_snr=False)

    def f(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [f((t + 1) / 1000) / f(0) for t in range(999)]
    np.testing.assert_allclose(alpha_bar(schedule)[:999], expected, rtol=1e-9)
    assert schedule.alpha_bar(999) == pytest.approx(0.001 * expected[998])


def test_a_shift_moves_the_log_snr_by_twice_its_logarithm():
    plain = alpha_bar(NoiseSchedule("shifted_cosine", 500, "v", zero_terminal_snr=False))
    shifted = alpha_bar(NoiseSchedule("shifted_cosine", 500, "v", False, shift=0.25))
    log_snr = [np.log(a / (1 - a)) for a in (plain, shifted)]
    np.testing.assert_allclose(log_snr[1] - log_snr[0], 2 * math.log(0.25), atol=1e-8)
    assert log_snr[0][[0, -1]].tolist() == pytest.approx([15, -15])
    # Halfway, cos(pi/4) = sin(pi/4): as much signal as noise.
    assert np.interp(249.5, np.arange(500), log_snr[0]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kind", ["linear", "cosine", "shifted_cosine"])
def test_zero_terminal_snr_ends_in_nothing_but_noise(kind):
    plain = NoiseSchedule(kind, 1000, "v", zero_terminal_snr=False, shift=0.5)
    zero = NoiseSchedule(kind, 1000, "v", zero_terminal_snr=True, shift=0.5)
    assert zero.alpha_bar(999) == 0
    assert zero.alpha[-1] == 0
    assert zero.sigma[-1] == 1
    assert zero.alpha_bar(0) == pytest.approx(plain.alpha_bar(0), rel=1e-12)
    a, b = np.sqrt(alpha_bar(plain)), np.sqrt(alpha_bar(zero))
    np.testing.assert_allclose(b, (a - a[-1]) * a[0] / (a[0] - a[-1]), atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cosine", "shifted_cosine"])
@pytest.mark.parametrize("num_steps", [2, 37, 1000])
@pytest.mark.parametrize("zero", [False, True])
def test_signal_falls_and_power_stays_one(kind, num_steps, zero):
    schedule = NoiseSchedule(kind, num_steps, "v", zero, shift=0.5)
    assert (np.diff(alpha_bar(schedule)) < 0).all()
    torch.testing.assert_close(schedule.alpha**2 + schedule.sigma**2, torch.ones(num_steps))
    assert schedule.alpha_bar(-1) == 1


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_the_target_leads_back_to_image_and_noise(prediction):
    schedule = NoiseSchedule("linear", 1000, prediction, zero_terminal_snr=prediction != "eps")
    torch.manual_seed(0)
    x0, noise = torch.randn(5, 2, 4, 4), torch.randn(5, 2, 4, 4)
    steps = torch.tensor([10, 100, 300, 600, 700])
    x = schedule.add_noise(x0, noise, steps)
    back, eps = schedule.x0_and_eps(x, steps, schedule.target(x0, noise, steps))
    torch.testing.assert_close(back, x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(eps, noise, atol=1e-4, rtol=1e-4)


def test_images_are_mixed_by_their_own_steps():
    schedule = NoiseSchedule("linear", 1000, "v", zero_terminal_snr=True)
    x0, noise = torch.ones(2, 1, 1, 1), torch.full((2, 1, 1, 1), 10.0)
    x = schedule.add_noise(x0, noise, torch.tensor([0, 999])).flatten()
    assert x.tolist() == pytest.approx([math.sqrt(1 - 1e-4) + 10 * math.sqrt(1e-4), 10])
    v = schedule.target(x0, noise, torch.tensor([0, 999])).flatten()
    assert v.tolist() == pytest.approx([10 * math.sqrt(1 - 1e-4) - math.sqrt(1e-4), -1])


def test_tables_stay_float32_and_follow_the_device():
    module = torch.nn.Sequential(NoiseSchedule("linear", 1000, "x0", True), torch.nn.Linear(1, 1))
    schedule = module[0]
    assert isinstance(schedule, NoiseSchedule)
    before = schedule.alpha + 0
    module.bfloat16().to(torch.float16)
    assert module[1].weight.dtype == torch.float16
    assert schedule.alpha.dtype == schedule.sigma.dtype == torch.float32
    assert torch.equal(schedule.alpha, before)
    assert not [k for k in module.state_dict() if k.startswith("0.")]
    module.to("meta")
    assert schedule.alpha.device.type == "meta"


def test_step_codes_are_cosines_then_sines_from_fast_to_slow():
    codes = step_codes(torch.tensor([0, 7]), 6)[1].tolist()
    rates = [10_000 ** -(k / 3) for k in range(3)]
    expected = [math.cos(7 * r) for r in rates] + [math.sin(7 * r) for r in rates]
    assert codes == pytest.approx(expected, abs=1e-6)
    assert StepEmbedding(6, 10).bfloat16()(torch.tensor([3])).shape == (1, 10)
