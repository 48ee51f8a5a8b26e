"""MLP late fusion over frozen stage-1 embeddings.

    codes of a stream -> frozen latents -> projection -> MLPs -> pooled around each target -.
    ...                                                                                      > combine
    codes of a stream -> frozen latents -> projection -> MLPs -> pooled around each target -'     |
    place and stream of the target ---------------------------------------------> + -> MLPs -> head

Shapes: B batch, N input tokens, K target tokens, D width, L latent width, V codes of one stream, S input
streams. Design:
- no attention: tokens meet tokens of their own stream in a weighted mean, and others in one MLP;
- texts, places and dates have no latents: their codes have learned embeddings, tied to their heads;
- a word of a text knows those before it by their mean and by the last one;
- every stream runs in every step, on no tokens where it is absent, in the same order on all ranks.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from configs.schema import FusionConfig, MaskedConfig
from pipeline.data.loader import Batch
from pipeline.engine.objective import StepOutput
from pipeline.fusion.combine import COMBINERS
from pipeline.fusion.pooling import nearness, pool
from pipeline.layers.blocks import MlpBlock, init_transformer
from pipeline.layers.codes import init_codes
from pipeline.stage2.layout import Layout
from pipeline.stage2.loss import masked_loss


class LateFusion(nn.Module):
    """`forward(batch)` is the training step, of batches as stage 2 has them.

    `latent_widths` has the width L of every input stream that has frozen latents; `set_latents` fills
    them in.
    """

    positions: Tensor
    centres: Tensor
    reach_m: Tensor
    latents: Tensor

    def __init__(
        self,
        layout: Layout,
        masked: MaskedConfig,
        fusion: FusionConfig,
        latent_widths: Mapping[str, int],
    ):
        super().__init__()
        self.layout, self.masked, self.fusion = layout, masked, fusion
        self.latent_widths = dict(latent_widths)
        width, ratio = masked.width, fusion.mlp_ratio
        self.register_buffer("positions", layout.positions(width), persistent=False)
        self.register_buffer("centres", layout.centres(), persistent=False)
        self.register_buffer("reach_m", torch.tensor(fusion.reach_m), persistent=False)
        # Of all codes, [codes of all streams, widest L]; zeros where there is nothing.
        widest = max(self.latent_widths.values(), default=1)
        self.register_buffer("latents", torch.zeros(layout.vocab_size, widest))
        self.code_embed = nn.Embedding(layout.vocab_size, width)
        self.stream_embed = nn.Embedding(len(layout.streams), width)
        inputs = [layout.streams[i] for i in layout.inputs]
        self.latent_proj = nn.ModuleDict(
            {
                s.modality: nn.Linear(self.latent_widths[s.name], width)
                for s in inputs
                if s.name in self.latent_widths
            }
        )
        self.token_mlps = nn.ModuleList(MlpBlock(width, ratio) for _ in range(fusion.token_depth))
        num_means = len(fusion.reach_m) + 1
        self.merge = nn.ModuleDict(
            {s.modality: nn.Linear(num_means * width, width) for s in inputs}
        )
        self.merge_norm = nn.LayerNorm(width)
        self.combine = COMBINERS[fusion.combine](len(inputs), width)
        writes = any(layout.streams[i].kind == "sequence" for i in layout.targets)
        self.written = nn.Linear(2 * width, width, bias=False) if writes else None
        self.mlps = nn.ModuleList(MlpBlock(width, ratio) for _ in range(fusion.depth))
        self.norm = nn.LayerNorm(width)
        self.log_variance = (
            nn.Parameter(torch.zeros(len(layout.streams))) if masked.uncertainty else None
        )
        self.apply(init_transformer)
        self._init_embeddings()

    def _init_embeddings(self) -> None:
        """As in stage 2: what meets has comparable variance, fresh logits have unit variance."""
        init_codes(self.code_embed.weight, self.layout.runs)
        nn.init.normal_(self.stream_embed.weight, std=0.5)
        for proj in self.latent_proj.values():
            assert isinstance(proj, nn.Linear)
            nn.init.normal_(proj.weight, std=proj.in_features**-0.5)

    @torch.no_grad()
    def set_latents(self, tables: Mapping[str, Tensor]) -> None:
        """Take the frozen latents [V, L] of every stream that has some."""
        for s in self.layout.streams:
            if s.name in self.latent_widths:
                self.latents[s.codes, : self.latent_widths[s.name]] = tables[s.name]

    def embed(self, batch: Batch) -> Tensor:
        """Input tokens, each by itself: [B, N, D]."""
        code, stream = batch["in_code"], batch["in_stream"]
        x = self._embed(code)
        latents = self.latents[code].to(x.dtype)
        for i in self.layout.inputs:
            s = self.layout.streams[i]
            if s.name in self.latent_widths:
                projected = self.latent_proj[s.modality](latents[..., : self.latent_widths[s.name]])
                x = torch.where((stream == i)[..., None], projected.to(x.dtype), x)
        for mlp in self.token_mlps:
            x = mlp(x)
        return x

    def fuse(self, batch: Batch, centres: Tensor, query: Tensor) -> Tensor:
        """What all streams say together at places [B, K, 2] for what is asked, [B, K, D]."""
        stream = batch["in_stream"]
        x = self.embed(batch)
        near = nearness(centres, self.centres[batch["in_where"]], self.reach_m)
        vectors, there = [], []
        for i in self.layout.inputs:
            mine = stream == i
            merged = self.merge[self.layout.streams[i].modality](pool(x, near, mine))
            there.append(mine.any(1))
            vectors.append(self.merge_norm(merged) * there[-1][:, None, None])
        return self.combine(vectors, torch.stack(there, 1), query)

    def represent(self, batch: Batch) -> Tensor:
        """What all visible tokens say together, asked for nothing and nowhere: [B, D]."""
        b = len(batch["in_stream"])
        query = self.stream_embed.weight.new_zeros(b, 1, self.masked.width)
        nowhere = self.centres.new_full((b, 1, 2), torch.nan)
        return self.fuse(batch, nowhere, query)[:, 0]

    def features(self, batch: Batch) -> Tensor:
        """What the heads are given, [B, K, D]."""
        where, stream = batch["out_where"], batch["out_stream"]
        learned = self.stream_embed(stream.clamp(min=0))
        query = self.positions[where].to(learned.dtype) + learned
        if self.written is not None:
            query = query + self._written(batch["out_code"], stream)
        x = self.fuse(batch, self.centres[where], query) + query
        for mlp in self.mlps:
            x = mlp(x)
        return self.norm(x)

    def forward(self, batch: Batch, evaluate: bool = False) -> StepOutput:
        """The training step: `pipeline.stage2.loss`."""
        found, variance = self.features(batch), self.log_variance
        return masked_loss(
            found, batch, self.layout, self.masked, self._head, variance, evaluate=evaluate
        )

    def _written(self, code: Tensor, stream: Tensor) -> Tensor:
        """Of each slot of a sequence the word before it, and the mean of all before it."""
        assert self.written is not None
        told = code >= 0
        x = self._embed(code.clamp(min=0)) * told[..., None]
        within = (stream[:, :, None] == stream[:, None, :]) & told[:, None, :]
        share = within.tril().to(x.dtype)
        share = share / share.sum(-1, keepdim=True).clamp(min=1)
        return self.written(torch.cat([x, share @ x], -1))

    def _head(self, stream_index: int) -> Tensor:
        return self.code_embed.weight[self.layout.streams[stream_index].codes]

    def _embed(self, code: Tensor) -> Tensor:
        return self.code_embed(code) * self.code_embed.embedding_dim**0.5
