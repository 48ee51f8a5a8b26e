"""How much of an image and how much noise is in x_t, and what a network is asked about it.

    x_t = alpha_t x_0 + sigma_t eps,    alpha_t^2 + sigma_t^2 = 1

Shapes: B batch, T noise steps, D width. Step 0 is nearly clean, step T - 1 is (nearly) noise.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.layers.float32 import Float32Buffers

# Of the cosine schedules: Nichol and Dhariwal 2021, section 3.2; Hoogeboom et al. 2023, appendix.
COSINE_OFFSET = 0.008
MAX_BETA = 0.999
MAX_LOG_SNR = 15.0
MAX_PERIOD = 10_000.0


def _linear(num_steps: int) -> Tensor:
    """alpha^2 of Ho et al. 2020: betas 1e-4 to 0.02 over 1000 steps, larger when there are fewer."""
    scale = 1000 / num_steps
    betas = torch.linspace(scale * 1e-4, scale * 0.02, num_steps, dtype=torch.float64)
    return (1 - betas.clamp(max=MAX_BETA)).cumprod(0)


def _cosine(num_steps: int) -> Tensor:
    """alpha^2 of Nichol and Dhariwal 2021, eq. 17, no beta above 0.999."""
    t = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    f = torch.cos((t + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
    betas = 1 - f[1:] / f[:-1]
    return (1 - betas.clamp(max=MAX_BETA)).cumprod(0)


def _shifted_cosine(num_steps: int, shift: float) -> Tensor:
    """alpha^2 of Hoogeboom et al. 2023, section 3.1: log-SNR from 15 to -15, plus 2 log(shift)."""
    first = math.atan(math.exp(-MAX_LOG_SNR / 2))
    t = torch.linspace(first, math.pi / 2 - first, num_steps, dtype=torch.float64)
    return torch.sigmoid(-2 * torch.log(torch.tan(t)) + 2 * math.log(shift))


def _end_in_noise(alpha_bar: Tensor) -> Tensor:
    """No signal in the last step, the first unchanged (Lin et al. 2024, algorithm 1)."""
    alpha = alpha_bar.sqrt()
    first, last = alpha[0].clone(), alpha[-1].clone()
    return ((alpha - last) * first / (first - last)) ** 2


class NoiseSchedule(Float32Buffers):
    """T levels of noise and the three quantities a network may predict (x0, eps, or v).

    v is alpha eps - sigma x0 (Salimans and Ho 2022, appendix D). A `shift` below 1 makes every step of
    `shifted_cosine` noisier; "shifted_cosine:s" of 4M is a shift of 1/s.

    Tables are computed in float64 and stay float32 in a module that is cast to another type: in
    bfloat16 the last steps would be equal to each other.
    """

    alpha: Tensor
    sigma: Tensor

    def __init__(
        self,
        kind: Literal["linear", "cosine", "shifted_cosine"],
        num_steps: int,
        prediction: Literal["x0", "eps", "v"],
        zero_terminal_snr: bool,
        shift: float = 1.0,
    ):
        super().__init__()
        self.num_steps, self.prediction = num_steps, prediction
        # Numbers, also where the model around it is built without any, on the meta device.
        with torch.device("cpu"):
            if kind == "linear":
                alpha_bar = _linear(num_steps)
            elif kind == "cosine":
                alpha_bar = _cosine(num_steps)
            else:
                alpha_bar = _shifted_cosine(num_steps, shift)
            if zero_terminal_snr:
                alpha_bar = _end_in_noise(alpha_bar)
        self._alpha_bar: list[float] = alpha_bar.tolist()
        device = torch.get_default_device()
        self.register_buffer("alpha", alpha_bar.sqrt().float().to(device), persistent=False)
        self.register_buffer("sigma", (1 - alpha_bar).sqrt().float().to(device), persistent=False)

    def alpha_bar(self, step: int) -> float:
        """alpha^2 of a step in double precision; 1 for step -1, which is the clean image."""
        return self._alpha_bar[step] if step >= 0 else 1.0

    def add_noise(self, x0: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """x_t of images [B, ...] at steps [B] (Ho et al. 2020, eq. 4)."""
        alpha, sigma = self._levels(steps, x0)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, steps: Tensor) -> Tensor:
        """What the network should say about `add_noise(x0, noise, steps)`: [B, ...]."""
        if self.prediction == "x0":
            return x0
        if self.prediction == "eps":
            return noise
        alpha, sigma = self._levels(steps, x0)
        return alpha * noise - sigma * x0

    def x0_and_eps(self, x: Tensor, steps: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The image and the noise which x_t [B, ...] is made of if the network's output is right."""
        alpha, sigma = self._levels(steps, x)
        if self.prediction == "x0":
            return output, (x - alpha * output) / sigma
        if self.prediction == "eps":
            return (x - sigma * output) / alpha, output
        return alpha * x - sigma * output, sigma * x + alpha * output

    def _levels(self, steps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1,) + (1,) * (like.dim() - 1)
        return self.alpha[steps].view(shape), self.sigma[steps].view(shape)


def step_codes(steps: Tensor, width: int) -> Tensor:
    """Steps [B] -> cosines, then sines, of `width` / 2 frequencies: [B, D] (Ho et al. 2020, B)."""
    half = torch.arange(width // 2, dtype=torch.float32, device=steps.device) / (width // 2)
    angles = steps[:, None].float() * torch.exp(-math.log(MAX_PERIOD) * half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class StepEmbedding(nn.Module):
    """Noise steps [B] -> embeddings [B, D_out], by two layers on codes of `width`."""

    def __init__(self, width: int, out_width: int):
        super().__init__()
        self.width = width
        self.fc1 = nn.Linear(width, out_width)
        self.fc2 = nn.Linear(out_width, out_width)

    def forward(self, steps: Tensor) -> Tensor:
        codes = step_codes(steps, self.width).to(self.fc1.weight.dtype)
        return self.fc2(F.silu(self.fc1(codes)))
