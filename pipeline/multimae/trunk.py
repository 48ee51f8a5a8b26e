"""Patch projections of all groups and the ViT over them: what pretraining and inference share.

Shapes: B samples, P patches of one group, v values of a patch, N tokens, G global tokens, D width. Blocks
are timm's and have its names, so that weights go both ways (`pipeline.multimae.vit`).
"""

import torch
from torch import Tensor, nn

from configs.schema import MultiMAEConfig
from pipeline.layers.blocks import BlockStyle, EncoderBlock
from pipeline.layers.positions import PlaceTable
from pipeline.multimae.groups import Group, GroupTable

STYLE = BlockStyle(eps=1e-6)


class PixelPatches(nn.Module):
    """Standardised patches [P, v] -> [P, D]."""

    def __init__(self, group: Group, width: int):
        super().__init__()
        self.proj = nn.Linear(group.patch_values, width)

    def forward(self, patches: Tensor) -> Tensor:
        return self.proj(patches.to(self.proj.weight.dtype))


class ClassPatches(nn.Module):
    """Numbers of classes [P, p * p] int64 -> [P, D]; each class has an embedding.

    `numbers` makes them of stored values; what is no class of the registry is no data.
    """

    lookup: Tensor

    def __init__(self, group: Group, width: int):
        super().__init__()
        lookup = torch.full((256,), group.nodata or 0)
        lookup[list(group.classes)] = torch.arange(len(group.classes))
        self.register_buffer("lookup", lookup, persistent=False)
        self.class_embed = nn.Embedding(len(group.classes), group.class_width)
        self.proj = nn.Linear(group.patch_px**2 * group.class_width, width)

    def numbers(self, values: Tensor) -> Tensor:
        """Stored class values -> numbers of classes, int64."""
        return self.lookup[values.long()]

    def forward(self, patches: Tensor) -> Tensor:
        return self.proj(self.class_embed(patches).flatten(1))


class Trunk(nn.Module):
    """The parameters; `pipeline.multimae.model` trains them, `encoder` uses them."""

    def __init__(self, table: GroupTable, config: MultiMAEConfig):
        super().__init__()
        self.table, self.config = table, config
        width = config.width
        self.positions = PlaceTable(table.positions(width), kept=False)
        self.patches = nn.ModuleDict(
            {
                g.name: ClassPatches(g, width) if g.classes else PixelPatches(g, width)
                for g in table.groups
            }
        )
        # No parameters of no elements: ZeRO cannot share them out.
        self.global_tokens = (
            nn.Parameter(torch.zeros(config.num_global_tokens, width))
            if config.num_global_tokens
            else None
        )
        self.encoder = nn.ModuleList(
            EncoderBlock(width, config.heads, config.mlp_ratio, STYLE) for _ in range(config.depth)
        )
        self.encoder_norm = STYLE.make_norm(width)
        self.apply(init_xavier)
        if self.global_tokens is not None:
            nn.init.normal_(self.global_tokens, std=0.02)
        for patches in self.patches.values():
            # Content meets the codes of places with comparable variance.
            assert isinstance(patches.proj, nn.Linear)
            nn.init.normal_(patches.proj.weight, std=patches.proj.in_features**-0.5)
            if isinstance(patches, ClassPatches):
                nn.init.normal_(patches.class_embed.weight)

    def with_globals(self, tokens: Tensor) -> Tensor:
        """Global tokens before [B, N, D]; they have no place."""
        if self.global_tokens is None:
            return tokens
        first = self.global_tokens.to(tokens.dtype).expand(len(tokens), -1, -1)
        return torch.cat([first, tokens], 1)

    def mask(self, real: Tensor | None) -> Tensor | None:
        """Who may be attended to, of `real` bool [B, N]: [B, 1, 1, G + N]; None: all of them."""
        if real is None:
            return None
        first = real.new_ones(len(real), self.config.num_global_tokens)
        return torch.cat([first, real], 1)[:, None, None]


def init_xavier(module: nn.Module) -> None:
    """As MultiMAE: uniform Xavier for weights, where queries, keys and values are matrices of their own."""
    if isinstance(module, nn.Linear):
        out, inner = module.weight.shape
        parts = out // inner if out in (2 * inner, 3 * inner) else 1
        bound = (6 / (out // parts + inner)) ** 0.5
        nn.init.uniform_(module.weight, -bound, bound)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
