"""The masked multi-modal transformer: encoder, decoder, tied heads, and its loss.

Shapes: B batch, N input tokens, K target tokens, D width, V codes of one stream. Design:
- one embedding table for all codes and one head per stream, tied to its rows of the table (4M);
- pixel patches enter through one linear layer per pixel stream; only chosen patches are embedded;
- positions are fixed sine-cosine codes on the ground; each stream adds a learned vector, and where the
  layout has days a linear embedding of the day's sines and cosines, in encoder and decoder alike;
- codes that count something, as those of places and days do, start alike where they are near;
- dates of one modality share projection, codes, head and learned vector;
- the decoder attends within a stream (causally in sequences) and to all encoded tokens;
- `embeddings: 4m` differs in what 4M and TerraMind do otherwise, so that their weights fit: a second
  table of codes for the decoder and the heads, nothing scaled, positions kept with the weights;
- the loss of a sample is a weighted mean of its target tokens' cross-entropy.

Every stream runs in every step, on no tokens where it is absent, in the same order on all ranks: under
ZeRO anything else trains on wrong gradients without a word.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import MaskedConfig
from configs.schema.transformer import TransformerConfig
from pipeline.data.loader import Batch
from pipeline.engine.objective import StepOutput
from pipeline.layers.attention import Rotation
from pipeline.layers.blocks import BlockStyle, DecoderBlock, EncoderBlock, init_transformer
from pipeline.layers.codes import init_codes
from pipeline.layers.dates import NUM_FEATURES
from pipeline.layers.positions import PlaceTable, distance_bias, head_slopes, rotation
from pipeline.stage2.layout import Layout
from pipeline.stage2.loss import masked_loss


def style_of(config: TransformerConfig) -> BlockStyle:
    """What a configuration's blocks are made of."""
    return BlockStyle(
        config.norm, config.mlp, config.bias, config.qk_norm, config.norm_eps, config.norm_bias
    )


def make_date_embed(layout: Layout, width: int) -> nn.Linear | None:
    """From what days are coded as to the width, without bias: a day that is not known adds nothing."""
    return nn.Linear(NUM_FEATURES, width, bias=False) if layout.has_days else None


class Context(NamedTuple):
    """Encoded input tokens [B, R + N, D] behind R registers, and what may attend to them how.

    `real` [B, 1, 1, R + N] is None where no token is padding; `centres` [B, R + N, 2] are their places
    on the ground, NaN for what has none.
    """

    tokens: Tensor
    real: Tensor | None
    centres: Tensor

    def rows(self, chosen: list[int]) -> "Context":
        """The same of some samples of the batch."""
        real = None if self.real is None else self.real[chosen]
        return Context(self.tokens[chosen], real, self.centres[chosen])


