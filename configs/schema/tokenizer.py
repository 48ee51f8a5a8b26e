"""Stage 1: the shape of one modality's tokenizer.

    pixels -> encoder -> quantizer (fsq | vq) -> decoder (vit | gan | diffusion) -> pixels

`quantizer` and `decoder` choose; what each needs is written under its own name, so that one override
switches an arm of a comparison.
"""

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.schema.base import Frozen


class WordPieceConfig(Frozen):
    """WordPiece vocabulary for text modalities, trained on the train split (or loaded from `path`)."""

    vocab_size: int = Field(default=1024, gt=16)
    max_tokens: int = Field(default=32, gt=2)
    path: str | None = None


class FSQConfig(Frozen):
    """Finite scalar quantization: the vocabulary has `prod(levels)` codes.

    `centred` is the paper's tanh around zero (Mentzer et al. 2023); `unit` is a sigmoid on [0, 1], as in
    TerraMind's tokenizers. `evenness` weighs a loss towards even use of the codes, which the paper does
    without; short trainings use more of them with 0.02 or so.
    """

    levels: tuple[int, ...] = Field(default=(8, 8, 8, 6, 5), min_length=1)
    convention: Literal["centred", "unit"] = "centred"
    evenness: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _enough_levels(self) -> "FSQConfig":
        if min(self.levels) < 2:
            raise ValueError(f"every FSQ level needs at least 2 values, got {list(self.levels)}")
        return self


