"""What a place and a season usually look like, against the nearest samples found one by one."""

import datetime
from collections import Counter

import numpy as np
import pytest

from configs.load import parse_config
from configs.schema import DataConfig, SampleFilter, ShardsConfig
from pipeline.data.transforms import measured_pixels
from pipeline.data.views import Views
from pipeline.generate.climatology import (
    BOTH,
    NUM_NEAREST,
    PLACE,
    SEASON,
    Climatology,
    Whereabouts,
)
from pipeline.stage2.layout import Layout
from pipeline.stage2.samples import SampleReader
from pipeline.stage2.streams import Stream
from shards import Dataset, open_dataset
from shards.build import build

SIDE_PX = 24
LAYOUT = Layout(
    (Stream("DEM@px", "DEM", "pixels", 9, True, False, 80.0, (3, 3), 8, 1),), SIDE_PX * 10, Views()
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("climatology") / "set"
    source = {"type": "synthetic", "num_samples": 80, "tile_px": SIDE_PX, "missing": 0.2}
    config = parse_config({"kind": "shards", "source": source, "out": str(out)})
    assert isinstance(config, ShardsConfig)
    build(config, quiet=True)
    return open_dataset(out)


def climatology_of(dataset: Dataset, name: str, data: DataConfig | None = None) -> Climatology:
    data = data or DataConfig(shards=str(dataset.path))
    reader = SampleReader(dataset, LAYOUT, {})
    return Climatology(reader, Whereabouts(dataset, data), name, LAYOUT.views.centre)


def apart(dataset: Dataset, a: int, b: int, by: slice) -> float:
    """Squared chord between two places and, at half the radius, between two days of the year."""
    chords = []
    for i in (a, b):
        parts = dataset.read(i, ["coordinates", "date"])
        lon, lat = np.radians(np.asarray(parts.get("coordinates", [0, 0]), dtype=float).ravel()[:2])
        date = str(parts.get("date", "2020-01-01"))
        day = datetime.date.fromisoformat(date[:10]).timetuple().tm_yday
        chords.append((lon, lat, 2 * np.pi * day / 365.25))
    (lon_a, lat_a, day_a), (lon_b, lat_b, day_b) = chords
    cosine = np.sin(lat_a) * np.sin(lat_b) + np.cos(lat_a) * np.cos(lat_b) * np.cos(lon_a - lon_b)
    place, season = 2 - 2 * cosine, 0.25 * (2 - 2 * np.cos(day_a - day_b))
    return float(place * (by != SEASON) + season * (by != PLACE))


@pytest.mark.parametrize("by", [BOTH, PLACE, SEASON], ids=["both", "place", "season"])
@pytest.mark.parametrize("name", ["DEM", "LULC"])
def test_the_guess_is_that_of_the_nearest_training_samples(
    dataset: Dataset, name: str, by: slice
) -> None:
    reader = SampleReader(dataset, LAYOUT, {})
    view, row = LAYOUT.views.centre, dataset.modalities[name]
    climatology = climatology_of(dataset, name)
    there = [
        n for n, goes_by in (("coordinates", PLACE), ("date", SEASON)) if by in (BOTH, goes_by)
    ]
    where = np.logical_and.reduce([dataset.present(n) for n in there])
    train = [int(i) for i in dataset.select(split="train", require=[name]) if where[i]]
    held_out = [int(i) for i in dataset.select(split="val") if where[i]]
    assert len(train) > NUM_NEAREST
    assert held_out
    for index in held_out:
        near = sorted(train, key=lambda i: apart(dataset, index, i, by))[:NUM_NEAREST]
        windows = [
            reader.window(name, np.asarray(dataset.read(i, [name])[name]), view) for i in near
        ]
        pixels = [w[:, measured_pixels(w, row)] for w in windows]
        guess = climatology.guess(index, by)
        assert guess is not None
        if name == "DEM":
            expected = np.mean([p.mean(dtype=float) for p in pixels])
            np.testing.assert_allclose(guess, np.full((1, 1, 1), expected), rtol=1e-6)
        else:
            shares: Counter[int] = Counter()
            for p in pixels:
                for value, count in zip(*np.unique(p, return_counts=True), strict=True):
                    shares[int(value)] += count / p.size
            assert guess.item() == max(shares, key=lambda c: shares[c])


def test_without_a_place_or_a_day_there_is_no_guess(dataset: Dataset) -> None:
    climatology = climatology_of(dataset, "DEM")
    placed, dated = dataset.present("coordinates"), dataset.present("date")
    assert (~placed & dated).any()
    for index in range(dataset.num_samples):
        for by, known in ((BOTH, placed & dated), (PLACE, placed), (SEASON, dated)):
            assert (climatology.guess(index, by) is not None) == known[index]


def test_training_samples_are_those_of_the_splitting_and_filter_that_a_run_had(
    dataset: Dataset,
) -> None:
    data = DataConfig(shards=str(dataset.path), filter=SampleFilter(require=("S1GRD", "LULC")))
    indices, _ = Whereabouts(dataset, data).training("DEM")
    train = dataset.select(split="train", require=["DEM"])
    there = dataset.present("S1GRD") & dataset.present("LULC")
    assert not there[train].all()
    assert set(indices) == set(train[there[train]])


def test_places_are_read_once_for_all_modalities(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[int] = Counter()
    read = type(dataset).read

    def counting(self: Dataset, index: int, names: list[str]) -> object:
        asked[index] += "coordinates" in names
        return read(self, index, names)

    monkeypatch.setattr(type(dataset), "read", counting)
    whereabouts = Whereabouts(dataset, DataConfig(shards=str(dataset.path)))
    for name in ("DEM", "LULC"):
        whereabouts.training(name)
    assert set(asked.values()) == {1}
