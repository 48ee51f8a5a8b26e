"""Groups of four modalities, two of one of them, and made-up windows of them."""

from typing import Any

import numpy as np
import torch

from configs.registry import BandStatistics, modality
from configs.schema import GroupConfig, MultiMAEConfig
from pipeline.data.pixels import PixelReader, Pixels
from pipeline.data.transforms import Normaliser
from pipeline.multimae.groups import GroupTable, build_groups
from pipeline.multimae.model import MultiMAE
from pipeline.multimae.samples import Masked, collate

ROWS = {name: modality(name) for name in ("S2L2A", "S1GRD", "DEM", "WorldCover")}
GROUPS = {
    "rgb": GroupConfig(modality="S2L2A", bands=("B04", "B03", "B02"), targets=("values", "normed")),
    "swir": GroupConfig(modality="S2L2A", bands=("B11", "B12")),
    "radar": GroupConfig(modality="S1GRD", patch_m=80),
    "elevation": GroupConfig(modality="DEM", loss="l1"),
    "cover": GroupConfig(modality="WorldCover", stride=2, class_width=3),
}
SIDE = 16
STATISTICS = {
    name: BandStatistics((500.0,) * row.num_bands, (200.0,) * row.num_bands)
    for name, row in ROWS.items()
    if row.kind == "image"
}
NORMALISERS = {name: Normaliser(ROWS[name], s) for name, s in STATISTICS.items()}


def config(**changes: Any) -> MultiMAEConfig:
    given = {
        "groups": GROUPS, "window_m": 160, "patch_m": 40, "num_visible": 12, "width": 16, "depth": 2,
        "heads": 2, "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2,
    }  # fmt: skip
    return MultiMAEConfig.model_validate(given | changes)


def table(**changes: Any) -> GroupTable:
    return build_groups(config(**changes), ROWS, "here")


class Twin(PixelReader):
    """Collates windows that nobody read."""

    def __init__(self, groups: GroupTable):
        self.names, self.rows = groups.modalities, {n: ROWS[n] for n in groups.modalities}
        self.normalisers, self.window_m = NORMALISERS, groups.window_m


def window(rng: np.random.Generator, names: tuple[str, ...], invalid: float = 0.0) -> Pixels:
    """Normalised windows, or classes, of some modalities; a share of the pixels is not valid."""
    found = Pixels({}, {})
    classes = [c.value for c in ROWS["WorldCover"].classes if c.value]
    for name in names:
        row = ROWS[name]
        shape = (row.num_bands, SIDE, SIDE)
        valid = rng.random((SIDE, SIDE)) >= invalid
        if row.kind == "classes":
            x = rng.choice(classes, shape).astype(np.uint8)
        else:
            x = rng.normal(size=shape).astype(np.float32)
        found.values[name], found.valid[name] = np.where(valid, x, 0).astype(x.dtype), valid
    return found


def masked(rng: np.random.Generator, groups: GroupTable, seen: dict[str, list[int]], **how: Any):
    """A sample with the groups' modalities of `seen`, and of each group the places that are visible."""
    by_name = {g.name: g for g in groups.groups}
    names = tuple(dict.fromkeys(by_name[name].modality for name in seen))
    pixels = window(rng, tuple(n for n in groups.modalities if n in names), **how)
    visible = [by_name[n].offset + p for n, places in seen.items() for p in places]
    return Masked(pixels, np.sort(np.array(visible, np.int64)))


def batch(samples: list[Masked], groups: GroupTable, dtype: torch.dtype = torch.float64):
    made = collate(samples, Twin(groups), groups)
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in made.items()}


def model(**changes: Any) -> MultiMAE:
    torch.manual_seed(0)
    return MultiMAE(table(**changes), config(**changes), STATISTICS).double()
