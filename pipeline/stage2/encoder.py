"""The encoder of a trained model as a plain torch module: physical units in, features out.

    encoder = Encoder.from_pretrained("runs/stage2")
    features = encoder({"S2L2A": x, "DEM": h})[-1]          # last layer: {"S2L2A": [B, N, D], ...}
    merged = encoder({"S2L2A": x}, merge="mean")[-1]        # [B, N, D]

Of a modality of several dates each is named: {"S2L2A": x, "S2L2A_t1": y}, with `days`.

Shapes: B batch, C bands, H W pixels, N tokens of a modality, D width, R registers.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from configs.schema import MaskedConfig
from pipeline.data.transforms import Normaliser
from pipeline.layers.attention import Rotation
from pipeline.layers.blocks import EncoderBlock
from pipeline.layers.dates import date_features
from pipeline.layers.merge import Grid, Merge, Part, check_parts, run_blocks, split_features
from pipeline.layers.positions import (
    PlaceTable,
    distance_bias,
    grid_centres,
    grid_positions,
    head_slopes,
    resized_positions,
    rotation,
)
from pipeline.layers.standardise import Standardise
from pipeline.stage2 import artifact
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import make_date_embed, style_of
from pipeline.stage2.streams import Stream


class Encoder(nn.Module):
    """Features of any subset of the modalities that a model was trained on.

    Its parameters are named as those of `MaskedTransformer`.
    """

    slopes: Tensor

    def __init__(self, layout: Layout, config: MaskedConfig, normalisers: dict[str, Normaliser]):
        super().__init__()
        self.layout, self.config = layout, config
        self.expected: tuple[str, ...] = ()
        width, as_4m = config.width, config.embeddings == "4m"
        style = style_of(config)
        self.positions = PlaceTable(layout.positions(width), kept=as_4m)
        self.register_buffer("slopes", head_slopes(config.heads), persistent=False)
        self.code_embed = nn.Embedding(layout.vocab_size, width)
        self.stream_embed = nn.Embedding(len(layout.forms), width)
        self.date_embed = make_date_embed(layout, width)
        self.registers = (
            nn.Parameter(torch.zeros(config.num_registers, width)) if config.num_registers else None
        )
        pixels = [layout.streams[i] for i in layout.pixels]
        self.patch_proj = nn.ModuleDict(
            {s.modality: nn.Linear(s.patch_values, width, bias=not as_4m) for s in pixels}
        )
        self.standardise = nn.ModuleDict(
            {n: Standardise(*v.statistics, v.modality.nodata) for n, v in normalisers.items()}
        )
        self.encoder = nn.ModuleList(
            EncoderBlock(width, config.heads, config.mlp_ratio, style)
            for _ in range(config.encoder_depth)
        )
        self.encoder_norm = style.make_norm(width)
        self._bands = {n: v.modality.bands for n, v in normalisers.items()}

    @classmethod
    def from_pretrained(
        cls,
        path: Path | str,
        modalities: Sequence[str] = (),
        device: torch.device | str = "cpu",
    ) -> Self:
        """Read a run, its artifact, or what `python -m pipeline export` wrote; in eval mode.

        `modalities` are those that it will be given: others are refused, and features that are merged
        by `concat` have room for all of them. Raises RunError where there is no model.
        """
        folder = artifact.find(Path(path))
        encoder = cls(*artifact.describe(folder))
        weights = artifact.read_weights(folder, encoder.state_dict())
        encoder.load_state_dict(weights, strict=True)
        encoder.expected = tuple(encoder.stream(name)[1].name for name in modalities)
        return encoder.to(device).eval()

    def stream(self, name: str) -> tuple[int, Stream]:
        """The stream that a name means: one of its own, or a modality's on a date, pixels before tokens.

        A modality's own name is its first date.

        Raises ValueError for what the model does not take.
        """
        for i in self.layout.inputs:
            stream = self.layout.streams[i]
            if name in (stream.part, stream.name):
                return i, stream
        takes = ", ".join(self.layout.streams[i].name for i in self.layout.inputs)
        raise ValueError(f"this model does not take {name}; it takes {takes}")

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        layers: Sequence[int] | None = None,
        merge: Merge = "none",
        present: Mapping[str, Tensor] | None = None,
        days: Mapping[str, Sequence[str | None]] | None = None,
    ) -> list[dict[str, Tensor]] | list[Tensor]:
        """Features after the chosen `layers` (all by default; the last one normalised).

        Args:
            inputs: by modality, images [B, C, H, W] in physical units, or codes int64: of maps
                [B, h, w] or [B, N], of others [B, L]; -1 where there is no token. `X@tok` names the
                codes of a modality that also enters as pixels. Images cover the same ground; of
                another size than in training they get positions of their own.
            layers: numbers of blocks, from 0; negative ones count from the last.
            merge: `none` gives {name: [B, N, D]}; `mean` and `max` over modalities on the finest of
                their grids [B, N, D]; `concat` beside each other [B, N, M D], zeros for what is absent
                of the `modalities` that `from_pretrained` was told. Sequences are not merged.
            present: bool [B] for modalities that only some samples have.
            days: B ISO days for modalities in the model's `dates`; None where one is not known.

        Raises:
            ValueError: for an unknown modality, a wrong number of bands, a size that does not fit, or
                days that the model does not ask for.
        """
        parts, h, places = self._embed(inputs, present or {}, days or {})
        real = None
        if any(p.real is not None for p in parts):
            masks = [p.mask(h.device) for p in parts]
            real = torch.cat([masks[0].new_ones(h.shape[0], self.config.num_registers), *masks], 1)
            real = real[:, None, None]
        bias, turned = self._relative(places, real, h.dtype)
        features = run_blocks(self.encoder, self.encoder_norm, h, layers, bias, turned)
        room = [n for n in self.expected if self.stream(n)[1].grid]
        return split_features(features, self.config.num_registers, parts, merge, room)

    def _embed(
        self,
        inputs: Mapping[str, Tensor],
        present: Mapping[str, Tensor],
        days: Mapping[str, Sequence[str | None]],
    ) -> tuple[list[Part], Tensor, Tensor]:
        """What the tokens are and where: [B, R + N, D], and places on the ground [R + N, 2]."""
        if not inputs:
            raise ValueError("no input: give at least one modality")
        for told, names in (("days", days.keys()), ("present", present.keys())):
            if stray := names - inputs.keys():
                raise ValueError(f"{told} of {', '.join(sorted(stray))}, which is no input")
        found = sorted(((*self.stream(name), name) for name in inputs), key=lambda f: f[0])
        parts, tokens, ground = [], [], []
        for i, stream, name in found:
            if self.expected and stream.name not in self.expected:
                raise ValueError(f"{name} is not among the modalities that were named at loading")
            x = inputs[name]
            is_real = None
            if stream.kind == "pixels":
                grid, embedded = self._pixels(stream, x)
            else:
                grid, codes = _codes(stream, x)
                is_real = codes >= 0
                embedded = self._codes(stream, codes)
            if name in present:
                there = present[name].bool()[:, None].expand(-1, embedded.shape[1])
                is_real = there if is_real is None else is_real & there
            places = self._positions(stream, grid, embedded.shape[1])
            learned = self.stream_embed.weight[self.layout.form_of[i]]
            if name in days:
                learned = learned + self._dates(stream, days[name], x.shape[0])
            tokens.append(embedded + places.to(embedded.dtype) + learned)
            parts.append(Part(name, stream.name, grid, embedded.shape[1], x.shape[0], is_real))
            ground.append(self._ground(stream, grid, embedded.shape[1]))
        check_parts(parts, [s.patch_m for _, s, _ in found])
        if self.registers is not None:
            tokens.insert(0, self.registers.expand(tokens[0].shape[0], -1, -1))
            ground.insert(0, ground[0].new_full((len(self.registers), 2), torch.nan))
        return parts, torch.cat(tokens, 1), torch.cat(ground)

    def _pixels(self, stream: Stream, x: Tensor) -> tuple[Grid, Tensor]:
        name, p = stream.modality, stream.patch_px
        if x.ndim != 4 or x.shape[1] != stream.num_bands:
            row = ", ".join(self.bands(name))
            raise ValueError(
                f"{name} is [B, {stream.num_bands}, H, W] ({row}), not {list(x.shape)}"
            )
        b, c, height, width = x.shape
        if height % p or width % p:
            raise ValueError(
                f"{name} is {height} x {width} px, not a multiple of patches of {p} px"
            )
        grid = height // p, width // p
        y = self.standardise[name](x).view(b, c, grid[0], p, grid[1], p)
        y = y.permute(0, 2, 4, 3, 5, 1).reshape(b, grid[0] * grid[1], stream.patch_values)
        proj = self.patch_proj[name]
        return grid, proj(y.to(proj.weight.dtype))

    def bands(self, name: str) -> tuple[str, ...]:
        """Names of a modality's bands, in the order in which they are expected."""
        return self._bands[name]

    def _codes(self, stream: Stream, codes: Tensor) -> Tensor:
        scale = 1.0 if self.config.embeddings == "4m" else self.config.width**0.5
        return self.code_embed(codes.clamp(min=0) + stream.vocab_offset) * scale

    def _dates(self, stream: Stream, days: Sequence[str | None], count: int) -> Tensor:
        """What the days of `count` samples add to their tokens: [B, 1, D], zeros where not known."""
        if self.date_embed is None or stream.date is None:
            raise ValueError(f"the model is not told the day of {stream.modality}; leave it out")
        if len(days) != count:
            raise ValueError(f"{stream.part}: {len(days)} days of {count} samples")
        weight = self.date_embed.weight
        coded = weight.new_zeros(count, weight.shape[1])
        for row, day in enumerate(days):
            if day is not None:
                coded[row] = torch.from_numpy(date_features(day))
        return self.date_embed(coded)[:, None]

    def _positions(self, stream: Stream, grid: Grid | None, count: int) -> Tensor:
        trained = self.positions.table[stream.places]
        if grid is None:
            return trained[:count]
        assert stream.grid is not None
        if self.config.embeddings == "4m":
            return resized_positions(trained, stream.grid, grid)
        if grid == stream.grid:
            return trained
        return grid_positions(*grid, stream.patch_m, self.config.width).to(trained.device)

    def _ground(self, stream: Stream, grid: Grid | None, count: int) -> Tensor:
        if grid is None:
            return self.slopes.new_full((count, 2), torch.nan)
        return grid_centres(*grid, stream.patch_m).to(self.slopes.device)

    def _relative(
        self, places: Tensor, real: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor | None, Rotation | None]:
        """Attention mask and rotation, as in `MaskedTransformer`."""
        kind = self.config.relative_positions
        if kind == "distance":
            bias = distance_bias(places[None], places[None], self.slopes.float())
            masked = bias if real is None else bias.masked_fill(~real, -torch.inf)
            return masked.to(dtype), None
        if kind == "rotary":
            return real, rotation(places[None], self.config.width // self.config.heads)
        return real, None


def _codes(stream: Stream, codes: Tensor) -> tuple[Grid | None, Tensor]:
    """The grid of a modality's codes, and the codes [B, N]."""
    grid, flat = None, codes.flatten(1)
    if stream.kind == "map":
        side = math.isqrt(flat.shape[1])
        grid = (codes.shape[1], codes.shape[2]) if codes.ndim == 3 else (side, side)
        if grid[0] * grid[1] != flat.shape[1]:
            raise ValueError(f"{stream.name}: {list(codes.shape)} is no grid; give [B, h, w]")
    elif flat.shape[1] > stream.num_positions:
        raise ValueError(
            f"{stream.name}: {flat.shape[1]} tokens, where the model has {stream.num_positions} places"
        )
    # A code too large would silently be one of the next modality. A graph that is traced has no values.
    if not torch.compiler.is_compiling() and flat.numel() and int(flat.max()) >= stream.vocab_size:
        raise ValueError(
            f"{stream.name}: code {int(flat.max())}, where its tokenizer has {stream.vocab_size}; "
            "tokenize with the tokenizer that the model was trained with"
        )
    return grid, flat.long()
