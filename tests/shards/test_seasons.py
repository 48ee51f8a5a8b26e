"""Several dates of a modality: rows of the registry, and the synthetic Earth in other seasons."""

import datetime as dt
import itertools

import numpy as np
import pytest

from configs import ConfigError
from configs.registry import in_registry_order, modality
from configs.schema.modality import Modality, dated, undated
from shards import open_dataset
from shards.build import build
from shards.sample import Sample
from tests.shards.helpers import source_config
from tests.shards.synthetic_world import source_of

DATES = ("S2L2A", "S2L2A_t1", "S2L2A_t2", "S2L2A_t3")
NAMES = (*DATES, "LULC", "NDVI", "NDVI_t2")


@pytest.fixture(scope="module")
def tiles() -> list[Sample]:
    source = source_of(missing=0, tile_px=24, modalities=NAMES)
    return [source.sample(i) for i in range(40)]


def test_a_further_date_has_the_row_of_its_modality_under_another_name():
    row, first = modality("S2L2A_t12"), modality("S2L2A")
    assert undated(row.name) == ("S2L2A", 12)
    assert dated("S2L2A", 0) == "S2L2A"
    assert Modality.model_validate(row.model_dump()) == row
    assert (
        row.model_copy(update={n: getattr(first, n) for n in ("name", "title", "order")}) == first
    )
    assert in_registry_order(["DEM_t1", "S2L2A_t2", "S2L2A_t1", "DEM"]) == (
        "DEM", "S2L2A_t1", "DEM_t1", "S2L2A_t2",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["captions_t1", "S3_t1", "S2L2A_t0", "S2L2A_t100"])
def test_what_has_no_further_date_is_refused(name: str):
    with pytest.raises(ConfigError, match=r"only maps have several dates|unknown modality"):
        modality(name)


def test_dates_follow_each_other_and_move_nothing(tiles: list[Sample]):
    for sample in tiles:
        days = [dt.date.fromisoformat(sample.meta.times[name]) for name in DATES]
        assert all(51 <= (b - a).days <= 131 for a, b in itertools.pairwise(days))
        assert sample.meta.times["NDVI_t2"] == sample.meta.times["S2L2A_t2"]
    alone = source_of(missing=0, tile_px=24, modalities=("S2L2A",)).sample(5)
    assert np.array_equal(alone.parts["S2L2A"], tiles[5].parts["S2L2A"])
    third = source_of(missing=0, tile_px=24, modalities=("S2L2A_t3",)).sample(5)
    assert np.array_equal(third.parts["S2L2A_t3"], tiles[5].parts["S2L2A_t3"])
    assert third.meta.times == {"S2L2A_t3": tiles[5].meta.times["S2L2A_t3"]}


def test_what_grows_is_greener_in_summer():
    source = source_of(missing=0, tile_px=24, modalities=("LULC", "NDVI", "NDVI_t2"))
    greener = []
    for i in range(120):
        sample = source.sample(i)
        lat = sample.meta.lat or 0.0
        lulc = np.asarray(sample.parts["LULC"])[0]
        days = [dt.date.fromisoformat(sample.meta.times[n]) for n in ("NDVI", "NDVI_t2")]
        # Nearness to midsummer, which is in January where the latitude is negative.
        near = [
            -abs((d.timetuple().tm_yday + 182 * (lat < 0) - 200 + 182) % 365 - 182) for d in days
        ]
        grows = np.isin(lulc, (2, 9))
        if abs(lat) > 35 and grows.mean() > 0.5 and abs(near[0] - near[1]) > 60:
            ndvi = [np.nanmean(np.asarray(sample.parts[n])[0][grows]) for n in ("NDVI", "NDVI_t2")]
            greener.append((ndvi[0] - ndvi[1]) * np.sign(near[0] - near[1]) > 0)
    assert len(greener) > 15
    assert np.mean(greener) > 0.8


def test_any_date_may_be_missing_and_the_index_says_so(tmp_path):
    earth: dict[str, object] = {"type": "synthetic", "num_samples": 40, "tile_px": 24}
    build(
        source_config(earth | {"missing": 0.3, "modalities": NAMES}, tmp_path / "out"), quiet=True
    )
    dataset = open_dataset(tmp_path / "out")
    there = np.stack([dataset.present(name) for name in DATES], 1)
    assert len({tuple(row) for row in there.tolist()}) > 6
    for i in range(len(dataset)):
        assert set(dataset.read(i, DATES)) == {n for n, t in zip(DATES, there[i], strict=True) if t}
        assert set(DATES) & dataset.meta(i).times.keys() == set(dataset.read(i, DATES))


def test_a_date_of_what_has_one_alone_is_refused():
    with pytest.raises(ConfigError, match=r"does not make DEM_t1; .* S2L2A_t1"):
        source_of(modalities=("S2L2A", "DEM_t1"))
