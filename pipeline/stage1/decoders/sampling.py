"""Noise that belongs to a sample, and the way back from noise to an image.

All randomness follows from one integer seed per sample, so that a sample's result does not depend on
the batch, micro-batch or rank that it is in.

Shapes: B batch, ... an image's shape, T noise steps.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pipeline.stage1.decoders.noise import NoiseSchedule

Predictor = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, ...], steps [B]) -> the network's output [B, ...]."""

# SplitMix64 (Steele et al. 2014), in two's complement.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64: zeros come in, whatever the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def split(seeds: Tensor, stream: int) -> Tensor:
    """Seeds [B] int64 of a stream of random numbers that is independent of all other streams."""
    # Mixed twice, or stream 1 of seed s would be stream 0 of seed s + 1.
    return _mix(_mix(seeds) + stream)


def uniform(seeds: Tensor, stream: int) -> Tensor:
    """One number in [0, 1) per seed: [B] float64."""
    return _shift_right(split(seeds, stream), 11).double() * 2.0**-53


def noise_like(shape: tuple[int, ...], seeds: Tensor, device: torch.device) -> Tensor:
    """Standard normal noise of images of `shape` from seeds [B]: [B, *shape] float32.

    Counted through by SplitMix64 and made normal in pairs (Box and Muller 1958): no generator has to be
    told a seed from the host, and every device makes the same, up to rounding.
    """
    count = math.prod(shape)
    counters = torch.arange(-(-count // 2), device=device) * _GOLDEN
    bits = _mix(seeds.to(device)[:, None] + counters)
    radius = ((_shift_right(bits, 40) + 1) * 2.0**-24).log().mul(-2).sqrt()
    angle = (_shift_right(bits, 8) & 0xFFFFFF) * (2.0**-24 * 2 * math.pi)
    pairs = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return pairs[:, :count].reshape(len(seeds), *shape)


def trailing_steps(num_noise_steps: int, num_steps: int) -> list[int]:
    """Steps from T - 1 down, evenly apart (Lin et al. 2024, table 2): the first is the noisiest."""
    return [round(num_noise_steps * (1 - i / num_steps)) - 1 for i in range(num_steps)]


def ddim_step(schedule: NoiseSchedule, x0: Tensor, eps: Tensor, to: int) -> Tensor:
    """X at step `to` on the deterministic path (Song et al. 2021, eq. 12 with sigma 0)."""
    alpha_bar = schedule.alpha_bar(to)
    return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * eps


def ddpm_step(
    schedule: NoiseSchedule, x: Tensor, x0: Tensor, noise: Tensor, step: int, to: int
) -> Tensor:
    """X at step `to` drawn given x at `step` and the image (Ho et al. 2020, eq. 6 and 7).

    `to` may be any earlier step: beta is then that of the whole stride.
    """
    now, then = schedule.alpha_bar(step), schedule.alpha_bar(to)
    beta = 1 - now / then
    mean = then**0.5 * beta * x0 + (now / then) ** 0.5 * (1 - then) * x
    deviation = (beta * (1 - then) / (1 - now)) ** 0.5
    return mean / (1 - now) + deviation * noise


def guided(conditional: Predictor, unconditional: Predictor, guidance: float) -> Predictor:
    """Classifier-free guidance: away from what would be said without a condition.

    Ho and Salimans 2022, eq. 6, whose w is `guidance` - 1.
    """

    def predict(x: Tensor, steps: Tensor) -> Tensor:
        without = unconditional(x, steps)
        return without + guidance * (conditional(x, steps) - without)

    return predict


def sample(
    predict: Predictor,
    schedule: NoiseSchedule,
    shape: tuple[int, ...],
    seeds: Tensor,
    device: torch.device,
    sampler: Literal["ddim", "ddpm"],
    num_steps: int,
) -> Tensor:
    """Images [B, *shape] float32 that start as the noise of their seeds [B].

    `predict` is called `num_steps` times, from the noisiest step down.
    """
    x = noise_like(shape, split(seeds, 0), device)
    steps = trailing_steps(schedule.num_steps, num_steps)
    for i, (step, to) in enumerate(zip(steps, [*steps[1:], -1], strict=True)):
        at = torch.full((len(seeds),), step, device=device)
        x0, eps = schedule.x0_and_eps(x, at, predict(x, at))
        if sampler == "ddim":
            x = ddim_step(schedule, x0, eps, to)
        else:
            noise = noise_like(shape, split(seeds, i + 1), device)
            x = ddpm_step(schedule, x, x0, noise, step, to)
    return x
