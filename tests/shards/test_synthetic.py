"""The synthetic Earth: what it promises about form, chance and coupling.

The coupling is judged by estimators that know nothing of the generator: nearest neighbours among
pixels, least squares among tiles, always fitted on some samples and scored on others.
"""

import datetime as dt
import re

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.warp import transform

from configs.errors import ConfigError
from configs.registry import modality, statistics_set
from configs.schema import SyntheticSourceConfig
from shards.sample import Sample
from shards.sources.base import SampleRef, refs_of
from shards.sources.earth import __main__ as statistics
from shards.sources.earth.cover import make_cover
from shards.sources.earth.place import place_of, utm
from shards.sources.earth.terrain import make_terrain
from shards.sources.earth.words import CLASS_WORDS
from shards.sources.synthetic import MODALITIES, SyntheticSource

TILE_PX = 48
NUM_SAMPLES = 420
NUM_FIT = 280
WATER, TREES, SNOW = 1, 2, 7


def source_of(**options) -> SyntheticSource:
    return SyntheticSource(SyntheticSourceConfig(**{"tile_px": TILE_PX, "seed": 3, **options}))


def image(sample: Sample, name: str) -> np.ndarray:
    part = sample.parts[name]
    assert isinstance(part, np.ndarray)
    return part


def same(a: Sample, b: Sample) -> bool:
    return (
        (a.key, a.meta) == (b.key, b.meta)
        and a.parts.keys() == b.parts.keys()
        and all(np.array_equal(a.parts[k], b.parts[k], equal_nan=_is_float(a, k)) for k in a.parts)
    )


def _is_float(sample: Sample, name: str) -> bool:
    part = sample.parts[name]
    return isinstance(part, np.ndarray) and part.dtype.kind == "f"


@pytest.fixture(scope="module")
def world() -> list[Sample]:
    source = source_of(num_samples=NUM_SAMPLES, missing=0)
    return [source.read(ref) for ref in refs_of(source.listing())]


@given(index=st.integers(0, 10**9), seed=st.integers(-3, 2**40))
@settings(max_examples=10, deadline=None)
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
@settings(max_examples=60, deadline=None)
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


def test_every_class_occurs_and_none_dominates(world: list[Sample]):
    count = sum(np.bincount(image(s, "LULC").ravel(), minlength=10) for s in world)
    share = count / np.sum(count)
    assert share.max() < 0.4
    assert share[0] < 0.01
    assert share[8] == 0
    assert (share[[1, 2, 3, 4, 5, 6, 7, 9]] > 0.01).all()
    several = [np.count_nonzero(np.bincount(image(s, "LULC").ravel()) > 23) for s in world]
    assert np.mean([2 <= n <= 5 for n in several]) > 0.7


def test_land_cover_is_coherent_in_space(world: list[Sample]):
    same_as_left = [np.mean(np.diff(image(s, "LULC")[0].astype(int)) == 0) for s in world]
    assert np.mean(same_as_left) > 0.85


def test_height_decides_what_grows(world: list[Sample]):
    heights = {c: [] for c in (TREES, SNOW, 4, 5)}
    for sample in world:
        lulc, dem = image(sample, "LULC")[0], image(sample, "DEM")[0]
        for value, found in heights.items():
            found.extend(dem[lulc == value][::50].tolist())
    median = {value: np.median(found) for value, found in heights.items()}
    assert median[SNOW] > 1500 > median[TREES]
    assert median[4] < 700
    assert max(s.max() for s in (image(s, "DEM") for s in world)) > 3000


def test_canopy_stands_on_trees(world: list[Sample]):
    tall, other = [], []
    for sample in world:
        lulc, canopy = image(sample, "LULC")[0], image(sample, "CHM")[0]
        valid = np.isfinite(canopy) & (lulc > 0)
        tall.append(canopy[valid & (lulc == TREES)])
        other.append(canopy[valid & (lulc != TREES)])
    tall, other = np.concatenate(tall), np.concatenate(other)
    assert 8 < tall.mean() < 25
    assert tall.min() >= 3
    assert np.quantile(other, 0.99) < 5
    assert 30 < tall.max() <= 45


def test_land_cover_shows_in_sentinel_2(world: list[Sample]):
    accuracy, majority = neighbour_accuracy(world, "S2L2A")
    assert accuracy > majority + 0.3


def test_land_cover_shows_in_sentinel_1(world: list[Sample]):
    accuracy, majority = neighbour_accuracy(world, "S1GRD")
    assert accuracy > majority + 0.15


@pytest.mark.parametrize(("name", "most"), [("S2L2A", 0.75), ("S1GRD", 0.9)])
def test_mean_height_shows_in_one_sensor(world: list[Sample], name: str, most: float):
    assert height_error_ratio(world, name) < most


def test_every_pixel_is_made_of_something_and_of_no_more():
    for index in range(60):
        place = place_of(3, index)
        cover = make_cover(place, make_terrain(place, 3, TILE_PX), 3, TILE_PX)
        assert cover.fractions.min() >= -1e-6
        assert cover.fractions.sum(0) == pytest.approx(1, abs=1e-4)