class MaskedTransformer(nn.Module):
    """`forward(batch)` is the training step; `encode`, `decode` and `logits` are its parts."""

    causal: Tensor
    centres: Tensor
    form_of: Tensor
    slopes: Tensor

    def __init__(self, layout: Layout, config: MaskedConfig):
        super().__init__()
        self.layout, self.config = layout, config
        width, heads, ratio = config.width, config.heads, config.mlp_ratio
        style, as_4m = style_of(config), config.embeddings == "4m"
        self.positions = PlaceTable(layout.positions(width), kept=as_4m)
        causal = torch.tensor([s.kind == "sequence" for s in layout.streams])
        self.register_buffer("causal", causal, persistent=False)
        self.register_buffer("centres", layout.centres(), persistent=False)
        self.register_buffer("form_of", torch.tensor(layout.form_of), persistent=False)
        self.register_buffer("slopes", head_slopes(heads), persistent=False)
        self.code_embed = nn.Embedding(layout.vocab_size, width)
        self.target_embed = nn.Embedding(layout.vocab_size, width) if as_4m else None
        self.stream_embed = nn.Embedding(len(layout.forms), width)
        self.date_embed = make_date_embed(layout, width)
        self.mask_embed = nn.Parameter(torch.zeros(width))
        # No parameters of no elements: ZeRO cannot share them out.
        self.registers = (
            nn.Parameter(torch.zeros(config.num_registers, width)) if config.num_registers else None
        )
        self.patch_proj = nn.ModuleDict(
            {
                s.modality: nn.Linear(s.patch_values, width, bias=not as_4m)
                for s in map(layout.streams.__getitem__, layout.pixels)
            }
        )
        self.encoder = nn.ModuleList(
            EncoderBlock(width, heads, ratio, style) for _ in range(config.encoder_depth)
        )
        self.encoder_norm = style.make_norm(width)
        self.context_proj = nn.Linear(width, width)
        self.decoder = nn.ModuleList(
            DecoderBlock(width, heads, ratio, style) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = style.make_norm(width)
        # Of each form, the log of the variance that its loss is weighed by.
        self.log_variance = (
            nn.Parameter(torch.zeros(len(layout.forms))) if config.uncertainty else None
        )
        self.apply(init_transformer)
        if as_4m:
            self._init_as_4m()
        else:
            self._init_embeddings()

    def _init_embeddings(self) -> None:
        """Content, stream and position meet with comparable variance; fresh logits have about unit
        variance, because the tied table enters scaled by sqrt(D) and leaves unscaled.
        """
        init_codes(self.code_embed.weight, self.layout.runs)
        nn.init.normal_(self.stream_embed.weight, std=0.5)
        nn.init.normal_(self.mask_embed, std=0.5)
        if self.date_embed is not None:
            nn.init.normal_(self.date_embed.weight, std=0.5 * (2 / NUM_FEATURES) ** 0.5)
        if self.registers is not None:
            nn.init.normal_(self.registers)
        for proj in self.patch_proj.values():
            assert isinstance(proj, nn.Linear)
            nn.init.normal_(proj.weight, std=proj.in_features**-0.5)

    def _init_as_4m(self) -> None:
        """All tables and learned tokens alike (0.02), as unscaled as they enter."""
        nn.init.normal_(self.mask_embed, std=0.02)
        if self.registers is not None:
            nn.init.normal_(self.registers, std=0.02)
        for proj in self.patch_proj.values():
            assert isinstance(proj, nn.Linear)
            nn.init.xavier_uniform_(proj.weight)

    def encode(self, batch: Batch) -> Context:
        """Input tokens -> encoded tokens, registers first."""
        places = self._places(batch, "in")
        h, places = self._with_registers(self.embed(batch) + places, places)
        real = self._real(batch)
        centres = self._centres(batch["in_where"], self.config.num_registers)
        bias = self._bias(centres, centres, real, h.dtype)
        turned = self._rotation(centres)
        for block in self.encoder:
            h = block(h, bias, turned)
        return Context(self.context_proj(self.encoder_norm(h)) + places, real, centres)

    def embed(self, batch: Batch) -> Tensor:
        """What the input tokens are, without where: [B, N, D]."""
        b, n = batch["in_where"].shape
        x = self._embed(self.code_embed, batch["in_code"]).flatten(0, 1)
        for i in self.layout.pixels:
            stream = self.layout.streams[i]
            patches = batch[f"patch/{stream.name}"].to(x.dtype)
            embedded = self.patch_proj[stream.modality](patches)
            # Replaces the code embedding of row 0 that stands in the slots of pixel patches.
            x = x.index_copy(0, batch[f"slot/{stream.name}"], embedded)
        return x.unflatten(0, (b, n))

    def decode(self, batch: Batch, context: Context) -> Tensor:
        """Target slots and the encoded context -> features [B, K, D]."""
        stream = batch["out_stream"]
        code = batch["out_code"]
        embedded = self._embed(self.target_embed or self.code_embed, code.clamp(min=0))
        x = torch.where((code >= 0)[..., None], embedded, self.mask_embed.to(embedded.dtype))
        x = x + self._places(batch, "out")
        # Padding shares stream -1 and so attends to itself: no row is empty, no NaN arises.
        within = stream[:, :, None] == stream[:, None, :]
        k = stream.shape[1]
        earlier = torch.ones(k, k, dtype=torch.bool, device=x.device).tril()
        free = ~self.causal[stream.clamp(min=0)]
        allowed = (within & (free[:, :, None] | earlier))[:, None]
        centres = self._centres(batch["out_where"])
        self_bias = self._bias(centres, centres, allowed, x.dtype)
        context_bias = self._bias(centres, context.centres, context.real, x.dtype)
        turned, context_turned = self._rotation(centres), self._rotation(context.centres)
        for block in self.decoder:
            x = block(x, context.tokens, self_bias, context_bias, turned, context_turned)
        return self.decoder_norm(x)

    def logits(self, features: Tensor, stream_index: int) -> Tensor:
        """Features [T, D] -> logits [T, V] over the codes of one stream."""
        return F.linear(features, self._head(stream_index).to(features.dtype))

    def forward(self, batch: Batch, evaluate: bool = False) -> StepOutput:
        """The training step: `pipeline.stage2.loss`."""
        features, variance = self.decode(batch, self.encode(batch)), self.log_variance
        return masked_loss(
            features,
            batch,
            self.layout,
            self.config,
            self._head,
            None if variance is None else variance[self.form_of],
            evaluate=evaluate,
        )

    def _head(self, stream_index: int) -> Tensor:
        table = self.target_embed or self.code_embed
        return table.weight[self.layout.streams[stream_index].codes]

    def _with_registers(self, h: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Registers before the tokens; they have no place."""
        if self.registers is None:
            return h, places
        registers = self.registers.to(h.dtype).expand(len(h), -1, -1)
        return torch.cat([registers, h], 1), F.pad(places, (0, 0, self.config.num_registers, 0))

    def _real(self, batch: Batch) -> Tensor | None:
        """Which of registers and tokens are there; None: all, and attention needs no mask."""
        if "in_real" not in batch:
            return None
        return F.pad(batch["in_real"], (self.config.num_registers, 0), value=True)[:, None, None]

    def _centres(self, where: Tensor, num_before: int = 0) -> Tensor:
        """Places on the ground, [B, N, 2], behind as many without one."""
        return F.pad(self.centres[where], (0, 0, num_before, 0), value=torch.nan)

    def _bias(
        self, queries: Tensor, keys: Tensor, mask: Tensor | None, dtype: torch.dtype
    ) -> Tensor | None:
        """The attention mask, with the preference for near tokens where the model has one."""
        if self.config.relative_positions != "distance":
            return mask
        bias = distance_bias(queries, keys, self.slopes)
        return (bias if mask is None else bias.masked_fill(~mask, -torch.inf)).to(dtype)

    def _rotation(self, centres: Tensor) -> Rotation | None:
        if self.config.relative_positions != "rotary":
            return None
        return rotation(centres, self.config.width // self.config.heads)

    def _embed(self, table: nn.Embedding, code: Tensor) -> Tensor:
        scale = 1.0 if self.config.embeddings == "4m" else table.embedding_dim**0.5
        return table(code) * scale

    def _places(self, batch: Batch, side: str) -> Tensor:
        """Where and when the tokens of one side, `in` or `out`, are, and in which form: [B, N, D]."""
        learned = self.stream_embed(self.form_of[batch[f"{side}_stream"].clamp(min=0)])
        if self.date_embed is not None:
            learned = learned + self.date_embed(batch[f"{side}_date"].to(learned.dtype))
        return self.positions(batch[f"{side}_where"]).to(learned.dtype) + learned
