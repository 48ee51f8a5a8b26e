import warnings
from pathlib import Path

import numpy as np
import pytest

from configs.schema import GeoTiffSourceConfig
from shards.errors import SampleError, SourceError
from shards.sample import Sample, checked
from shards.sources.base import refs_of
from shards.sources.convert import invalid_pixels
from shards.sources.geotiff import GeoTiffSource
from tests.real import real_samples
from tests.shards.helpers import PX, tiny_array, write_tiff


def source_of(folder: Path, *modalities: str) -> GeoTiffSource:
    return GeoTiffSource(GeoTiffSourceConfig(path=folder, modalities=modalities))


def only_sample(folder: Path) -> Sample:
    source = source_of(folder)
    (ref,) = refs_of(source.listing())
    return source.read(ref)


def test_a_sample_is_an_id_found_in_any_folder(collection: Path) -> None:
    source = source_of(collection)
    assert tuple(source.rows) == ("S2L2A", "S1RTC", "DEM", "LULC", "coordinates", "date")
    refs = refs_of(source.listing())
    assert [ref.key for ref in refs] == [f"place{i}" for i in range(10)]
    sample = source.read(refs[9])
    assert set(sample.parts) == {"S2L2A", "DEM", "coordinates", "date"}
    assert sample.meta.times == {"S2L2A": "2021-07-23"}


def test_folders_of_further_dates_are_parts_of_their_own_with_their_days(tmp_path: Path) -> None:
    pixels = tiny_array("S2L2A", 0)
    for name, day in (("S2L2A", "2021-07-23"), ("S2L2A_t1", "2021-12-01")):
        write_tiff(tmp_path / name / "a.tif", pixels, tags={"datetime": f"{day}T13:22:41"})
    sample = only_sample(tmp_path)
    assert set(sample.parts) == {"S2L2A", "S2L2A_t1", "coordinates", "date"}
    assert sample.meta.times == {"S2L2A": "2021-07-23", "S2L2A_t1": "2021-12-01"}
    assert sample.parts["date"] == "2021-07-23"


def test_georeferencing_becomes_coordinates_and_a_10_m_transform(tmp_path: Path) -> None:
    landsat = np.ones((7, PX // 3, PX // 3), np.int16)
    write_tiff(tmp_path / "Landsat" / "a.tif", landsat, pixel_m=30.0)
    write_tiff(tmp_path / "DEM" / "a.tif", tiny_array("DEM", 0))
    source = source_of(tmp_path)
    (ref,) = refs_of(source.listing())
    sample = source.read(ref)
    assert sample.meta.crs == "EPSG:32633"
    assert sample.meta.transform == (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0)
    # 500 km east is the central meridian of zone 33; 5000 km north is about 45.15 degrees.
    assert (ref.lon, ref.lat) == (sample.meta.lon, sample.meta.lat)
    assert sample.meta.lon == pytest.approx(15.0015, abs=1e-4)
    assert sample.meta.lat == pytest.approx(45.1524, abs=2e-3)
    assert np.asarray(sample.parts["coordinates"]).tolist() == [sample.meta.lon, sample.meta.lat]


def test_a_file_without_georeferencing_is_a_sample_without_coordinates(tmp_path: Path) -> None:
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        import rasterio

        (tmp_path / "DEM").mkdir()
        profile = {"count": 1, "height": 4, "width": 4, "dtype": "int16"}
        with rasterio.open(tmp_path / "DEM" / "a.tif", "w", driver="GTiff", **profile) as file:
            file.write(np.ones((1, 4, 4), np.int16))
    sample = only_sample(tmp_path)
    assert set(sample.parts) == {"DEM"}
    assert (sample.meta.lon, sample.meta.crs, sample.meta.transform) == (None, None, None)


def test_dots_in_an_id_are_escaped(tmp_path: Path) -> None:
    write_tiff(tmp_path / "DEM" / "tile.v1.tif", tiny_array("DEM", 0))
    assert only_sample(tmp_path).key == "tile%2Ev1"


def test_a_missing_folder_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no such folder; write source\.path=FOLDER"):
        source_of(tmp_path / "nowhere")


def test_a_folder_without_known_modalities_names_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "Sentinel2").mkdir()
    with (
        pytest.warns(UserWarning, match="left out Sentinel2"),
        pytest.raises(SourceError, match=r"no folder named after.*S2L2A.*found Sentinel2"),
    ):
        source_of(tmp_path).listing()


def test_an_asked_for_modality_without_a_folder_is_told(collection: Path) -> None:
    with pytest.raises(SourceError, match="has no folder NDVI"):
        source_of(collection, "S2L2A", "NDVI").listing()


def test_only_the_modalities_asked_for_are_read(collection: Path) -> None:
    source = source_of(collection, "DEM", "date")
    assert tuple(source.rows) == ("DEM", "date")
    assert set(source.read(refs_of(source.listing())[1]).parts) == {"DEM"}
    assert source.fingerprint() != source_of(collection).fingerprint()


def test_a_wrong_band_count_ends_the_listing(tmp_path: Path) -> None:
    write_tiff(tmp_path / "S2L2A" / "a.tif", np.ones((13, 8, 8), np.int16))
    told = r"S2L2A/a\.tif: S2L2A needs 12 bands \(B01, .*\), this file has 13"
    with pytest.raises(SourceError, match=told):
        source_of(tmp_path).listing()


def test_a_wrong_band_count_later_spoils_one_sample(tmp_path: Path) -> None:
    write_tiff(tmp_path / "DEM" / "a.tif", tiny_array("DEM", 0))
    write_tiff(tmp_path / "DEM" / "b.tif", np.ones((2, 8, 8), np.int16))
    source = source_of(tmp_path)
    first, second = refs_of(source.listing())
    source.read(first)
    with pytest.raises(SampleError, match=r"DEM/b\.tif: DEM needs 1 bands \(elevation\)"):
        source.read(second)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"east_m": 500020.0}, "bounds 20 apart"),
        ({"crs": "EPSG:32634"}, "CRS EPSG:32633 and EPSG:32634"),
    ],
)
def test_maps_of_different_places_are_no_sample(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    write_tiff(tmp_path / "DEM" / "a.tif", tiny_array("DEM", 0))
    write_tiff(tmp_path / "LULC" / "a.tif", tiny_array("LULC", 0), **change)  # pyright: ignore
    with pytest.raises(SampleError, match=f"do not show the same place: {told}"):
        only_sample(tmp_path)


def test_maps_of_different_sizes_are_no_sample(tmp_path: Path) -> None:
    write_tiff(tmp_path / "DEM" / "a.tif", tiny_array("DEM", 0))
    write_tiff(tmp_path / "LULC" / "a.tif", tiny_array("LULC", 0)[:, :-1])
    with pytest.raises(SampleError, match="24 x 24 and 23 x 24 pixels of 10 m"):
        only_sample(tmp_path)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.full((1, 4, 4), 40000, np.uint16), "40000 .. 40000 do not fit into DEM's int16"),
        (np.full((1, 4, 4), 1.5, np.float64), "fractions"),
    ],
)
def test_values_that_would_be_lost_are_refused(
    tmp_path: Path, values: np.ndarray, told: str
) -> None:
    write_tiff(tmp_path / "DEM" / "a.tif", values)
    with pytest.raises(SampleError, match=told):
        only_sample(tmp_path)


