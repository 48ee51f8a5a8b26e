"""A MultiMAE as a backbone: of each modality the groups of which the data has a band.

A group without any is absent, as it may be in training; one that lacks some of its bands has the mean there.

Shapes: B batch, C bands, H W pixels, D width, h w grid of features.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from configs.registry import BandStatistics
from configs.schema import Modality
from pipeline.multimae import artifact as of_multimae
from pipeline.multimae.artifact import Described
from pipeline.multimae.encoder import MultiMAEEncoder
from pipeline.multimae.groups import Group
from pipeline.multimae.model import MultiMAE
from pipeline.transfer.backbone import Images, Intake, Known, finest_grid
from pipeline.transfer.encoders import EncoderBackbone, as_maps, refresh


class MultiMAEBackbone(EncoderBackbone):
    """Images of modalities, of each the bands that any group takes, in registry order."""

    encoder: MultiMAEEncoder

    def __init__(self, encoder: MultiMAEEncoder, about: Described):
        # Class maps are no input here: they are what tasks ask for.
        images = [n for n in about.table.modalities if n in about.normalisers]
        groups = {n: encoder.groups_of(n) for n in images}
        bands = {n: sorted({b for g in found for b in g.bands}) for n, found in groups.items()}
        intakes = {
            n: _intake(about.rows[n], about.normalisers[n].statistics, bands[n], groups[n])
            for n in images
        }
        super().__init__("multimae", encoder, about.config.depth, intakes)
        self._groups = {
            n: {g.name: [bands[n].index(b) for b in g.bands] for g in found}
            for n, found in groups.items()
        }
        self._patch_px = {g.name: g.patch_px for found in groups.values() for g in found}

    def forward(
        self,
        images: Images,
        present: Mapping[str, Tensor],
        layers: Sequence[int],
        known: Known | None = None,
    ) -> list[Tensor]:
        given, there = {}, {}
        for name, image in images.items():
            has = (known or {}).get(name)
            for group, places in self._groups[name].items():
                if has is None or any(has[p] for p in places):
                    given[group], there[group] = image[:, places], present[name]
        features = self.encoder(given, layers, self._merge, there)
        return as_maps(features, finest_grid(given, self._patch_px))

    def _streams(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(group for name in names for group in self._groups[name])


def _intake(
    row: Modality, statistics: BandStatistics, bands: Sequence[int], groups: Sequence[Group]
) -> Intake:
    assert row.gsd_m is not None
    mean, std = (tuple(values[b] for b in bands) for values in statistics)
    patches = [g.patch_px for g in groups]
    names = tuple(row.bands[b] for b in bands)
    return Intake(names, mean, std, row.gsd_m, min(patches), math.lcm(*patches))


def open_multimae(
    run: Path, folder: Path, device: torch.device, seed: int | None
) -> MultiMAEBackbone:
    """A MultiMAE; with `seed` its twin with fresh weights."""
    encoder, about = MultiMAEEncoder.from_pretrained(folder), of_multimae.describe(folder)
    if seed is not None:
        statistics = {n: v.statistics for n, v in about.normalisers.items()}
        refresh(encoder, seed, lambda: MultiMAE(about.table, about.config, statistics))
    return MultiMAEBackbone(encoder, about).to(device)
