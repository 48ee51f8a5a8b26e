"""What a place and a season usually look like, against the nearest samples found one by one."""

import datetime
from collections import Counter

import numpy as np
import pytest

from configs.load import parse_config
from configs.schema import ShardsConfig
from pipeline.data.transforms import measured_pixels
from pipeline.data.views import Views
from pipeline.generate.climatology import NUM_NEAREST, Climatology, Whereabouts
from pipeline.generate.training import look_through
from pipeline.stage2.layout import Layout, Stream
from pipeline.stage2.samples import SampleReader
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


def angle_and_season(dataset: Dataset, a: int, b: int) -> float:
    """Squared chord between two places and, at half the radius, between two days of the year."""
    chords = []
    for i in (a, b):
        parts = dataset.read(i, ["coordinates", "date"])
        lon, lat = np.radians(np.asarray(parts["coordinates"], dtype=float).ravel()[:2])
        day = datetime.date.fromisoformat(str(parts["date"])[:10]).timetuple().tm_yday
        chords.append((lon, lat, 2 * np.pi * day / 365.25))
    (lon_a, lat_a, day_a), (lon_b, lat_b, day_b) = chords
    cosine = np.sin(lat_a) * np.sin(lat_b) + np.cos(lat_a) * np.cos(lat_b) * np.cos(lon_a - lon_b)
    return float(2 - 2 * cosine + 0.25 * (2 - 2 * np.cos(day_a - day_b)))


@pytest.mark.parametrize("name", ["DEM", "LULC"])
def test_the_guess_is_that_of_the_nearest_training_samples(dataset: Dataset, name: str) -> None:
    reader = SampleReader(dataset, LAYOUT, {})
    view, row = LAYOUT.views.centre, dataset.modalities[name]
    climatology = Climatology(Whereabouts(dataset), row)
    look_through(reader, name, view, [climatology])
    where = dataset.present("coordinates") & dataset.present("date")
    train = [int(i) for i in dataset.select(split="train", require=[name]) if where[i]]
    held_out = [int(i) for i in dataset.select(split="val") if where[i]]
    assert len(train) > NUM_NEAREST
    assert held_out
    for index in held_out:
        near = sorted(train, key=lambda i: angle_and_season(dataset, index, i))[:NUM_NEAREST]
        windows = [
            reader.window(name, np.asarray(dataset.read(i, [name])[name]), view) for i in near
        ]
        pixels = [w[:, measured_pixels(w, row)] for w in windows]
        guess = climatology.guess(index)
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
    reader = SampleReader(dataset, LAYOUT, {})
    climatology = Climatology(Whereabouts(dataset), dataset.modalities["DEM"])
    look_through(reader, "DEM", LAYOUT.views.centre, [climatology])
    known = dataset.present("coordinates") & dataset.present("date")
    assert (~known).any()
    for index in range(dataset.num_samples):
        assert (climatology.guess(index) is not None) == known[index]


def test_places_are_read_once_for_all_modalities(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[int] = Counter()
    read = type(dataset).read

    def counting(self: Dataset, index: int, names: list[str]) -> object:
        asked[index] += "coordinates" in names
        return read(self, index, names)

    monkeypatch.setattr(type(dataset), "read", counting)
    reader, whereabouts = SampleReader(dataset, LAYOUT, {}), Whereabouts(dataset)
    for name in ("DEM", "LULC"):
        climatology = Climatology(whereabouts, dataset.modalities[name])
        look_through(reader, name, LAYOUT.views.centre, [climatology])
    assert set(asked.values()) == {1}
