"""The synthetic Earth: what it promises about form and chance."""

import datetime as dt

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.warp import transform

from configs.errors import ConfigError
from configs.registry import modality, statistics_set
from shards.sample import Sample
from shards.sources.base import SampleRef, refs_of
from shards.sources.earth import __main__ as statistics
from shards.sources.earth.place import utm
from shards.sources.synthetic import MODALITIES
from tests.shards.synthetic_world import (
    WATER,
    image,
    source_of,
)


def same(a: Sample, b: Sample) -> bool:
    return (
        (a.key, a.meta) == (b.key, b.meta)
        and a.parts.keys() == b.parts.keys()
        and all(np.array_equal(a.parts[k], b.parts[k], equal_nan=_is_float(a, k)) for k in a.parts)
    )


def _is_float(sample: Sample, name: str) -> bool:
    part = sample.parts[name]
    return isinstance(part, np.ndarray) and part.dtype.kind == "f"


@given(index=st.integers(0, 10**9), seed=st.integers(-3, 2**40))
@settings(max_examples=10)
def test_a_sample_depends_on_seed_and_index_alone(index: int, seed: int):
    few = source_of(seed=seed, num_samples=10)
    many = source_of(seed=seed, num_samples=10**9 + 1)
    many.sample(index // 2)
    assert same(few.sample(index), many.read(SampleRef("", 0, index, None, None, 0)))
    assert not same(few.sample(index), few.sample(index + 1))


def test_a_modality_does_not_move_another_one():
    everything = source_of(missing=0)
    for name in everything.modalities:
        alone = source_of(missing=0, modalities=(name,)).sample(11)
        assert list(alone.parts) == [name]
        assert np.array_equal(alone.parts[name], everything.sample(11).parts[name])


@pytest.mark.parametrize("tile_px", [48, 51, 96])
def test_parts_have_the_registry_s_form(tile_px: int):
    source = source_of(missing=0, tile_px=tile_px)
    assert source.modalities == MODALITIES
    for index in range(12):
        parts = source.sample(index).parts
        assert tuple(parts) == MODALITIES
        for name, part in parts.items():
            entry = modality(name)
            if entry.is_map:
                side = tile_px * 10 // int(entry.gsd_m or 10)
                assert isinstance(part, np.ndarray)
                assert part.shape == (entry.num_bands, side, side)
                assert part.dtype == entry.dtype
                low, high = entry.valid_range or (-np.inf, np.inf)
                valid = part[np.isfinite(part) & (part != entry.nodata)]
                assert low <= valid.min()
                assert valid.max() <= high
            elif entry.kind == "coordinates":
                assert isinstance(part, np.ndarray)
                assert (part.shape, part.dtype) == ((2,), np.float64)
            else:
                assert isinstance(part, str)
                assert part


def test_the_listing_agrees_with_the_samples():
    source = source_of(num_samples=130)
    refs = refs_of(source.listing())
    assert len(refs) == 130
    for index in (0, 63, 64, 129):
        ref, meta = refs[index], source.read(refs[index]).meta
        assert ref.block == index // 64
        assert (ref.key, ref.row) == (f"syn{index:09d}", index)
        assert (ref.lon, ref.lat) == (meta.lon, meta.lat)


def test_fingerprint_follows_the_content():
    assert source_of().fingerprint() == source_of().fingerprint()
    others = [source_of(seed=4), source_of(tile_px=96), source_of(missing_by={"DEM": 0.5})]
    assert len({s.fingerprint() for s in [source_of(), *others]}) == 4


@given(lon=st.floats(-179.9, 179.9), lat=st.floats(-60, 70))
@settings(max_examples=60)
def test_utm_agrees_with_proj(lon: float, lat: float):
    code, easting, northing = utm(lon, lat)
    xs, ys, *_ = transform("EPSG:4326", f"EPSG:{code}", [lon], [lat])
    assert (easting, northing) == pytest.approx((xs[0], ys[0]), abs=0.05)
    assert 160_000 < easting < 840_000


def test_place_and_time_are_consistent(world: list[Sample]):
    for sample in world:
        meta, parts = sample.meta, sample.parts
        assert meta.lat is not None
        assert meta.transform is not None
        assert -60 < meta.lat < 70
        assert parts["coordinates"].tolist() == [meta.lon, meta.lat]  # pyright: ignore
        assert meta.crs is not None
        assert meta.crs.startswith("EPSG:326" if meta.lat >= 0 else "EPSG:327")
        assert meta.transform[0] == 10
        day = dt.date.fromisoformat(meta.times["S2L2A"])
        assert day.isoformat() == parts["date"]
        assert 2017 <= day.year <= 2024
        assert abs(dt.date.fromisoformat(meta.times["S1GRD"]) - day).days <= 3


def test_ndvi_is_computed_from_the_stored_bands(world: list[Sample]):
    for sample in world[:50]:
        dn = image(sample, "S2L2A").astype(np.float64)
        valid = dn[3] > 0
        expected = (dn[7] - dn[3])[valid] / (dn[7] + dn[3])[valid]
        found = image(sample, "NDVI")[0]
        np.testing.assert_allclose(found[valid], expected, rtol=1e-5, atol=1e-6)
        assert np.isnan(found[~valid]).all()


def test_processing_baseline_adds_a_thousand_from_2022_01_25(world: list[Sample]):
    # nothing is darker than clear water in B12, so the darkest pixels show the offset
    darkest = {True: [], False: []}
    for sample in world:
        lulc, swir = image(sample, "LULC")[0], image(sample, "S2L2A")[-1]
        water = (lulc == WATER) & (swir > 0)
        if water.any():
            darkest[str(sample.parts["date"]) >= "2022-01-25"].append(np.quantile(swir[water], 0.1))
    assert np.median(darkest[True]) - np.median(darkest[False]) == pytest.approx(1000, abs=60)
    assert min(darkest[True]) > 900


def test_missing_shares_follow_the_configuration():
    names = ("S2L2A", "S1GRD", "date", "captions")
    source = source_of(tile_px=3, missing=0.3, missing_by={"S1GRD": 0.6}, modalities=names)
    present = [source.sample(i).parts.keys() for i in range(600)]
    share = {name: np.mean([name not in p for p in present]) for name in names}
    # of the samples that would have no image at all, most keep S2L2A: 0.3 - (0.3 x 0.6) x most
    assert 0.10 < share["S2L2A"] < 0.3
    assert share["S1GRD"] == pytest.approx(0.6, abs=0.07)
    assert share["date"] == pytest.approx(0.3, abs=0.06)
    assert all({"S2L2A", "S1GRD"} & p for p in present)


def test_unknown_or_impossible_missing_shares_are_refused():
    with pytest.raises(ConfigError, match="S9"):
        source_of(missing_by={"S9": 0.5})
    with pytest.raises(ConfigError, match="DEM"):
        source_of(missing_by={"DEM": 1.5})
    with pytest.raises(ConfigError, match="no modality"):
        source_of(modalities=("DEM",), missing_by={"DEM": 1.0})
    with pytest.raises(ConfigError, match="S9"):
        source_of(modalities=("S9",))


def test_the_statistics_set_describes_this_generator(world: list[Sample]):
    for name, stats in statistics_set("synthetic-v1").items():
        stack = np.stack([image(s, name) for s in world]).astype(np.float64)
        nodata = modality(name).nodata
        stack[stack == (np.inf if nodata is None else nodata)] = np.nan
        mean, std = np.nanmean(stack, (0, 2, 3)), np.nanstd(stack, (0, 2, 3))
        assert (np.abs(mean - stats.mean) < 0.25 * np.array(stats.std)).all(), name
        assert std == pytest.approx(np.array(stats.std), rel=0.25), name


def test_the_statistics_command_prints_what_a_plain_mean_gives(capsys: pytest.CaptureFixture):
    statistics.main(samples=6, tile_px=24, seed=1)
    printed = yaml.safe_load(capsys.readouterr().out)["modalities"]
    source = source_of(num_samples=6, tile_px=24, seed=1, missing=0)
    for name, entry in printed.items():
        stack = np.stack([image(source.read(r), name) for r in refs_of(source.listing())]).astype(
            np.float64
        )
        nodata = modality(name).nodata
        stack[stack == (np.inf if nodata is None else nodata)] = np.nan
        assert entry["mean"] == pytest.approx(np.nanmean(stack, (0, 2, 3)), abs=0.006)
        assert entry["std"] == pytest.approx(np.nanstd(stack, (0, 2, 3)), abs=0.006)