def test_values_that_fit_are_converted(tmp_path: Path) -> None:
    write_tiff(tmp_path / "DEM" / "a.tif", np.full((1, 4, 4), 700.0, np.float64))
    ndvi = np.array([[[0.25, -9.0]]], np.float64)
    write_tiff(tmp_path / "NDVI" / "b.tif", ndvi, nodata=-9.0)
    source = source_of(tmp_path)
    dem, other = (source.read(ref).parts for ref in refs_of(source.listing()))
    assert np.asarray(dem["DEM"]).dtype == np.int16
    np.testing.assert_array_equal(other["NDVI"], np.array([[[0.25, np.nan]]], np.float32))


def test_a_nodata_value_the_type_cannot_hold_marks_nothing() -> None:
    pixels = np.array([[[1, 2]]], np.int16)
    invalid = invalid_pixels(pixels, -99999.0)
    assert invalid is not None
    assert not invalid.any()


def test_a_cut_file_spoils_one_sample(tmp_path: Path) -> None:
    for name in "ab":
        write_tiff(tmp_path / "DEM" / f"{name}.tif", tiny_array("DEM", 0))
    path = tmp_path / "DEM" / "b.tif"
    path.write_bytes(path.read_bytes()[:600])
    source = source_of(tmp_path)
    _, second = refs_of(source.listing())
    with pytest.raises(SampleError, match=r"DEM/b\.tif"):
        source.read(second)


def test_real_terramesh_samples_are_read_as_described() -> None:
    source = source_of(real_samples("terramesh_samples"))
    refs = refs_of(source.listing())
    assert [ref.key for ref in refs] == ["282D_485L_3_3", "38D_378R_2_3", "433D_629L_3_1"]
    sample = source.read(refs[0])
    assert checked(sample, source.rows) == sample
    assert sample.parts["date"] == "2021-07-23"
    assert sample.meta.times["S1RTC"] == "2021-07-21"
    assert (sample.meta.crs, round(sample.meta.lon or 0, 3)) == ("EPSG:32722", -48.106)
    optical = np.asarray(sample.parts["S2L2A"])
    assert (optical.min(), optical.max()) == (1, 6431)
    red, nir = optical[3].astype(np.float64), optical[7].astype(np.float64)
    # The files hold NDVI with the eleven bits of a half.
    np.testing.assert_allclose(
        np.asarray(sample.parts["NDVI"])[0], (nir - red) / (nir + red), atol=5e-4
    )
