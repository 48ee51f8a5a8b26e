"""GeoTIFFs named by a table, windows of large scenes among them."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from configs.schema import GeoTiffListSourceConfig
from shards.build import build
from shards.dataset import open_dataset
from shards.errors import SampleError, SourceError
from shards.sample import Sample, checked
from shards.sources.base import refs_of
from shards.sources.geotiff_list import GeoTiffListSource
from shards.verify import verify
from tests.shards.helpers import PX, source_config, tiny_array, write_tiff

WINDOW = ("row_off", "col_off", "height", "width")


def write_table(path: Path, columns: dict[str, list[Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    else:
        rows = [",".join(columns)]
        rows += [
            ",".join("" if value is None else str(value) for value in row)
            for row in zip(*columns.values(), strict=True)
        ]
        path.write_text("\n".join(rows) + "\n")
    return path


def source_of(table: Path, columns: dict[str, str], **options: Any) -> GeoTiffListSource:
    return GeoTiffListSource(GeoTiffListSourceConfig(table=table, columns=columns, **options))


def samples_of(source: GeoTiffListSource) -> list[Sample]:
    return [checked(source.read(ref), source.rows) for ref in refs_of(source.listing())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three places with heights, two of them with optical bands."""
    for i in range(3):
        east_m = 300_000.0 + 30_000 * i
        tags = {"date": "2011-02-03"} if i == 2 else None
        write_tiff(tmp_path / "dem" / f"{i}.tif", tiny_array("DEM", i), east_m=east_m, tags=tags)
        if i:
            tags = {"datetime": f"2021-07-2{i}"}
            path = tmp_path / "s2" / f"{i}.tif"
            write_tiff(path, tiny_array("S2L2A", i), east_m=east_m, tags=tags)
    return tmp_path


COLUMNS = {"optical": "S2L2A", "heights": "DEM"}


def table_of(folder: Path, suffix: str = ".csv", **more: list[Any]) -> Path:
    columns: dict[str, list[Any]] = {
        "key": ["007", "b.1", "c"],
        "heights": [f"dem/{i}.tif" for i in range(3)],
        "note": ["not", "used", "here"],
        "optical": [None, "s2/1.tif", "s2/2.tif"],
    }
    return write_table(folder / f"table{suffix}", columns | more)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_row_is_a_sample_and_an_empty_cell_a_missing_modality(folder: Path, suffix: str) -> None:
    source = source_of(table_of(folder, suffix), COLUMNS)
    assert list(source.rows) == ["S2L2A", "DEM", "coordinates", "date"]
    samples = samples_of(source)
    assert [sample.key for sample in samples] == ["007", "b%2E1", "c"]
    assert [set(sample.parts) for sample in samples] == [
        {"DEM", "coordinates"},
        {"S2L2A", "DEM", "coordinates", "date"},
        {"S2L2A", "DEM", "coordinates", "date"},
    ]
    np.testing.assert_array_equal(samples[2].parts["S2L2A"], tiny_array("S2L2A", 2))
    assert samples[1].meta.times == {"S2L2A": "2021-07-21"}
    assert "split" not in source.listing().column_names
    for sample, ref in zip(samples, refs_of(source.listing()), strict=True):
        assert (sample.meta.lon, sample.meta.lat) == (ref.lon, ref.lat)


def test_keys_of_digits_stay_texts(folder: Path) -> None:
    table = table_of(folder, key=["007", "012", "100"])
    assert [sample.key for sample in samples_of(source_of(table, COLUMNS))] == ["007", "012", "100"]


