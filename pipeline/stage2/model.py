"""The masked multi-modal transformer: encoder, decoder, tied heads, and its loss.

Shapes: B batch, N input tokens, K target tokens, D width, V codes of one stream. Design:
- one embedding table for all codes and one head per stream, tied to its rows of the table (4M);
- pixel patches enter through one linear layer per pixel stream; only chosen patches are embedded;
- positions are fixed sine-cosine codes on the ground; each stream adds a learned vector;
- the decoder attends within a stream (causally in sequences) and to all encoded tokens;
- the loss of a sample is the mean over its target streams of their mean cross-entropy.

Every stream runs in every step, on no tokens where it is absent, in the same order on all ranks: under
ZeRO anything else trains on wrong gradients without a word.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import MaskedConfig
from pipeline.data.loader import Batch
from pipeline.engine.objective import TOKENS, StepOutput, Sums
from pipeline.layers.attention import padding_mask
from pipeline.layers.blocks import DecoderBlock, EncoderBlock, init_transformer
from pipeline.layers.positions import distance_bias, head_slopes
from pipeline.stage2.layout import Layout


class MaskedTransformer(nn.Module):
    """`forward(batch)` is the training step; `encode`, `decode` and `logits` are its parts."""

    positions: Tensor
    causal: Tensor
    centres: Tensor
    slopes: Tensor

    def __init__(self, layout: Layout, config: MaskedConfig):
        super().__init__()
        self.layout, self.config = layout, config
        width, heads, ratio = config.width, config.heads, config.mlp_ratio
        self.register_buffer("positions", layout.positions(width), persistent=False)
        causal = torch.tensor([s.kind == "sequence" for s in layout.streams])
        self.register_buffer("causal", causal, persistent=False)
        self.register_buffer("centres", layout.centres(), persistent=False)
        self.register_buffer("slopes", head_slopes(heads), persistent=False)
        self.code_embed = nn.Embedding(layout.vocab_size, width)
        self.stream_embed = nn.Embedding(len(layout.streams), width)
        self.mask_embed = nn.Parameter(torch.zeros(width))
        self.patch_proj = nn.ModuleDict(
            {
                s.modality: nn.Linear(s.patch_values, width)
                for s in map(layout.streams.__getitem__, layout.pixels)
            }
        )
        self.encoder = nn.ModuleList(
            EncoderBlock(width, heads, ratio) for _ in range(config.encoder_depth)
        )
        self.encoder_norm = nn.LayerNorm(width)
        self.context_proj = nn.Linear(width, width)
        self.decoder = nn.ModuleList(
            DecoderBlock(width, heads, ratio) for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.apply(init_transformer)
        self._init_embeddings()

    def _init_embeddings(self) -> None:
        """Content, stream and position meet with comparable variance; fresh logits have about unit
        variance, because the tied table enters scaled by sqrt(D) and leaves unscaled.
        """
        nn.init.normal_(self.code_embed.weight, std=self.code_embed.embedding_dim**-0.5)
        nn.init.normal_(self.stream_embed.weight, std=0.5)
        nn.init.normal_(self.mask_embed, std=0.5)
        for proj in self.patch_proj.values():
            assert isinstance(proj, nn.Linear)
            nn.init.normal_(proj.weight, std=proj.in_features**-0.5)

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Input tokens -> (context [B, N, D], attention mask [B, 1, 1, N])."""
        b, n = batch["in_where"].shape
        places = self._places(batch["in_where"], batch["in_stream"])
        x = self._embed(batch["in_code"]).reshape(b * n, -1)
        for i in self.layout.pixels:
            stream = self.layout.streams[i]
            patches = batch[f"patch/{stream.name}"].to(x.dtype)
            embedded = self.patch_proj[stream.modality](patches)
            # Replaces the code embedding of row 0 that stands in the slots of pixel patches.
            x = x.index_copy(0, batch[f"slot/{stream.name}"], embedded)
        h = x.view(b, n, -1) + places
        mask = padding_mask((batch["in_stream"] >= 0).sum(1), n)
        bias = self._bias(batch["in_where"], batch["in_where"], mask, h.dtype)
        for block in self.encoder:
            h = block(h, bias)
        return self.context_proj(self.encoder_norm(h)) + places, mask

    def decode(self, batch: Batch, context: Tensor, mask: Tensor) -> Tensor:
        """Target slots and the encoded context -> features [B, K, D]."""
        stream = batch["out_stream"]
        code = batch["out_code"]
        embedded = self._embed(code.clamp(min=0))
        x = torch.where((code >= 0)[..., None], embedded, self.mask_embed.to(embedded.dtype))
        x = x + self._places(batch["out_where"], stream)
        # Padding shares stream -1 and so attends to itself: no row is empty, no NaN arises.
        within = stream[:, :, None] == stream[:, None, :]
        k = stream.shape[1]
        earlier = torch.ones(k, k, dtype=torch.bool, device=x.device).tril()
        free = ~self.causal[stream.clamp(min=0)]
        self_mask = (within & (free[:, :, None] | earlier))[:, None]
        self_bias = self._bias(batch["out_where"], batch["out_where"], self_mask, x.dtype)
        context_bias = self._bias(batch["out_where"], batch["in_where"], mask, x.dtype)
        for block in self.decoder:
            x = block(x, context, self_bias, context_bias)
        return self.decoder_norm(x)

    def logits(self, features: Tensor, stream_index: int) -> Tensor:
        """Features [T, D] -> logits [T, V] over the codes of one stream."""
        s = self.layout.streams[stream_index]
        rows = self.code_embed.weight[s.vocab_offset : s.vocab_offset + s.vocab_size]
        return F.linear(features, rows)

    def forward(self, batch: Batch, evaluate: bool = False) -> StepOutput:
        """Losses and their sums per stream; evaluating, also how many codes were right."""
        context, mask = self.encode(batch)
        features = self.decode(batch, context, mask)
        b, k, d = features.shape
        flat = features.reshape(b * k, d)
        per_sample = torch.zeros(b, device=flat.device)
        sums: Sums = {}
        for i in self.layout.targets:
            name = self.layout.streams[i].name
            goal, slot = batch[f"goal/{name}"], batch[f"goal_slot/{name}"]
            logits = self.logits(flat[slot], i).float()
            loss = F.cross_entropy(logits, goal, reduction="none")
            weighted = loss * batch[f"goal_weight/{name}"]
            per_sample = per_sample.index_add(0, slot // k, weighted)
            sums[f"ce/{name}"] = loss.sum().detach()
            sums[f"tokens/{name}"] = loss.new_tensor(len(goal))
            if evaluate:
                sums[f"right/{name}"] = (logits.argmax(-1) == goal).sum().double()
        sums["loss"] = per_sample.sum().detach()
        sums["count"] = per_sample.new_tensor(b)
        num_tokens = (batch["in_stream"] >= 0).sum() + (batch["out_stream"] >= 0).sum()
        sums[TOKENS] = num_tokens.float()
        return StepOutput(per_sample, sums)

    def _bias(self, queries: Tensor, keys: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """The attention mask, with the preference for near tokens where the model has one."""
        if not self.config.distance_bias:
            return mask
        bias = distance_bias(self.centres[queries], self.centres[keys], self.slopes)
        return bias.masked_fill(~mask, -torch.inf).to(dtype)

    def _embed(self, code: Tensor) -> Tensor:
        return self.code_embed(code) * self.code_embed.embedding_dim**0.5

    def _places(self, where: Tensor, stream: Tensor) -> Tensor:
        learned = self.stream_embed(stream.clamp(min=0))
        return self.positions[where].to(learned.dtype) + learned
