from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.registry import modality, modality_registry
from shards.dataset import Dataset
from shards.errors import ShardError
from shards.preview import as_text, contact_sheet, spread
from shards.render import NODATA_GREY, class_colors, render_map, render_maps


@pytest.mark.parametrize("name", [n for n, row in modality_registry().items() if row.is_map])
def test_every_map_becomes_an_rgb_picture(name: str) -> None:
    row = modality(name)
    array = np.random.default_rng(0).uniform(1, 9, (row.num_bands, 6, 7)).astype(row.dtype)
    picture = render_map(array, row)
    side_by_side = row.num_bands if row.kind == "classes" else 1
    assert picture.shape == (6, 7 * side_by_side, 3)
    assert picture.dtype == np.uint8


def test_a_fixed_range_is_linear_and_clipped() -> None:
    row = modality("S2RGB")
    array = np.arange(256, dtype=np.uint8)[None, None].repeat(3, 0)
    assert render_map(array, row)[0, :, 1].tolist() == list(range(256))
    radar = np.array([[[-40.0, -12.5, 5.0]]] * 2, np.float32)
    assert render_map(radar, modality("S1RTC"))[0, :, 0].tolist() == [0, 128, 255]


def test_nodata_is_grey_in_every_kind_of_map() -> None:
    grey = [NODATA_GREY] * 3
    ndvi = np.array([[[0.5, np.nan]]], np.float32)
    assert render_map(ndvi, modality("NDVI"))[0, 1].tolist() == grey
    dem = np.array([[[5, 100, -32768]]], np.int16)
    assert render_map(dem, modality("DEM"))[0, 2].tolist() == grey
    optical = np.full((12, 1, 3), 500, np.int16)
    optical[:, 0, 2] = 0
    optical[:, 0, 0] = 900
    assert render_map(optical, modality("S2L2A"))[0, 2].tolist() == grey
    assert render_map(np.zeros((1, 1, 1), np.uint8), modality("LULC"))[0, 0].tolist() == grey


def test_classes_have_their_colours_and_strangers_are_grey() -> None:
    picture = render_map(np.array([[[1, 2, 77]]]), modality("LULC"))
    assert picture[0].tolist() == [[0x41, 0x9B, 0xDF], [0x39, 0x7D, 0x49], [NODATA_GREY] * 3]
    assert class_colors(modality("LULC")).shape == (10, 3)


def test_truth_and_prediction_share_one_scale() -> None:
    row = modality("DEM")
    low = np.linspace(0, 10, 100).reshape(1, 10, 10)
    high = low + 90
    alone = render_map(low, row)
    together, other = render_maps([low, high], row)
    assert not np.array_equal(alone, together)
    expected = render_map(np.concatenate([low, high], 1), row)
    np.testing.assert_array_equal(np.concatenate([together, other]), expected)


def test_a_map_without_any_valid_pixel_is_all_grey() -> None:
    empty = np.full((1, 3, 3), -32768, np.int16)
    assert (render_map(empty, modality("DEM")) == NODATA_GREY).all()


def test_the_sheet_shows_rows_and_columns(dataset: Dataset, tmp_path: Path) -> None:
    contact_sheet(dataset, dataset.select()[:3], tmp_path / "new" / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "new" / "sheet.png").convert("RGB")).reshape(-1, 3)
    colors = {tuple(c) for c in np.unique(sheet, axis=0).tolist()}
    # Land cover is drawn in its class colours, and the hatch of missing parts is there.
    assert (0x39, 0x7D, 0x49) in colors
    assert (0xD0, 0xD0, 0xD0) in colors


def test_a_folder_that_cannot_be_written_is_told(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ShardError, match="cannot write"):
        contact_sheet(dataset, [0], tmp_path / "file" / "sheet.png")


def test_samples_are_spread_evenly() -> None:
    assert spread(np.arange(100), 3).tolist() == [0, 50, 99]
    assert spread(np.arange(2), 3).tolist() == [0, 1]


def test_vectors_are_told_in_words() -> None:
    biome = modality("biome")
    label = np.zeros(biome.num_bands, np.uint8)
    assert as_text(label, biome) == "none"
    label[3] = 1
    assert as_text(label, biome) == biome.bands[3]
    era5 = modality("ERA5")
    values = np.arange(era5.num_bands, dtype=np.float32)
    assert as_text(values, era5).startswith(f"{era5.bands[0]}=0")
    assert as_text(np.array([-12.5, 44.25]), modality("coordinates")) == "12.5000° W\n44.2500° N"
