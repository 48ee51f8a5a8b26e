"""The encoder of a trained MultiMAE as a plain torch module: physical units in, features out.

    encoder = MultiMAEEncoder.from_pretrained("runs/multimae")
    features = encoder({"S2L2A": x, "DEM": h})[-1]          # {"rgb": [B, N, D], "elevation": ...}
    merged = encoder({"rgb": x}, merge="mean")[-1]          # [B, N, D]

It is called as `pipeline.stage2.encoder.Encoder` is. Shapes: B batch, C bands, H W pixels, N tokens of a
group, D width, G global tokens.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from torch import Tensor, nn

from configs.schema import Modality, MultiMAEConfig
from pipeline.data.transforms import Normaliser
from pipeline.layers.merge import Merge, Part, check_parts, run_blocks, split_features
from pipeline.layers.positions import resized_positions
from pipeline.layers.standardise import Standardise, measured
from pipeline.multimae import artifact
from pipeline.multimae.groups import Group, GroupTable
from pipeline.multimae.patches import cut_patches
from pipeline.multimae.trunk import ClassPatches, Trunk


class MultiMAEEncoder(Trunk):
    """Features of any subset of the groups that a model was trained on; nothing is hidden or drawn."""

    def __init__(
        self,
        table: GroupTable,
        config: MultiMAEConfig,
        rows: Mapping[str, Modality],
        normalisers: Mapping[str, Normaliser],
    ):
        super().__init__(table, config)
        self.rows = dict(rows)
        self.expected: tuple[str, ...] = ()
        self.standardise = nn.ModuleDict(
            {
                g.name: _standardise(g, normalisers[g.modality])
                for g in table.groups
                if not g.classes
            }
        )

    @classmethod
    def from_pretrained(
        cls,
        path: Path | str,
        modalities: Sequence[str] = (),
        device: torch.device | str = "cpu",
    ) -> Self:
        """Read a run or its artifact; in eval mode.

        `modalities` (or groups) are those that it will be given: others are refused, and features that
        are merged by `concat` have room for all of their groups. Raises RunError where there is no model.
        """
        folder = artifact.find(Path(path))
        encoder = cls(*artifact.describe(folder))
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in encoder.state_dict()}
        encoder.load_state_dict(weights, strict=True)
        encoder.expected = tuple(g.name for name in modalities for g in encoder.groups(name))
        return encoder.to(device).eval()

    def groups(self, name: str) -> tuple[Group, ...]:
        """The groups that a name means: one of its own name, or all of a modality.

        Raises ValueError for what the model does not take.
        """
        own = [g for g in self.table.groups if g.name == name]
        found = own or self.groups_of(name)
        if not found:
            takes = [f"{g.name} of {g.modality}" for g in self.table.groups]
            raise ValueError(f"this model does not take {name}; it takes {', '.join(takes)}")
        return tuple(found)

    def groups_of(self, modality: str) -> tuple[Group, ...]:
        """All groups of a modality, in the order in which they run."""
        return tuple(g for g in self.table.groups if g.modality == modality)

    def bands(self, name: str) -> tuple[str, ...]:
        """Names of the bands of a group or a modality, in the order in which they are expected."""
        group = self.groups(name)[0]
        bands = self.rows[group.modality].bands
        return tuple(bands[b] for b in group.bands) if name == group.name else bands

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        layers: Sequence[int] | None = None,
        merge: Merge = "none",
        present: Mapping[str, Tensor] | None = None,
    ) -> list[dict[str, Tensor]] | list[Tensor]:
        """Features after the chosen `layers` (all by default; the last one normalised).

        Args:
            inputs: by modality, all its bands [B, C, H, W], or by group its own bands; physical units, class
                maps as they are stored. All cover the same ground; of another size than in training,
                positions are interpolated.
            layers: numbers of blocks, from 0; negative ones count from the last.
            merge: `none` gives {group: [B, N, D]}; `mean` and `max` over groups on the finest of
                their grids [B, N, D]; `concat` beside each other [B, N, M D], zeros for what is absent
                of the groups that `from_pretrained` was told.
            present: bool [B] for inputs that only some samples have.

        Raises:
            ValueError: for an unknown name, a wrong number of bands, or a size that does not fit.
        """
        parts, tokens = self._embed(inputs, present or {})
        real = None
        if any(p.real is not None for p in parts):
            real = torch.cat([p.mask(tokens.device) for p in parts], 1)
        h, mask = self.with_globals(tokens), self.mask(real)
        features = run_blocks(self.encoder, self.encoder_norm, h, layers, mask)
        num_first = self.config.num_global_tokens
        return split_features(features, num_first, parts, merge, self.expected)

    def _embed(
        self, inputs: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> tuple[list[Part], Tensor]:
        """What there is, and its tokens [B, N, D], group by group."""
        if not inputs:
            raise ValueError("no input: give at least one modality")
        if stray := present.keys() - inputs.keys():
            raise ValueError(f"present of {', '.join(sorted(stray))}, which is no input")
        named = [(group, name) for name in inputs for group in self.groups(name)]
        named.sort(key=lambda pair: pair[0].offset)
        parts, tokens = [], []
        for group, name in named:
            if self.expected and group.name not in self.expected:
                raise ValueError(f"{name} is not among the modalities that were named at loading")
            part, embedded = self._group(group, name, inputs[name])
            if name in present:
                there = present[name].bool()[:, None].expand(-1, part.count)
                part = part._replace(real=there if part.real is None else part.real & there)
            parts.append(part)
            tokens.append(embedded)
        check_parts(parts, [group.patch_m for group, _ in named])
        return parts, torch.cat(tokens, 1)

    def _group(self, group: Group, name: str, x: Tensor) -> tuple[Part, Tensor]:
        bands, step = self.bands(name), group.patch_px * group.stride
        if x.ndim != 4 or x.shape[1] != len(bands):
            told = f"[B, {len(bands)}, H, W] ({', '.join(bands)})"
            raise ValueError(f"{name} is {told}, not {list(x.shape)}")
        height, width = x.shape[-2:]
        if height % step or width % step:
            raise ValueError(
                f"{name} is {height} x {width} px, not a multiple of patches of {step} px"
            )
        if name != group.name:
            x = x[:, list(group.bands)]
        valid = measured(x.float(), self.rows[group.modality].nodata)[:, 0]
        if group.name in self.standardise:
            x = self.standardise[group.name](x)
        cut = cut_patches(group, x, valid)
        patches, embed = cut.values, self.patches[group.name]
        if isinstance(embed, ClassPatches):
            patches = embed.numbers(patches)
        grid = height // step, width // step
        trained = self.positions.table[group.places]
        places = resized_positions(trained, group.grid, grid)
        tokens = embed(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        # Training never shows a patch without any measurement: nobody may attend to one.
        has_value = cut.valid.any(-1)
        real = None if has_value.all() else has_value
        part = Part(group.name, group.name, grid, patches.shape[1], len(x), real)
        return part, tokens + places.to(tokens.dtype)


def _standardise(group: Group, normaliser: Normaliser) -> Standardise:
    mean, std = ([values[b] for b in group.bands] for values in normaliser.statistics)
    return Standardise(mean, std, normaliser.modality.nodata)