def test_paths_are_relative_to_the_root(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("tables")
    table = elsewhere / "table.csv"
    table_of(folder).rename(table)
    first, *_ = samples_of(source_of(table, COLUMNS, root=folder))
    np.testing.assert_array_equal(first.parts["DEM"], tiny_array("DEM", 0))


def test_a_file_that_is_not_there_is_a_fault(folder: Path) -> None:
    table = table_of(folder)
    (folder / "s2" / "1.tif").unlink()
    _, second, _ = samples_of(source_of(table, COLUMNS))
    assert re.search(r"s2/1\.tif", second.faults["S2L2A"])
    assert "DEM" in second.parts


def test_places_and_days_may_come_from_the_table(folder: Path) -> None:
    table = table_of(
        folder,
        east=[1.5, 2.5, None],
        north=[40, 41, 42],
        day=["2020-01-02", "2020-01-03T10:00:00", None],
    )
    source = source_of(table, COLUMNS, lon="east", lat="north", date="day")
    refs = refs_of(source.listing())
    assert [(ref.lon, ref.lat) for ref in refs] == [(1.5, 40.0), (2.5, 41.0), (None, 42.0)]
    first, second, third = samples_of(source)
    assert (first.meta.lon, first.meta.lat) == (1.5, 40.0)
    assert np.asarray(second.parts["coordinates"]).tolist() == [2.5, 41.0]
    assert (first.parts["date"], first.meta.times) == ("2020-01-02", {"DEM": "2020-01-02"})
    assert (second.parts["date"], second.meta.times) == ("2020-01-03", {"S2L2A": "2020-01-03"})
    # Where the table says nothing, nothing is said: the tags' day could be of another acquisition.
    assert not {"coordinates", "date"} & set(third.parts)


def test_a_day_that_is_none_spoils_its_sample(folder: Path) -> None:
    source = source_of(table_of(folder, day=["soon", None, None]), COLUMNS, date="day")
    with pytest.raises(SampleError, match=r"table\.csv: row 1: 'soon' is no day"):
        source.read(refs_of(source.listing())[0])


def test_splits_are_those_of_the_table(folder: Path) -> None:
    table = table_of(folder, part=["train", "val", "train"])
    listing = source_of(table, COLUMNS, split="part").listing()
    assert listing.column("split").to_pylist() == ["train", "val", "train"]


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Two scenes of 4 x 4 windows of PX, with Landsat on its 30 m."""
    side = 4 * PX
    for s in range(2):
        rng = np.random.default_rng(s)
        for name, shape, pixel_m in (
            ("dem", (1, side, side), 10.0),
            ("ls", (7, side // 3, side // 3), 30.0),
        ):
            array = rng.integers(1, 3000, shape).astype(np.int16)
            np.save(tmp_path / f"{name}{s}.npy", array)
            path = tmp_path / f"{name}{s}.tif"
            write_tiff(path, array, east_m=300_000.0 + 50_000 * s, pixel_m=pixel_m)
    return tmp_path


def windows_table(scenes: Path, windows: list[tuple[int, int, int, int, int]]) -> Path:
    """Rows of (scene, row_off, col_off, height, width)."""
    columns: dict[str, list[Any]] = {
        "key": [f"w{i}" for i in range(len(windows))],
        "dem": [f"dem{w[0]}.tif" for w in windows],
        "ls": [f"ls{w[0]}.tif" for w in windows],
    }
    columns |= {name: [w[i + 1] for w in windows] for i, name in enumerate(WINDOW)}
    return write_table(scenes / "windows.csv", columns)


BOTH = {"dem": "DEM", "ls": "Landsat"}


def test_windows_cut_every_modality_at_the_same_place(scenes: Path) -> None:
    windows = [(0, 0, 0, PX, PX), (1, PX, 2 * PX, PX, PX), (0, 3, 6, 9, 12)]
    source = source_of(windows_table(scenes, windows), BOTH, window=WINDOW)
    listing = source.listing()
    for (s, row, col, height, width), sample in zip(windows, samples_of(source), strict=True):
        assert not sample.faults
        dem, landsat = np.load(scenes / f"dem{s}.npy"), np.load(scenes / f"ls{s}.npy")
        expected = dem[:, row : row + height, col : col + width]
        np.testing.assert_array_equal(sample.parts["DEM"], expected)
        coarse = landsat[:, row // 3 : (row + height) // 3, col // 3 : (col + width) // 3]
        np.testing.assert_array_equal(sample.parts["Landsat"], coarse)
        left, top = 300_000 + 50_000 * s + 10 * col, 5_000_000 - 10 * row
        assert sample.meta.transform == (10, 0, left, 0, -10, top)
    # Windows of one scene stay side by side.
    blocks = listing.column("block").to_pylist()
    assert blocks[0] == blocks[2] != blocks[1]


def test_the_centre_of_a_window_is_its_own(scenes: Path) -> None:
    windows = [(0, 0, 0, PX, PX), (0, 2 * PX, 0, PX, PX)]
    source = source_of(windows_table(scenes, windows), BOTH, window=WINDOW)
    (lon_a, lat_a), (lon_b, lat_b) = [(s.meta.lon, s.meta.lat) for s in samples_of(source)]
    assert lat_a is not None
    assert lat_b is not None
    # 480 m to the south, at 111.1 km a degree.
    assert lat_a - lat_b == pytest.approx(0.48 / 111.1, rel=0.01)
    assert lon_a == pytest.approx(lon_b, abs=2e-4)


@pytest.mark.parametrize(
    ("window", "told"),
    [
        ((0, 3 * PX, 3 * PX, PX + 3, PX), "does not lie in the 96 x 96 pixels"),
        ((0, -3, 0, PX, PX), "does not lie in"),
        ((0, 0, 0, 0, PX), "does not lie in"),
    ],
)
def test_a_window_beyond_its_file_is_told(
    scenes: Path, window: tuple[int, int, int, int, int], told: str
) -> None:
    source = source_of(windows_table(scenes, [window]), {"dem": "DEM"}, window=WINDOW)
    with pytest.raises(SampleError, match=rf"dem0\.tif: the window .* {told}"):
        source.read(refs_of(source.listing())[0])


def test_a_window_between_coarse_pixels_is_a_fault_of_those(scenes: Path) -> None:
    table = windows_table(scenes, [(0, 0, 0, PX, PX - 1)])
    (sample,) = samples_of(source_of(table, BOTH, window=WINDOW))
    assert "does not fall on whole pixels of Landsat's 30 m" in sample.faults["Landsat"]
    assert np.asarray(sample.parts["DEM"]).shape == (1, PX, PX - 1)


@pytest.mark.parametrize(
    ("options", "more", "told"),
    [
        ({"key": "id"}, {}, r"has no column id; it has key, heights, note, optical"),
        ({"split": "part"}, {"part": ["a", None, "b"]}, "row 2 has no part; complete it or remove"),
        ({}, {"key": ["a", "b", None]}, "row 3 has no key"),
        ({}, {"heights": [None] * 3}, "row 1 has no file"),
        ({"window": WINDOW}, {name: [0, None, 2] for name in WINDOW}, "row 2 has no row_off"),
        ({"lon": "a", "lat": "b"}, {"a": ["x"] * 3, "b": ["y"] * 3}, "not readable as a table"),
        ({"columns": {"note": "captions"}}, {}, "captions is no map"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(
    folder: Path, options: dict[str, Any], more: Any, told: str
) -> None:
    with pytest.raises(SourceError, match=told):
        source_of(table_of(folder, **more), **({"columns": COLUMNS} | options)).listing()


def test_a_table_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no such table; write source\.table=FILE"):
        source_of(tmp_path / "none.csv", COLUMNS)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(SourceError, match="not readable as a table"):
        source_of(tmp_path / "bad.parquet", COLUMNS).listing()


def test_a_wrong_band_count_ends_the_listing(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"dem/0\.tif: S2L2A needs 12 bands"):
        source_of(table_of(folder), {"heights": "S2L2A"}).listing()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"columns": {}}, "columns is empty"),
        ({"columns": {"a": "DEM", "b": "DEM"}}, "names a modality twice"),
        ({"columns": {"a": "DEM"}, "lon": "x"}, "give both or neither"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(source: Any, told: str) -> None:
    values = {"type": "geotiff_list", "table": "t.csv", **source}
    with pytest.raises(ConfigError, match=told):
        parse_config({"kind": "shards", "out": "x", "source": values})


def test_the_fingerprint_follows_table_files_and_options(folder: Path) -> None:
    table = table_of(folder)
    before = source_of(table, COLUMNS).fingerprint()
    assert before == source_of(table, COLUMNS).fingerprint()
    assert before != source_of(table, {"heights": "DEM"}).fingerprint()
    write_tiff(folder / "dem" / "0.tif", np.ones((1, 3, 3), np.int16))
    after = source_of(table, COLUMNS).fingerprint()
    assert after != before
    table.write_text(table.read_text().replace("007", "008"))
    assert source_of(table, COLUMNS).fingerprint() != after


def test_a_build_holds_what_the_files_held(scenes: Path, tmp_path: Path) -> None:
    windows = [(s, r * PX, c * PX, PX, PX) for s in range(2) for r in range(2) for c in range(3)]
    table = windows_table(scenes, windows)
    source = {"type": "geotiff_list", "table": str(table), "columns": BOTH, "window": list(WINDOW)}
    config = source_config(source, tmp_path / "out", splits={"train": 0.5, "val": 0.5})
    result = build(config, quiet=True)
    assert result is not None
    assert (result.num_samples, result.num_quarantined) == (12, 0)
    report = verify(tmp_path / "out")
    assert report.ok, report.errors
    dataset = open_dataset(tmp_path / "out")
    assert [len(dataset.select(split)) for split in ("train", "val")] == [6, 6]
    for i, key in enumerate(dataset.keys):
        s, row, col, height, width = windows[int(key[1:])]
        expected = np.load(scenes / f"dem{s}.npy")[:, row : row + height, col : col + width]
        np.testing.assert_array_equal(dataset.read(i, ["DEM"])["DEM"], expected)