class VQConfig(Frozen):
    """Vector quantization with a codebook of unit vectors that follows the latents.

    The codebook is an exponential moving average (van den Oord et al. 2017, appendix A.1) under cosine
    similarity (Yu et al. 2022). It starts from k-means of the first batch's latents. A code is dead when
    it is used less than `dead_share` times what even use would be, and is replaced by a latent of the
    batch.
    """

    num_codes: int = Field(default=16384, gt=1)
    latent_width: int = Field(default=32, gt=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    commitment: float = Field(default=1.0, ge=0)
    kmeans_iterations: int = Field(default=10, ge=0, description="0: random latents")
    dead_share: float = Field(default=1 / 32, ge=0, description="0: nothing is revived")


class PixelLossConfig(Frozen):
    """What a deterministic or GAN decoder is taught by; sums of terms, valid pixels only.

    `pixel` is the main term of images; class maps use cross-entropy, without pixels of no data and with
    `class_weights` by class name. The other terms count by their weights: `spectral_angle` between the
    bands of a pixel, `gradient` of differences between neighbours (terrain), `perceptual` between
    features of `perceptual_network`, the folder of a trained tokenizer of the same modality.

    Pixels that the sample's CloudMask says are one of `clear_of` are not valid, for any decoder, its
    critic and the scores; the encoder sees them as they are.
    """

    pixel: Literal["l1", "l2", "huber"] = "l1"
    spectral_angle: float = Field(default=0.0, ge=0)
    gradient: float = Field(default=0.0, ge=0)
    perceptual: float = Field(default=0.0, ge=0)
    perceptual_network: Path | None = None
    class_weights: dict[str, float] = {}
    clear_of: tuple[Literal["thin cloud", "thick cloud", "cloud shadow", "snow"], ...] = ()

    @model_validator(mode="after")
    def _has_a_network(self) -> "PixelLossConfig":
        if self.perceptual and self.perceptual_network is None:
            raise ValueError(
                "loss.perceptual needs loss.perceptual_network, the folder of a trained tokenizer"
            )
        return self


class GanConfig(Frozen):
    """The ViT decoder with a critic of patches (Isola et al. 2017) under a hinge loss.

    With `adaptive` the critic's term is weighed per sample so that its gradient at the decoder's last
    layer is as long as the reconstruction's (Esser et al. 2021, eq. 7), times `weight`. It enters after
    `start_step` steps; the critic learns from the first. `r1` and `lecam` regularise the critic
    (Mescheder et al. 2018; Tseng et al. 2021).
    """

    weight: float = Field(default=0.5, ge=0)
    adaptive: bool = True
    start_step: int = Field(default=1000, ge=0)
    width: int = Field(default=64, gt=0)
    depth: int = Field(default=3, gt=0, description="strided convolutions")
    lr_ratio: float = Field(default=1.0, gt=0, description="rate of the critic to the tokenizer's")
    r1: float = Field(default=0.0, ge=0)
    lecam: float = Field(default=0.0, ge=0)


class DiffusionConfig(Frozen):
    """A decoder that removes noise, told by the latents what to find.

    `unet` works on patches of `patch_px` pixels with `width` channels times `multipliers` by level,
    `attention` says on which of them; `uvit` is a transformer of `depth` blocks with long skips (Bao et
    al. 2023). `shifted_cosine` moves the noise by `shift` (Hoogeboom et al. 2023). Latents are left out
    with probability `condition_dropout` in training, which `guidance` above 1 builds on (Ho and Salimans
    2022).
    """

    network: Literal["unet", "uvit"] = "unet"
    patch_px: int = Field(default=4, gt=0)
    width: int = Field(default=256, gt=0)
    multipliers: tuple[int, ...] = Field(default=(1, 2, 2, 2), min_length=1)
    attention: tuple[bool, ...] = (False, False, True, True)
    blocks_per_level: int = Field(default=3, gt=0)
    depth: int = Field(default=12, gt=0, description="of uvit")
    heads: int = Field(default=8, gt=0)
    schedule: Literal["linear", "cosine", "shifted_cosine"] = "linear"
    shift: float = Field(default=0.5, gt=0, description="of shifted_cosine")
    zero_terminal_snr: bool = True
    num_noise_steps: int = Field(default=1000, gt=1)
    prediction: Literal["x0", "eps", "v"] = "x0"
    condition_dropout: float = Field(default=0.0, ge=0, lt=1)
    sampler: Literal["ddim", "ddpm"] = "ddim"
    sample_steps: int = Field(default=50, gt=0)
    guidance: float = Field(default=1.0, ge=0, description="1: none")

    @model_validator(mode="after")
    def _fits_together(self) -> "DiffusionConfig":
        if self.network == "unet" and len(self.attention) != len(self.multipliers):
            raise ValueError(
                f"diffusion.attention has {len(self.attention)} entries and diffusion.multipliers "
                f"{len(self.multipliers)}: one each per level"
            )
        if self.zero_terminal_snr and self.prediction == "eps":
            raise ValueError(
                "with zero_terminal_snr the last step is pure noise, from which eps says nothing about "
                "the image; write diffusion.prediction: x0 or v, or zero_terminal_snr: false"
            )
        if self.guidance != 1 and not self.condition_dropout:
            raise ValueError("diffusion.guidance needs condition_dropout above 0 in training")
        if self.sample_steps > self.num_noise_steps:
            raise ValueError("diffusion.sample_steps is at most num_noise_steps")
        return self


class TokenizerConfig(Frozen):
    """A ViT encoder, a quantizer, a decoder.

    `layout: terramind` is that of the public tokenizers of 4M and TerraMind, so that theirs can be loaded:
    positions count patches in place of metres, and a residual MLP ends encoder and ViT decoder.
    `patch_px` and `crop_px` default to the registry's patch and to the whole tile; with `crops_px` one
    of these sides is drawn for each step, and `crop_px` is for evaluation and tokens.
    """

    layout: Literal["house", "terramind"] = "house"
    patch_px: int | None = Field(default=None, gt=0)
    crop_px: int | None = Field(default=None, gt=0)
    crops_px: tuple[int, ...] = ()
    width: int = Field(default=192, gt=0)
    encoder_depth: int = Field(default=4, gt=0)
    decoder_depth: int = Field(default=4, gt=0)
    heads: int = Field(default=3, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    quantizer: Literal["fsq", "vq"] = "fsq"
    fsq: FSQConfig = FSQConfig()
    vq: VQConfig = VQConfig()
    decoder: Literal["vit", "gan", "diffusion"] = "vit"
    gan: GanConfig = GanConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    loss: PixelLossConfig = PixelLossConfig()
    augment: bool = True
    text: WordPieceConfig = WordPieceConfig()

    @property
    def vocab_size(self) -> int:
        return math.prod(self.fsq.levels) if self.quantizer == "fsq" else self.vq.num_codes

    @property
    def latent_width(self) -> int:
        return len(self.fsq.levels) if self.quantizer == "fsq" else self.vq.latent_width
