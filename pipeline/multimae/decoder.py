"""One task: the patches of one group out of all encoded tokens.

Shapes: B samples, G global tokens, n visible patches, N places of the group, W encoder width, D decoder
width, v values of a patch. As Bachmann et al. 2022, section 3.4: a cross-attention from queries at all
places of the group to the encoded tokens, an MLP, and a few blocks of self-attention among the queries.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from configs.schema import MultiMAEConfig
from pipeline.layers.attention import CrossAttention
from pipeline.layers.blocks import EncoderBlock, Mlp
from pipeline.multimae.groups import Group
from pipeline.multimae.trunk import STYLE


class Encoded(NamedTuple):
    """Of the samples that have the group: what a decoder is given.

    `tokens` [B, G + n, W]; `places` [B, n, D] and `groups` int64 [B, n] say where each patch is and of
    what; `mask` as the encoder's. `slot` [P] are the group's own patches among B x n, `query` [P] their
    places among B x N.
    """

    tokens: Tensor
    places: Tensor
    groups: Tensor
    mask: Tensor | None
    slot: Tensor
    query: Tensor


class TaskDecoder(nn.Module):
    """`forward(encoded, positions[N, D]) -> [B, N, v]`.

    A visible patch's query is its own encoded token, all others start from one learned token.
    """

    number: Tensor

    def __init__(self, number: int, group: Group, num_groups: int, config: MultiMAEConfig):
        super().__init__()
        width, heads, ratio = config.decoder_width, config.decoder_heads, config.mlp_ratio
        self.num_places = group.num_places
        self.register_buffer("number", torch.tensor(number), persistent=False)
        self.context_proj = nn.Linear(config.width, width)
        self.group_embed = nn.Embedding(num_groups, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.query_norm = STYLE.make_norm(width)
        self.context_norm = STYLE.make_norm(width)
        self.cross_attn = CrossAttention(width, heads)
        self.out_norm = STYLE.make_norm(width)
        self.mlp = Mlp(width, int(width * ratio))
        self.blocks = nn.ModuleList(
            EncoderBlock(width, heads, ratio, STYLE) for _ in range(config.decoder_depth)
        )
        self.head = nn.Linear(width, group.patch_values)

    def reset(self) -> None:
        """First values of what is no linear layer."""
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.normal_(self.group_embed.weight, std=0.02)

    def forward(self, encoded: Encoded, positions: Tensor) -> Tensor:
        context = self.context_proj(encoded.tokens)
        n = encoded.places.shape[1]
        first, patches = context.tensor_split([context.shape[1] - n], 1)
        queries = self._queries(patches, encoded, positions)
        patches = patches + encoded.places + self.group_embed(encoded.groups)
        context = self.context_norm(torch.cat([first, patches], 1))
        x = self.cross_attn(self.query_norm(queries), context, encoded.mask)
        x = x + self.mlp(self.out_norm(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def _queries(self, patches: Tensor, encoded: Encoded, positions: Tensor) -> Tensor:
        b, _, d = patches.shape
        x = self.mask_token.to(patches.dtype).expand(b * self.num_places, d)
        x = x.index_copy(0, encoded.query, patches.flatten(0, 1)[encoded.slot])
        places = positions + self.group_embed(self.number)
        return x.unflatten(0, (b, self.num_places)) + places.to(x.dtype)
