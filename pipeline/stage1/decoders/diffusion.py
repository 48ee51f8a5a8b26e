"""The diffusion decoder: latents say what noise is to become.

Shapes: B batch, C bands, H W pixels, N latents in row-major order, L latent width, T noise steps.
"""

from functools import partial

import torch
from torch import Tensor, nn

from configs import ConfigError
from configs.schema import DiffusionConfig
from pipeline.stage1.decoders.noise import NoiseSchedule
from pipeline.stage1.decoders.sampling import guided, noise_like, sample, split, uniform
from pipeline.stage1.decoders.unet import UNet
from pipeline.stage1.decoders.uvit import UViT

# Streams of a sample's random numbers in training.
_STEP, _DROP, _NOISE = range(3)


class Condition(nn.Module):
    """Latents, and a learned embedding instead of those that are left out.

    `forward(z[B, N, L], dropped[B] bool) -> [B, N, L]`. With torch.where both take part whatever is
    dropped: the set of parameters in use is the same on every rank and step.
    """

    def __init__(self, latent_width: int):
        super().__init__()
        self.null = nn.Parameter(torch.zeros(latent_width))

    def forward(self, z: Tensor, dropped: Tensor) -> Tensor:
        return torch.where(dropped[:, None, None], self.null.to(z.dtype), z)


class DiffusionDecoder(nn.Module):
    """`forward` is the training loss, `decode` draws images.

    `patch` is the side in pixels of what one latent stands for. Images of any size that divides into
    such patches will do, in training and after it. Raises ConfigError when the shape of the network
    does not fit.
    """

    def __init__(self, config: DiffusionConfig, latent_width: int, num_channels: int, patch: int):
        super().__init__()
        _check(config, patch)
        self.config, self.patch, self.num_channels = config, patch, num_channels
        self.schedule = NoiseSchedule(
            config.schedule,
            config.num_noise_steps,
            config.prediction,
            config.zero_terminal_snr,
            config.shift,
        )
        network = UNet if config.network == "unet" else UViT
        self.network = network(config, latent_width, num_channels)
        self.condition = Condition(latent_width) if config.condition_dropout else None

    def forward(self, z: Tensor, x: Tensor, valid: Tensor, seeds: Tensor) -> Tensor:
        """Mean square error of the prediction over each image's valid pixels: [B] float32.

        Latents z [B, N, L], images x [B, C, H, W], valid [B, H, W] bool, seeds [B] int64. Noise step,
        noise and whether the condition is left out follow from the seed. Pixels that are not valid are
        0 in the image that the network sees. An image without valid pixels has loss 0.
        """
        x = torch.where(valid[:, None], x.float(), 0.0)
        steps = (uniform(seeds, _STEP) * self.config.num_noise_steps).long()
        noise = noise_like(tuple(x.shape[1:]), split(seeds, _NOISE), x.device)
        latents = self._drop(z, uniform(seeds, _DROP) < self.config.condition_dropout)
        noisy = self.schedule.add_noise(x, noise, steps)
        output = self._predict(latents, noisy, steps)
        error = (output - self.schedule.target(x, noise, steps)).square().mean(1)
        return (error * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)

    @torch.no_grad()
    def decode(self, z: Tensor, seeds: Tensor, size: tuple[int, int]) -> Tensor:
        """Images [B, C, H, W] float32 of `size` (H, W), drawn for latents [B, N, L] with seeds [B]."""
        predict = partial(self._predict, z)
        if self.config.guidance != 1:
            nothing = self._drop(z, torch.ones(len(z), dtype=torch.bool, device=z.device))
            predict = guided(predict, partial(self._predict, nothing), self.config.guidance)
        return sample(
            predict,
            self.schedule,
            (self.num_channels, *size),
            seeds,
            z.device,
            self.config.sampler,
            self.config.sample_steps,
        )

    def _drop(self, z: Tensor, dropped: Tensor) -> Tensor:
        return z if self.condition is None else self.condition(z, dropped)

    def _predict(self, z: Tensor, x: Tensor, steps: Tensor) -> Tensor:
        rows, columns = x.shape[-2] // self.patch, x.shape[-1] // self.patch
        latents = z.transpose(1, 2).reshape(len(z), -1, rows, columns)
        return self.network(x, steps, latents)


def _check(config: DiffusionConfig, patch: int) -> None:
    if patch % config.patch_px:
        raise ConfigError(
            f"diffusion.patch_px is {config.patch_px}, and must divide the tokenizer's patch of {patch} px"
        )
    if config.width % 4:
        raise ConfigError(f"diffusion.width must be a multiple of 4, got {config.width}")
    widths = [config.width]
    if config.network == "unet":
        # The middle always attends, at the width of the last level.
        attends = (*config.attention[:-1], True)
        widths = [config.width * m for m, a in zip(config.multipliers, attends, strict=True) if a]
    for width in widths:
        if width % config.heads:
            raise ConfigError(
                f"diffusion.heads is {config.heads}, and must divide the {width} channels that attend"
            )
