"""A layout with several dates of a pixel and of a token modality, and samples of it."""

from typing import Any

import numpy as np
import torch

from configs.registry import BandStatistics, modality, modality_registry
from configs.schema import DataConfig, MaskedConfig
from pipeline.data.transforms import Normaliser
from pipeline.inspection.assumed import AssumedData
from pipeline.stage2.layout import Layout, build_layout
from pipeline.stage2.masking import Selection
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import Content, Masked, collate

DAYS = ("2021-01-20", "2021-04-18", "2021-07-22")
# Patches of 112 px: 2 x 2 of them in each map.
SHAPE: dict[str, Any] = {
    "pixels": ["S1GRD", "DEM"], "tokens": ["NDVI", "LULC"], "targets": ["NDVI", "LULC", "captions"],
    "patch_px": {"S1GRD": 112, "DEM": 112, "NDVI": 112, "LULC": 112},
    "width": 16, "heads": 2, "encoder_depth": 2, "decoder_depth": 2,
}  # fmt: skip
DATES = {"S1GRD": 3, "NDVI": 3}


def config_of(dates: dict[str, int], **changes: Any) -> MaskedConfig:
    return MaskedConfig.model_validate(SHAPE | {"dates": dates} | changes)


def layout_of(config: MaskedConfig) -> Layout:
    names = config.on_dates((*config.pixels, *config.tokens, *config.targets))
    return build_layout(config, AssumedData(DataConfig(shards="none"), names, config.patch_px))


CONFIG = config_of(DATES)
LAYOUT = layout_of(CONFIG)
NORMALISERS = {
    "S1GRD": Normaliser(modality("S1GRD"), BandStatistics((-12.0, -20.0), (5.0, 6.0))),
    "DEM": Normaliser(modality("DEM"), BandStatistics((400.0,), (300.0,))),
}
ROWS = modality_registry()


def model_of(config: MaskedConfig = CONFIG, layout: Layout = LAYOUT) -> MaskedTransformer:
    torch.manual_seed(0)
    return MaskedTransformer(layout, config).double()


def content_of(names: list[str], seed: int = 0, layout: Layout = LAYOUT) -> Content:
    """Streams of these names; each with the day of its date."""
    rng, streams, days = np.random.default_rng(seed), {}, {}
    for i in sorted(map(layout.index, names)):
        s = layout.streams[i]
        if s.kind == "pixels":
            streams[i] = rng.normal(size=(s.num_positions, s.patch_values)).astype(np.float32)
        else:
            streams[i] = rng.integers(4, 100, s.num_positions)
        if s.date is not None:
            days[i] = DAYS[s.date]
    return Content(streams, days)


def masked(inputs: dict[str, list[int]], targets: dict[str, list[int]], seed: int = 0, **some: Any):
    content = content_of([*{*inputs, *targets}], seed, **some)
    layout = some.get("layout", LAYOUT)
    seen, asked = (
        {i: np.array(side[layout.streams[i].name]) for i in sorted(map(layout.index, side))}
        for side in (inputs, targets)
    )
    return Masked(content, Selection(seen, asked))


def batch_of(samples: list[Masked], layout: Layout = LAYOUT):
    return collate(samples, layout, 9, 7)


MIXED = [
    masked({"S1GRD@px": [0, 2], "S1GRD_t2@px": [1, 3]}, {"NDVI@tok": [0], "NDVI_t1@tok": [2, 3]}, 1),
    masked({"S1GRD_t1@px": [0], "NDVI_t2@tok": [1, 2]}, {"NDVI_t2@tok": [3], "LULC@tok": [0]}, 2),
    masked({"DEM@px": [3], "LULC@tok": [0, 1]}, {"captions@tok": [0, 1]}, 3),
]  # fmt: skip