def test_landsat_sees_the_surface_of_sentinel_2(world: list[Sample]):
    correlations = []
    for sample in world:
        fine, coarse = image(sample, "S2L2A")[7], image(sample, "Landsat")[4]
        if (fine > 0).all() and (coarse > -9999).all():
            mean = fine.reshape(TILE_PX // 3, 3, TILE_PX // 3, 3).mean((1, 3))
            correlations.append(np.corrcoef(mean.ravel(), coarse.ravel())[0, 1])
    assert np.median(correlations) > 0.85


def test_coarse_bands_are_coarser():
    fine, coarse = [], []
    for index in range(20):
        dn = image(source_of(missing=0).sample(index), "S2L2A").astype(np.float64)
        roughness = np.abs(np.diff(dn, axis=2)).mean((1, 2)) / dn.std((1, 2))
        fine.append(roughness[1])
        coarse.append(roughness[0])
    assert np.mean(coarse) < 0.6 * np.mean(fine)


def test_radar_relief_is_in_grd_and_not_in_rtc(world: list[Sample]):
    rugged = [s for s in world if np.ptp(image(s, "DEM")) > 150]
    spread = {
        name: np.mean([np.nanstd(image(s, name)[0]) for s in rugged]) for name in ("S1GRD", "S1RTC")
    }
    assert spread["S1GRD"] > 1.15 * spread["S1RTC"]


def test_captions_and_tags_say_what_is_there(world: list[Sample]):
    for sample in world:
        share = np.bincount(image(sample, "LULC").ravel(), minlength=10)[1:]
        text, tags = str(sample.parts["captions"]), str(sample.parts["OSM"])
        assert text[0].isupper()
        assert text.endswith(".")
        assert all(re.fullmatch(r"[a-z]+=[a-z_]+", tag) for tag in tags.split())
        if np.isin(image(sample, "LULC"), [0]).any():
            continue  # a strip of nodata may hide the class that the words were written from
        assert CLASS_WORDS[int(share.argmax()) + 1] in text


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


def neighbour_accuracy(world: list[Sample], name: str) -> tuple[float, float]:
    """(accuracy of 7 nearest neighbours among pixels of other samples, that of the majority)."""
    rng = np.random.default_rng(0)

    def pixels(samples: list[Sample]) -> tuple[np.ndarray, np.ndarray]:
        features, labels = [], []
        for sample in samples:
            values = smoothed(sample, name)
            lulc = image(sample, "LULC")[0]
            usable = np.flatnonzero((lulc > 0) & np.isfinite(values).all(0))
            if usable.size:
                chosen = rng.choice(usable, 20)
                features.append(values.reshape(len(values), -1)[:, chosen].T)
                labels.append(lulc.ravel()[chosen])
        return np.concatenate(features), np.concatenate(labels)

    known, known_label = pixels(world[:NUM_FIT])
    asked, asked_label = pixels(world[NUM_FIT:])
    mean, std = known.mean(0), known.std(0)
    known, asked = (known - mean) / std, (asked - mean) / std
    distance = (known**2).sum(1) - 2 * asked @ known.T
    nearest = known_label[np.argpartition(distance, 7, axis=1)[:, :7]]
    votes = (nearest[:, :, None] == np.arange(10)).sum(1)
    majority = np.bincount(known_label).argmax()
    return float((votes.argmax(1) == asked_label).mean()), float((asked_label == majority).mean())


def smoothed(sample: Sample, name: str) -> np.ndarray:
    """What a simple estimator sees: reflectance without the offset, or radar averaged 3 x 3."""
    values = image(sample, name).astype(np.float64)
    if name == "S2L2A":
        offset = 1000 if str(sample.parts["date"]) >= "2022-01-25" else 0
        return np.log(np.maximum(values - offset, 20))
    rolled = [np.roll(values, (i, j), (1, 2)) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return np.mean(rolled, axis=0)


def height_error_ratio(world: list[Sample], name: str) -> float:
    """RMSE of a least-squares guess of a tile's mean height over the RMSE of the mean height."""
    rows, heights = [], []
    for sample in world:
        values = smoothed(sample, name)
        values = values.reshape(len(values), -1)
        values = values[:, np.isfinite(values).all(0)]
        spread = np.log(values.std(1) + 0.01)
        lat = sample.meta.lat or 0.0
        rows.append([1, lat / 50, (lat / 50) ** 2, *values.mean(1), *spread])
        heights.append(image(sample, "DEM").mean())
    x, y = np.array(rows), np.array(heights)
    weights = np.linalg.lstsq(x[:NUM_FIT], y[:NUM_FIT], rcond=None)[0]
    error = np.sqrt(np.mean((x[NUM_FIT:] @ weights - y[NUM_FIT:]) ** 2))
    return float(error / np.sqrt(np.mean((y[:NUM_FIT].mean() - y[NUM_FIT:]) ** 2)))
