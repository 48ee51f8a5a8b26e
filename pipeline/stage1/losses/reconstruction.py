"""The sum of terms a configuration asks for.

Shapes: B batch, C bands or class maps, K classes, H W pixels.
"""

import torch
from torch import Tensor

from configs import ConfigError
from configs.registry import BandStatistics
from configs.schema import Modality, PixelLossConfig
from pipeline.layers.float32 import Float32Buffers
from pipeline.layers.spectral import spectral_angle
from pipeline.stage1.encoder import Encoder
from pipeline.stage1.losses.classes import class_loss
from pipeline.stage1.losses.gradient import gradient_loss
from pipeline.stage1.losses.perceptual import PerceptualLoss
from pipeline.stage1.losses.pixel import pixel_loss

# A spectrum shorter than this share of the deviations' length is below what sensors resolve.
_DARK = 0.01


class ReconstructionLoss(Float32Buffers):
    """How far a decoder's output is from a window, as a mean over each sample's valid pixels.

    Images: `pixel` of normalised bands, and by their weights the spectral angle in radians (of physical
    values, hence `statistics`), the L1 of differences between neighbours, and the distance in features
    of `perceptual_encoder`, which is taken over and frozen. Class maps: cross-entropy.

    Computed in float32 whatever comes in, and whatever the model around it is cast to. Raises
    ConfigError for terms that the modality has no meaning for.
    """

    mean: Tensor
    std: Tensor
    class_weights: Tensor | None

    def __init__(
        self,
        config: PixelLossConfig,
        modality: Modality,
        statistics: BandStatistics | None,
        perceptual_encoder: Encoder | None = None,
    ):
        super().__init__()
        _check(config, modality, statistics, perceptual_encoder)
        self.config = config
        self.is_classes = modality.kind == "classes"
        if statistics is not None and not self.is_classes:
            mean = torch.tensor(statistics.mean, dtype=torch.float32)[:, None, None]
            std = torch.tensor(statistics.std, dtype=torch.float32)[:, None, None].clamp(min=1e-6)
            self.register_buffer("mean", mean, persistent=False)
            self.register_buffer("std", std, persistent=False)
        weights = _class_weights(config, modality) if config.class_weights else None
        self.register_buffer("class_weights", weights, persistent=False)
        self.perceptual = None
        if config.perceptual and perceptual_encoder is not None:
            self.perceptual = PerceptualLoss(perceptual_encoder)

    def forward(self, prediction: Tensor, x: Tensor, valid: Tensor) -> Tensor:
        """Mean loss over the valid pixels of each sample: [B] float32; 0 for a sample without any.

        Args:
            prediction: normalised bands [B, C, H, W], or class logits [B, C*K, H, W], map after map.
            x: normalised bands, or classes [B, C, H, W]. What stands in invalid pixels is not looked at.
            valid: bool [B, H, W].
        """
        prediction = prediction.float()
        # Replaced before anything is computed, so that not even a NaN there has a gradient.
        x = torch.where(valid[:, None], x, 0)
        if self.is_classes:
            logits = torch.where(valid[:, None], prediction, 0.0)
            return _masked_mean(class_loss(logits, x, self.class_weights), valid)
        x = x.float()
        prediction = torch.where(valid[:, None], prediction, x)
        config = self.config
        loss = _masked_mean(pixel_loss(config.pixel, prediction, x), valid)
        if config.spectral_angle:
            floor = _DARK * torch.linalg.vector_norm(self.std)
            angle = spectral_angle(self._physical(prediction), self._physical(x), floor)
            loss = loss + config.spectral_angle * _masked_mean(angle, valid)
        if config.gradient:
            loss = loss + config.gradient * gradient_loss(prediction, x, valid)
        if self.perceptual is not None:
            loss = loss + config.perceptual * self.perceptual(prediction, x, valid)
        return loss

    def _physical(self, x: Tensor) -> Tensor:
        return x * self.std + self.mean


def has_spectrum(modality: Modality) -> bool:
    """Whether angles between a modality's band vectors mean something: amounts of several bands.

    Logarithms such as dB are no amounts: another unit turns the vectors.
    """
    return modality.kind == "image" and modality.num_bands > 1 and modality.unit != "dB"


def _check(
    config: PixelLossConfig,
    modality: Modality,
    statistics: BandStatistics | None,
    perceptual_encoder: Encoder | None,
) -> None:
    name = modality.name
    if not modality.is_map:
        raise ConfigError(f"{name} is a {modality.kind} modality: it has no pixels to reconstruct")
    if modality.kind == "classes":
        for term in ("spectral_angle", "gradient", "perceptual"):
            if getattr(config, term):
                raise ConfigError(
                    f"loss.{term}: {name} is a class map, and class numbers are names, not amounts; "
                    f"write loss.{term}=0"
                )
    elif config.class_weights:
        raise ConfigError(
            f"loss.class_weights: {name} is an image and has no classes; leave it out"
        )
    if config.spectral_angle and not has_spectrum(modality):
        raise ConfigError(
            f"loss.spectral_angle needs at least 2 bands of amounts; {name} has {modality.num_bands} "
            f"in {modality.unit}; write loss.spectral_angle=0"
        )
    if config.spectral_angle and statistics is None:
        raise ConfigError(
            f"loss.spectral_angle needs the statistics of {name}; set data.statistics"
        )
    if config.perceptual and perceptual_encoder is None:
        raise ConfigError("loss.perceptual needs the encoder of loss.perceptual_network")


def _class_weights(config: PixelLossConfig, modality: Modality) -> Tensor:
    """Weight of each class value, [K] float32; 1 where the configuration says nothing."""
    values = {c.name: c.value for c in modality.classes}
    weights = torch.ones(modality.num_classes)
    for name, weight in config.class_weights.items():
        if name not in values:
            raise ConfigError(
                f"loss.class_weights: {modality.name} has no class {name!r}; it has {', '.join(values)}"
            )
        if weight < 0:
            raise ConfigError(f"loss.class_weights: the weight of {name!r} is {weight}, below 0")
        weights[values[name]] = weight
    return weights


def _masked_mean(per_pixel: Tensor, valid: Tensor) -> Tensor:
    """[B, H, W] -> [B], the mean where valid."""
    counts = valid.sum((1, 2)).clamp(min=1)
    return torch.where(valid, per_pixel, 0.0).sum((1, 2)) / counts
