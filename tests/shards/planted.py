"""Data sets made of samples that a test holds in its hands, by the builder itself, without files to read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from configs.registry import in_registry_order, modality
from configs.schema.modality import Modality
from shards.build import finish_build
from shards.errors import SampleError
from shards.fill import Site, Task, fill_shard
from shards.plan import plan
from shards.sample import Part, Sample, SampleMeta
from shards.sources.base import SampleRef, make_listing
from shards.sources.grid import centre_at
from tests.shards.helpers import config_for

PX = 16
CRS = "EPSG:32633"
DAY = "2021-07-23"


class PlantedSource:
    """A source of samples that are there already; those of `poisoned` cannot be read."""

    name = "planted"

    def __init__(self, samples: Sequence[Sample], poisoned: Iterable[str] = ()) -> None:
        self._samples = {sample.key: sample for sample in samples}
        self._poisoned = set(poisoned)

    @property
    def rows(self) -> dict[str, Modality]:
        names = {name for sample in self._samples.values() for name in sample.parts}
        return {name: modality(name) for name in in_registry_order(names)}

    def fingerprint(self) -> str:
        return "planted"

    def listing(self):
        metas = [sample.meta for sample in self._samples.values()]
        return make_listing(
            list(self._samples),
            block=np.zeros(len(metas), np.int64),
            lon=[meta.lon for meta in metas],
            lat=[meta.lat for meta in metas],
        )

    def read(self, ref: SampleRef) -> Sample:
        if ref.key in self._poisoned:
            raise SampleError(f"{ref.key}: planted")
        return self._samples[ref.key]


def image(number: int, name: str = "S2L2A", px: int = PX) -> np.ndarray:
    """A seeded image (C, px, px) in the type of its row: a scene of its own under a little noise."""
    row = modality(name)
    rng = np.random.default_rng([number, *name.encode()])
    scene = np.kron(rng.uniform(300, 3000, (8, 8)), np.ones((px // 8, px // 8)))
    bands = rng.uniform(0.8, 1.2, (row.num_bands, 1, 1))
    pixels = scene * bands + rng.normal(0, 20, (row.num_bands, px, px))
    if np.dtype(row.dtype).kind == "f":
        pixels = pixels / 100 - 40
    return pixels.astype(row.dtype)


def place(number: int) -> tuple[tuple[float, ...], float, float]:
    """The transform of a sample's grid of 10 m, and longitude and latitude of its middle."""
    transform = (10.0, 0.0, 300_000.0 + 40_000 * number, 0.0, -10.0, 5_000_000.0)
    found = centre_at(CRS, transform, PX, PX)
    assert found is not None
    return transform, *found


def sample(
    number: int, parts: Mapping[str, Part] | None = None, key: str = "", **meta: object
) -> Sample:
    """A sample that makes sense in every way, but for what is given otherwise."""
    transform, lon, lat = place(number)
    own: dict[str, Part] = {
        "S2L2A": image(number),
        "S1GRD": image(number, "S1GRD"),
        "DEM": image(number, "DEM"),
        "coordinates": np.array([lon, lat]),
        "date": DAY,
    }
    where = SampleMeta(
        lon=lon,
        lat=lat,
        crs=CRS,
        transform=transform,  # pyright: ignore[reportArgumentType]
        times={"S2L2A": DAY, "S1GRD": "2021-07-20"},
        source="planted",
    )
    return Sample(
        key or f"place{number}",
        own | dict(parts or {}),
        replace(where, **meta),  # pyright: ignore[reportArgumentType]
    )


def build_planted(
    out: Path,
    samples: Sequence[Sample],
    shards: Mapping[str, Sequence[Sequence[Sample]]] | None = None,
    source: Mapping[str, object] | None = None,
    **changes: object,
) -> Path:
    """Build a data set of the samples; `shards` says which of them make which shards of which split.

    `source` is what the manifest tells of the source's configuration.
    """
    config = config_for(out.parent / "nowhere", out, **{"splits": {"train": 1.0}, **changes})
    site = Site(config, PlantedSource(samples), PlantedSource(samples).rows)
    made = plan(site.source.listing(), config)
    recipe = {"split_cell_deg": config.split_cell_deg}
    if shards is not None:
        keys = made.table.column("key").to_pylist()
        wanted = [keys.index(s.key) for split in shards.values() for own in split for s in own]
        made = replace(
            made,
            table=made.table.take(wanted),
            counts={split: sum(map(len, own)) for split, own in shards.items()},
            samples_per_shard=max(len(own) for split in shards.values() for own in split),
        )
    for shard in made.shards:
        fill_shard(site, Task(shard, made.refs(shard)), lambda: None)
    finish_build(site, made, recipe)
    return out
