"""The synthetic Earth: what its modalities tell of one another.

The coupling is judged by estimators that know nothing of the generator: nearest neighbours among
pixels, least squares among tiles, always fitted on some samples and scored on others.
"""

import re

import numpy as np
import pytest

from shards.sample import Sample
from shards.sources.earth.cover import make_cover
from shards.sources.earth.place import place_of
from shards.sources.earth.terrain import make_terrain
from shards.sources.earth.words import CLASS_WORDS
from tests.shards.synthetic_world import (
    NUM_FIT,
    SNOW,
    TILE_PX,
    TREES,
    image,
    source_of,
)


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
