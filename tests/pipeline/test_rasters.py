"""Maps in files of any type: what was not measured is the registry's nodata, inside a file and beyond it."""

import numpy as np
import pytest
import rasterio

from configs.registry import modality
from pipeline.data.transforms import measured_pixels
from pipeline.generate.rasters import created, opened
from pipeline.generate.run import generate
from pipeline.transfer.run import transfer
from pipeline.transfer.saved import load_model
from pipeline.transfer.scene import predict_scene
from shards.errors import SampleError
from shards.sources.grid import grid_at
from tests.pipeline.test_scene import asked, run, s2, write_tif  # noqa: F401
from tests.transfer.test_run import made  # noqa: F401
from tests.transfer.worlds import CPU


def write(path, array, nodata=None, pixel=10.0):
    """A GeoTIFF, or .npy; gives its path."""
    if path.suffix == ".npy":
        np.save(path, array)
        return path
    write_tif(path, array, pixel=pixel)
    if nodata is not None:
        with rasterio.open(path, "r+") as file:
            file.nodata = nodata
    return path


@pytest.mark.parametrize("end", [".tif", ".npy"])
@pytest.mark.parametrize(
    ("name", "dtype", "nodata"),
    [
        ("DEM", np.uint16, 0),
        ("DEM", np.uint16, None),
        ("DEM", np.uint8, 7),
        ("DEM", np.int32, -99999),
        ("DEM", np.float32, np.nan),
        ("DEM", np.float64, -9999),
        ("Landsat", np.uint16, 0),
        ("Landsat", np.uint16, None),
        ("S2L2A", np.uint16, 65535),
        ("CHM", np.uint16, 65535),
        ("LULC", np.int16, -1),
        ("LULC", np.int64, None),
        ("LULC", np.uint8, 255),
    ],
)
def test_nodata_is_the_registry_s_in_files_of_any_type(tmp_path, name, dtype, nodata, end):
    row = modality(name)
    assert row.gsd_m is not None
    low, high = (1, 11) if row.kind == "classes" else (8, 200)
    values = np.random.default_rng(0).integers(low, high, (row.num_bands, 9, 11)).astype(dtype)
    there = np.ones((9, 11), dtype=bool)
    if nodata is not None and end == ".tif":
        values[:, 2:5, :4], there[2:5, :4] = nodata, False
    path = write(tmp_path / f"x{end}", values, nodata, row.gsd_m)
    with opened(path, row) as raster:
        found = raster.read(-3, 5, 20, 10)
        outside = raster.read(30, 30, 4, 4)
    wanted = np.zeros((20, 10), dtype=bool)
    wanted[3:12, :6] = there[:, 5:]
    assert np.array_equal(measured_pixels(found, row), wanted)
    assert np.array_equal(found[:, wanted], values[..., 5:][:, there[:, 5:]])
    assert not measured_pixels(outside, row).any()
    if row.kind == "classes":
        assert found.dtype == outside.dtype == np.uint8


def test_what_was_measured_need_not_fit_the_registry_s_type(tmp_path):
    row = modality("S2L2A")
    bright = np.full((12, 4, 4), 40_000, dtype=np.uint16)
    with opened(write(tmp_path / "x.tif", bright, 0), row) as raster:
        assert (raster.read(0, 0, 4, 4) == 40_000).all()


def test_values_that_are_no_classes_are_told(tmp_path):
    path = write(tmp_path / "x.tif", np.full((1, 4, 4), 300, dtype=np.int16))
    with (
        opened(path, modality("LULC")) as raster,
        pytest.raises(SampleError, match=r"x\.tif: values 300 .* do not fit into LULC's uint8"),
    ):
        raster.read(0, 0, 4, 4)


@pytest.fixture(scope="module")
def heights():
    """Of 61 x 71 px, no whole number of windows or of 60 m: heights, and where they were measured."""
    there = np.ones((1, 61, 71), dtype=bool)
    there[:, 10:30, 20:50] = False
    return np.random.default_rng(1).integers(1, 900, there.shape), there


def forms(folder, heights):
    """The same heights as signed with the registry's nodata, and as unsigned with 0."""
    values, there = heights
    signed = np.where(there, values, -32768).astype(np.int16)
    unsigned = np.where(there, values, 0).astype(np.uint16)
    return write(folder / "a.tif", signed, -32768), write(folder / "b.tif", unsigned, 0)


def test_generate_takes_unsigned_files_for_what_they_show(run, tmp_path, heights):  # noqa: F811
    found = []
    for number, path in enumerate(forms(tmp_path, heights)):
        config = asked(run, tmp_path / str(number), inputs={"DEM": str(path)})
        assert generate(config) == 0
        found.append((tmp_path / str(number) / "LULC.tif").read_bytes())
    # Without a value for nothing all is measured, but what lies beyond the edge.
    values = heights[0]
    for number, array in enumerate((values.astype(np.int16), values.astype(np.uint16))):
        path = write(tmp_path / f"all{number}.tif", array)
        generate(asked(run, tmp_path / f"all{number}", inputs={"DEM": str(path)}))
        found.append((tmp_path / f"all{number}" / "LULC.tif").read_bytes())
    assert found[0] == found[1]
    assert found[2] == found[3]


def test_predict_takes_unsigned_files_for_what_they_show(made, tmp_path, heights):  # noqa: F811
    config = made(keep_models=True)
    for path in (tmp_path / "data").glob("i*.tif"):
        with rasterio.open(path) as file:
            band = file.read()[3:].astype(np.int16)
        write(path, band)
    task = config.tasks["masks"].model_dump()
    task["data"]["images"] = {"image": {"modality": "DEM"}}
    task |= {"modality_map": {"DEM": "S1GRD"}, "band_map": {"DEM": {"VV": "elevation"}}}
    transfer(made(keep_models=True, tasks={"heights": task | {"statistics": "task"}}))
    (folder,) = (config.out / "models").iterdir()
    model, found = load_model(folder, CPU), []
    for number, path in enumerate(forms(tmp_path, heights)):
        predict_scene(model, {"DEM": path}, tmp_path / f"map{number}.tif")
        found.append((tmp_path / f"map{number}.tif").read_bytes())
    assert found[0] == found[1]
    with rasterio.open(tmp_path / "map1.tif") as file:
        assert ((file.read() != 255) == heights[1]).all()


@pytest.mark.parametrize("end", [".tif", ".npy"])
def test_of_a_map_that_is_not_finished_nothing_is_left(tmp_path, end):
    grid, row = grid_at(None, None, 20, 20, 10.0), modality("DEM")

    def work() -> None:
        with created(tmp_path / f"x{end}", row, grid, 1, "float32", None) as file:
            file.write(np.zeros((1, 4, 20), dtype=np.float32), 0)
            raise SampleError

    with pytest.raises(SampleError):
        work()
    assert not list(tmp_path.iterdir())
