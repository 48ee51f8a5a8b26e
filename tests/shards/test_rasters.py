"""What a GeoTIFF's header says about its bands, its mask and its scale."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio

from configs.registry import modality
from shards.errors import SampleError, SourceError
from shards.sources.maps import check_header, read_map
from tests.shards.helpers import tiny_array, write_tiff
from tests.shards.webdataset_twin import one, tiff

S2 = modality("S2L2A").bands


def described(path: Path, name: str, descriptions: Sequence[str]) -> np.ndarray:
    """A file of `name` whose bands are described so; returns its pixels in the order of the file."""
    pixels = tiny_array(name, 0)
    write_tiff(path, pixels)
    with rasterio.open(path, "r+") as file:
        file.descriptions = descriptions
    return pixels


@pytest.mark.parametrize(
    "spelled", [list(S2), [b.replace("B0", "B") for b in S2], [f"{b[1:]} - x".lower() for b in S2]]
)
def test_bands_go_by_their_names(tmp_path: Path, spelled: list[str]) -> None:
    pixels = described(tmp_path / "a.tif", "S2L2A", spelled[::-1])
    np.testing.assert_array_equal(read_map(tmp_path / "a.tif", "S2L2A").array, pixels[::-1])


def test_bands_in_a_webdataset_go_by_their_names_too(tmp_path: Path) -> None:
    pixels = described(tmp_path / "b.tif", "S1RTC", ["vh", "vv"])
    sample = one(tmp_path, "tif", (tmp_path / "b.tif").read_bytes(), "S1RTC")
    np.testing.assert_array_equal(sample.parts["S1RTC"], pixels[::-1].astype(np.float32))


@pytest.mark.parametrize(
    "descriptions",
    [
        [""] * 12,
        ["bands"] * 12,
        [f"Band {i}" for i in range(12, 0, -1)],
        [str(i) for i in range(1, 13)],
        ["", *S2[::-1][1:]],
        [f"{band}, central wavelength" for band in S2],
    ],
)
def test_descriptions_that_name_no_bands_leave_the_order(
    tmp_path: Path, descriptions: list[str]
) -> None:
    pixels = described(tmp_path / "a.tif", "S2L2A", descriptions)
    np.testing.assert_array_equal(read_map(tmp_path / "a.tif", "S2L2A").array, pixels)


@pytest.mark.parametrize("last", ["B10", "SCL", "B01"])
def test_names_of_other_bands_are_refused(tmp_path: Path, last: str) -> None:
    described(tmp_path / "a.tif", "S2L2A", [*S2[:-1], last])
    told = rf"a\.tif: S2L2A needs the bands B01, .*describes its own as B01, .*{last}; write"
    with pytest.raises(SampleError, match=told):
        read_map(tmp_path / "a.tif", "S2L2A")
    with pytest.raises(SourceError, match=told):
        check_header(tmp_path / "a.tif", "S2L2A")


def test_masked_pixels_carry_no_measurement(tmp_path: Path) -> None:
    pixels = tiny_array("S2L2A", 0)
    write_tiff(tmp_path / "x.tif", pixels)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(tmp_path / "x.tif", "r+") as file,
    ):
        valid = np.ones(pixels.shape[1:], bool)
        valid[:5] = False
        file.write_mask(valid)
    assert not list(tmp_path.glob("*.msk"))
    expected = np.where(valid, pixels, 0)
    np.testing.assert_array_equal(read_map(tmp_path / "x.tif", "S2L2A").array, expected)
    sample = one(tmp_path, "tif", (tmp_path / "x.tif").read_bytes(), "S2L2A")
    np.testing.assert_array_equal(sample.parts["S2L2A"], expected)


def scaled(path: Path, array: np.ndarray, scale: float, offset: float = 0.0) -> Path:
    write_tiff(path, array, nodata=-9999)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = [scale] * len(array), [offset] * len(array)
    return path


def test_scale_and_offset_are_applied(tmp_path: Path) -> None:
    stored = np.array([[[2500, -9999, -1000]]], np.int16)
    ndvi = read_map(scaled(tmp_path / "a.tif", stored, 1e-4), "NDVI").array
    np.testing.assert_array_equal(ndvi, np.array([[[0.25, np.nan, -0.1]]], np.float32))
    dem = read_map(scaled(tmp_path / "b.tif", stored, 2.0, 5.0), "DEM").array
    np.testing.assert_array_equal(dem, np.array([[[5005, -32768, -1995]]], np.int16))


def test_digital_numbers_are_stored_as_they_are(tmp_path: Path) -> None:
    pixels = tiny_array("S2L2A", 0)
    # A product says so that its numbers are reflectance x 10,000.
    found = read_map(scaled(tmp_path / "a.tif", pixels, 1e-4, -0.1), "S2L2A").array
    np.testing.assert_array_equal(found, pixels)


def test_a_scale_that_the_type_cannot_hold_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = scaled(tmp_path / "a.tif", np.array([[[2505, 3000]]], np.int16), 0.1)
    with pytest.raises(SampleError, match=r"fractions.*scale 0\.1 and offset 0.*gdal_edit\.py"):
        read_map(path, "DEM")


def test_a_member_of_other_bands_is_told(tmp_path: Path) -> None:
    data = tiff(tmp_path, np.ones((3, 4, 4), np.int16))
    told = one(tmp_path, "tif", data, "S1RTC").faults["S1RTC"]
    assert "S1RTC needs 2 bands (VV, VH), this file has 3" in told
