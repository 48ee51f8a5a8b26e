"""Batches of pixels: aligned windows, honest masks, the same turn for all modalities."""

from pathlib import Path

import numpy as np
import pytest
import torch

from configs import ConfigError
from configs.load import parse_config
from configs.registry import BandStatistics
from configs.schema import ShardsConfig
from pipeline.data.pixels import PixelReader, valid_name
from pipeline.data.transforms import Normaliser
from shards import Dataset, open_dataset
from shards.build import build

NAMES = ("S2L2A", "Landsat", "LULC", "DEM")
PX = 48


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("pixels") / "set"
    # With this seed one Landsat map ends inside its tile.
    source = {"type": "synthetic", "num_samples": 24, "tile_px": PX, "missing": 0.3, "seed": 1}
    config = parse_config({"kind": "shards", "source": source, "out": str(out)})
    assert isinstance(config, ShardsConfig)
    build(config, quiet=True)
    return open_dataset(out)


def reader(dataset: Dataset, window_m: float = 240, *, augment: bool = True) -> PixelReader:
    # Identity: values stay what they are on disk, so they can be compared.
    normalisers = {
        n: Normaliser(row, BandStatistics((0.0,) * row.num_bands, (1.0,) * row.num_bands))
        for n, row in dataset.modalities.items()
        if n in NAMES and row.kind == "image"
    }
    return PixelReader(dataset, NAMES, normalisers, window_m, augment=augment)


def test_a_batch_holds_every_modality_and_says_what_is_missing(dataset: Dataset) -> None:
    pixels = reader(dataset)
    samples = [pixels.sample(i, np.random.default_rng(i)) for i in range(24)]
    batch = pixels.collate(samples)
    assert batch["present"].shape == (24, 4)
    for m, name in enumerate(NAMES):
        present = torch.from_numpy(dataset.present(name))
        assert torch.equal(batch["present"][:, m], present)
        side = 8 if name == "Landsat" else 24
        assert batch[name].shape == (24, dataset.modalities[name].num_bands, side, side)
        assert not batch[name][~present].any()
        assert not batch[valid_name(name)][~present].any()
    assert 0 < batch["present"].float().mean() < 1


def test_all_modalities_show_the_same_ground_in_the_same_turn(dataset: Dataset) -> None:
    """Landsat's 30 m pixels are compared with Sentinel-2's 10 m ones by the same window of both."""
    pixels = reader(dataset)
    both = np.flatnonzero(dataset.present("LULC") & dataset.present("DEM"))
    turned = 0
    for i in both:
        sample = pixels.sample(int(i), np.random.default_rng(int(i)))
        raw = dataset.read(int(i), ["LULC", "DEM"])
        lulc, dem = np.asarray(raw["LULC"])[0], np.asarray(raw["DEM"])[0]
        # Where does the window of heights come from, and in which symmetry? The same must hold for LULC.
        matches = [
            (top, left, turn, flip)
            for top in range(0, PX - 24 + 1, 6)
            for left in range(0, PX - 24 + 1, 6)
            for turn in range(4)
            for flip in (False, True)
            if np.array_equal(
                _turned(dem[top : top + 24, left : left + 24], turn, flip), sample.values["DEM"][0]
            )
        ]
        assert matches
        assert any(
            np.array_equal(
                _turned(lulc[top : top + 24, left : left + 24], turn, flip),
                sample.values["LULC"][0],
            )
            for top, left, turn, flip in matches
        )
        turned += all((turn, flip) != (0, False) for *_, turn, flip in matches)
    assert turned > len(both) / 2


def _turned(window: np.ndarray, turn: int, flip: bool) -> np.ndarray:
    rotated = np.rot90(window, turn)
    return rotated[:, ::-1] if flip else rotated


def test_pixels_without_a_measurement_are_zero_and_not_valid(dataset: Dataset) -> None:
    pixels = reader(dataset, window_m=480, augment=False)
    seen = False
    for i in range(24):
        sample = pixels.sample(i, np.random.default_rng(0))
        for name, valid in sample.valid.items():
            row, part = dataset.modalities[name], np.asarray(dataset.read(i, [name])[name])
            nodata = (part == row.nodata).any(axis=0)
            np.testing.assert_array_equal(valid, ~nodata)
            if row.kind == "image":
                assert not sample.values[name][:, ~valid].any()
            seen |= bool(nodata.any())
    assert seen, "no sample has nodata: the test says nothing"


def test_chance_follows_from_the_generator_alone(dataset: Dataset) -> None:
    pixels = reader(dataset)
    once, again = (pixels.sample(3, np.random.default_rng(7)) for _ in range(2))
    for name in once.values:
        np.testing.assert_array_equal(once.values[name], again.values[name])


def test_wrong_windows_and_names_are_told(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not fit"):
        reader(dataset, window_m=960).sample(0, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="a multiple of 60 m"):
        reader(dataset, window_m=250)
    with pytest.raises(ConfigError, match="has no pixels"):
        PixelReader(dataset, ["captions"], {}, 240)
