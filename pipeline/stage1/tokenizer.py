"""The tokenizer of one image or class modality: encoder, quantizer, decoder, and how they learn.

    window -> encoder -> latents -> quantizer -> codes
                                        |
                                   quantised latents -> decoder (an arm) -> window

Shapes: B batch, C bands or maps, K decoder channels, H W pixels of the window, N patches, L latent
width, V codes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from configs import ConfigError
from configs.registry import BandStatistics
from configs.schema import Modality, TokenizerConfig
from pipeline.data.loader import Batch
from pipeline.engine.objective import StepOutput
from pipeline.layers.blocks import init_transformer
from pipeline.stage1.arms import Arm, DiffusionArm, GanArm, VitArm
from pipeline.stage1.classes import to_classes
from pipeline.stage1.decoders.critic import CriticModel, PatchCritic
from pipeline.stage1.decoders.diffusion import DiffusionDecoder
from pipeline.stage1.decoders.vit import VitDecoder
from pipeline.stage1.encoder import CLASS_WIDTH, ClassInput, Encoder, PixelInput, PublicEnd
from pipeline.stage1.grids import GridPositions
from pipeline.stage1.judging import Judge
from pipeline.stage1.losses.reconstruction import ReconstructionLoss
from pipeline.stage1.quantizers.fsq import FSQ
from pipeline.stage1.quantizers.vq import VQ

# A new code needs a latent to start at; twice as many as codes leave a choice.
_CANDIDATES_PER_CODE = 2


class Teaching(NamedTuple):
    """What a tokenizer is given for training alone."""

    statistics: BandStatistics | None = None
    global_batch: int = 1
    perceptual: Encoder | None = None


class Tokenizer(nn.Module):
    """Windows of one modality <-> a grid of codes.

    `size` is the side of the window in pixels of the modality. `forward(batch)` is the training step,
    of a batch with `x` [B, C, H, W], `valid` [B, H, W] and `seed` [B]. Raises ConfigError when the
    window does not divide into patches, or parts do not go together.

    Without `teaching` it is frozen: it encodes and decodes, and has no loss.
    """

    updates: Tensor

    def __init__(
        self,
        modality: Modality,
        config: TokenizerConfig,
        size: int,
        teaching: Teaching | None = None,
    ):
        super().__init__()
        self.modality, self.config, self.size = modality, config, size
        self.patch = config.patch_px or modality.patch_px or 0
        self.is_classes, self.is_public = modality.kind == "classes", config.layout == "terramind"
        self.num_classes = modality.num_classes if self.is_classes else 0
        sides = tuple(self._side(px) for px in (size, *config.crops_px))
        self.encoder = self._encoder(sides)
        global_batch = teaching.global_batch if teaching else 1
        rows = -(-_CANDIDATES_PER_CODE * config.vq.num_codes // global_batch)
        self.quantizer: FSQ | VQ = (
            FSQ(config.fsq) if config.quantizer == "fsq" else VQ(config.vq, rows)
        )
        self.critic: CriticModel | None = None
        self.decoder: Arm = self._arm(sides, teaching)
        statistics = teaching.statistics if teaching else None
        self.judge = Judge(modality, statistics, self.quantizer.num_codes)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Batch, evaluate: bool = False) -> StepOutput:
        """The loss of each window; evaluating, also how far the reconstruction is from the truth."""
        quantized = self.quantizer(self.encoder(batch["x"]))
        taught = self.decoder.teach(quantized.latents, batch, self.updates)
        loss = taught.loss + quantized.loss
        sums: dict[str, Tensor] = {
            "loss": loss.sum().detach(),
            "count": loss.new_tensor(len(loss)),
            "commitment": quantized.loss.sum().detach(),
            "codes": self.judge.count(quantized.codes),
            **taught.sums,
        }
        if evaluate:
            made = self.decoder.decode(quantized.latents, batch["seed"]).float()
            sums |= self.judge(made, batch["x"], batch["valid"])
            return StepOutput(loss, sums)
        stats = dict(quantized.stats)
        if self.critic is not None:
            stats["steps"] = loss.new_ones(())
        return StepOutput(loss, sums, stats, quantized.rows, taught.judged)

    def absorb(self, stats: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> None:
        """What is learned without gradients: what the quantizer keeps, and how many steps there were."""
        self.quantizer.absorb(stats, rows)
        self.updates += 1

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes."""
        return self.size // self.patch, self.size // self.patch

    def encode(self, x: Tensor) -> Tensor:
        """Normalised windows [B, C, H, W], or class maps -> quantised latents [B, N, L]."""
        return self.quantizer(self.encoder(x)).latents

    def tokenize(self, x: Tensor) -> Tensor:
        """Normalised windows [B, C, H, W], or class maps -> codes [B, N] int64."""
        return self.quantizer(self.encoder(x)).codes

    def decode(self, codes: Tensor, seeds: Tensor | None = None) -> Tensor:
        """Codes [B, N] -> normalised pixels [B, C, H, W], or one channel per class [B, C*K, H, W].

        `seeds` [B] are for decoders that sample; without them each sample has seed 0.
        """
        return self._decode(self.quantizer.decode(codes), seeds)

    def decode_expected(self, probabilities: Tensor, seeds: Tensor | None = None) -> Tensor:
        """What `decode` gives, for codes known by their probabilities [B, N, V] only.

        The decoder sees each token's expected latent. FSQ latents are ordered, so that what lies
        between two codes is a latent as good as any; decoding codes drawn independently of their
        neighbours would show the decoder combinations that no image has.
        """
        codes = torch.arange(self.quantizer.num_codes, device=probabilities.device)
        latents = self.quantizer.decode(codes).to(probabilities.dtype)
        return self._decode(probabilities @ latents, seeds)

    def maps(self, decoded: Tensor) -> Tensor:
        """What `decode` gave as classes [B, C, H, W], never "no data": a map is a claim."""
        split = decoded.unflatten(1, (-1, self.num_classes))
        if self.modality.nodata is not None:
            split = split.index_fill(
                2, torch.tensor([int(self.modality.nodata)], device=split.device), -torch.inf
            )
        return to_classes(split.flatten(1, 2), self.num_classes)

    def _decode(self, latents: Tensor, seeds: Tensor | None) -> Tensor:
        if seeds is None:
            seeds = torch.zeros(len(latents), dtype=torch.int64, device=latents.device)
        return self.decoder.decode(latents, seeds)

    def _side(self, px: int) -> int:
        if px % self.patch:
            raise ConfigError(
                f"{self.modality.name}: a window of {px} px does not divide into patches of {self.patch} "
                "px; set tokenizer.crop_px, crops_px or patch_px"
            )
        return px // self.patch

    def _positions(self, sides: tuple[int, ...]) -> GridPositions:
        gsd_m = self.modality.gsd_m
        assert gsd_m is not None
        return GridPositions(sides, self.patch * gsd_m, self.config.width, public=self.is_public)

    def _encoder(self, sides: tuple[int, ...]) -> Encoder:
        row, config = self.modality, self.config
        embed: nn.Module
        if self.is_classes:
            # The public layout shows classes as one channel each.
            class_width = row.num_classes if self.is_public else CLASS_WIDTH
            embed = ClassInput(
                row.num_classes, self.patch, config.width, row.num_bands, class_width
            )
        else:
            embed = PixelInput(row.num_bands, self.patch, config.width)
        encoder = Encoder(
            embed,
            self._positions(sides),
            config.encoder_depth,
            config.heads,
            config.mlp_ratio,
            config.latent_width,
            public=self.is_public,
        )
        encoder.apply(init_transformer)
        _start_wide(encoder)
        return encoder

    def _arm(self, sides: tuple[int, ...], teaching: Teaching | None) -> Any:
        row, config = self.modality, self.config
        channels = row.num_bands * max(1, self.num_classes)
        if config.decoder == "diffusion":
            net = DiffusionDecoder(config.diffusion, config.latent_width, channels, self.patch)
            return DiffusionArm(net, self.num_classes, self.patch)
        shape = (config.decoder_depth, config.heads, config.mlp_ratio, channels, self.patch)
        net = VitDecoder(config.latent_width, self._positions(sides), *shape, public=self.is_public)
        net.apply(init_transformer)
        nn.init.normal_(net.from_latent.weight, std=net.from_latent.in_features**-0.5)
        if teaching is None:
            return VitArm(net, None)
        loss = ReconstructionLoss(config.loss, row, teaching.statistics, teaching.perceptual)
        if config.decoder == "vit":
            return VitArm(net, loss)
        critic = PatchCritic(channels, config.gan, min(sides) * self.patch)
        arm = GanArm(net, loss, critic, config.gan, self.num_classes)
        # Kept from this module's parameters: it has an engine of its own.
        object.__setattr__(self, "critic", CriticModel(critic, config.gan))
        return arm


def _start_wide(encoder: Encoder) -> None:
    """Unit variance for what meets the position codes, whose variance is 1/2.

    With weights of 0.02 a few latents or class embeddings would be drowned by positions, all latents
    would start inside one cell of the quantizer, and hundreds of steps would pass before the decoder
    noticed that there is something to decode.
    """
    if isinstance(encoder.embed_input, ClassInput):
        nn.init.normal_(encoder.embed_input.class_embed.weight)
    proj, post = encoder.embed_input.proj, encoder.post_mlp
    assert isinstance(proj, nn.Linear)
    for layer in (proj, post.fc1, post.fc2):
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    # Behind the MLP and its tanh, deviations are about 1/2, in the public layout more than 1: latents
    # start at unit deviation.
    gain = 0.7 if isinstance(post, PublicEnd) else 2.0
    nn.init.normal_(encoder.to_latent.weight, std=gain * encoder.to_latent.in_features**-0.5)
