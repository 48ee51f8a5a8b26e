"""The tokenizer of one image or class modality: encoder, quantizer, decoder, and its loss.

Shapes: B batch, C bands, H W pixels of the window, N patches, V codes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs import ConfigError
from configs.schema import Modality, TokenizerConfig
from pipeline.data.loader import Batch
from pipeline.engine.objective import StepOutput
from pipeline.layers.blocks import init_transformer
from pipeline.layers.positions import grid_positions
from pipeline.stage1.decoders.vit import VitDecoder
from pipeline.stage1.encoder import ClassInput, Encoder, PixelInput
from pipeline.stage1.quantizers.fsq import FSQ

_PIXEL_LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": F.smooth_l1_loss}


class Tokenizer(nn.Module):
    """Windows of one modality <-> a grid of codes.

    `size` is the side of the window in pixels of the modality. `forward(batch)` is the training step.
    Raises ConfigError when the window does not divide into patches.
    """

    def __init__(self, modality: Modality, config: TokenizerConfig, size: int):
        super().__init__()
        self.modality, self.config, self.size = modality, config, size
        self.patch = config.patch_px or modality.patch_px or 0
        if size % self.patch:
            raise ConfigError(
                f"{modality.name}: a window of {size} px does not divide into patches of {self.patch} px; "
                "set tokenizer.crop_px or tokenizer.patch_px"
            )
        side = size // self.patch
        assert modality.gsd_m is not None
        positions = grid_positions(side, side, self.patch * modality.gsd_m, config.width)
        self.is_classes = modality.kind == "classes"
        if self.is_classes:
            embed: nn.Module = ClassInput(modality.num_classes, self.patch, config.width)
        else:
            embed = PixelInput(modality.num_bands, self.patch, config.width)
        shared = (config.heads, config.mlp_ratio)
        self.quantizer = FSQ(config.levels)
        latent = len(config.levels)
        self.encoder = Encoder(embed, positions, config.encoder_depth, *shared, latent)
        channels = modality.num_classes if self.is_classes else modality.num_bands
        self.decoder = VitDecoder(
            latent, positions, config.decoder_depth, *shared, channels, self.patch, size
        )
        self.apply(init_transformer)
        self._init_where_content_enters()

    def _init_where_content_enters(self) -> None:
        """Unit variance for what meets the position codes, whose variance is 1/2.

        With weights of 0.02 a few latents or class embeddings would be drowned by positions, all
        latents would start inside one cell of the quantizer, and hundreds of steps would pass before
        the decoder noticed that there is something to decode.
        """
        if isinstance(self.encoder.embed_input, ClassInput):
            nn.init.normal_(self.encoder.embed_input.class_embed.weight)
        proj, from_latent = self.encoder.embed_input.proj, self.decoder.from_latent
        assert isinstance(proj, nn.Linear)
        post = self.encoder.post_mlp
        for layer in (proj, from_latent, post.fc1, post.fc2):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        # Behind the MLP and its tanh, deviations are about 1/2: latents start at unit deviation.
        to_latent = self.encoder.to_latent
        nn.init.normal_(to_latent.weight, std=2 * to_latent.in_features**-0.5)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of codes."""
        return self.size // self.patch, self.size // self.patch

    def tokenize(self, x: Tensor) -> Tensor:
        """Normalised windows [B, C, H, W] (class maps: [B, 1, H, W]) -> codes [B, N] int64."""
        return self.quantizer(self.encoder(x))[1]

    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, N] -> normalised pixels [B, C, H, W], or class logits [B, K, H, W]."""
        return self.decoder(self.quantizer.decode(codes))

    def decode_expected(self, probabilities: Tensor) -> Tensor:
        """What `decode` gives, for codes known by their probabilities [B, N, V] only.

        The decoder sees each token's expected latent. FSQ latents are ordered, so that what lies
        between two codes is a latent as good as any; decoding codes drawn independently of their
        neighbours would show the decoder combinations that no image has.
        """
        codes = torch.arange(self.quantizer.num_codes, device=probabilities.device)
        latents = self.quantizer.decode(codes).to(probabilities.dtype)
        return self.decoder(probabilities @ latents)

    def reconstruct(self, x: Tensor) -> Tensor:
        """What is left of a window after a trip through its codes."""
        return self.decoder(self.quantizer(self.encoder(x))[0])

    def pixel_loss(self, prediction: Tensor, x: Tensor, valid: Tensor) -> Tensor:
        """Mean loss over the valid pixels of each window: [B]; 0 for a window without any."""
        prediction = prediction.float()
        if self.is_classes:
            per_pixel = F.cross_entropy(prediction, x[:, 0].long(), reduction="none")
        else:
            per_pixel = _PIXEL_LOSSES[self.config.loss](prediction, x, reduction="none").mean(1)
        counts = valid.sum((1, 2)).clamp(min=1)
        return (per_pixel * valid).sum((1, 2)) / counts

    def forward(self, batch: Batch, evaluate: bool = False) -> StepOutput:
        """The loss of each window; evaluating, also errors, confusion and code counts to be summed."""
        x, valid = batch["x"], batch["valid"]
        if evaluate:
            return self._evaluate(x, valid)
        loss = self.pixel_loss(self.reconstruct(x), x, valid)
        return StepOutput(loss, {"loss": loss.sum().detach(), "count": loss.new_tensor(len(loss))})

    @torch.no_grad()
    def _evaluate(self, x: Tensor, valid: Tensor) -> StepOutput:
        z, codes = self.quantizer(self.encoder(x))
        prediction = self.decoder(z).float()
        loss = self.pixel_loss(prediction, x, valid)
        sums = {
            "loss": loss.sum(),
            "count": loss.new_tensor(len(loss)),
            "codes": torch.bincount(codes.flatten(), minlength=self.quantizer.num_codes).double(),
        }
        if self.is_classes:
            k = self.modality.num_classes
            pairs = x[:, 0].long()[valid] * k + prediction.argmax(1)[valid]
            sums["confusion"] = torch.bincount(pairs, minlength=k * k).view(k, k).double()
        else:
            error = (prediction - x) * valid[:, None]
            sums["square"] = (error.double() ** 2).sum((0, 2, 3))
            sums["absolute"] = error.double().abs().sum((0, 2, 3))
            sums["pixels"] = valid.sum().double()
        return StepOutput(loss, sums)
