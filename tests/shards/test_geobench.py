"""GEO-Bench v1: bands, dates, places and splits, against tiny twins and against a real sample."""

import datetime
import os
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from configs.registry import modality
from shards.build import build
from shards.dataset import open_dataset
from shards.errors import SampleError, SourceError
from shards.sample import checked
from shards.sources.base import refs_of
from shards.verify import verify
from tests.real import real_samples
from tests.shards.geobench_twin import (
    LANDSAT,
    NO_CIRRUS,
    PX,
    S2,
    Band,
    array,
    one,
    only_sample,
    optical,
    source_of,
    write_sample,
    write_task,
)
from tests.shards.helpers import source_config


def test_thirteen_sentinel2_bands_are_l1c_in_the_registrys_order(tmp_path: Path) -> None:
    bands = optical(S2)
    sample = only_sample(one(tmp_path, list(reversed(bands))))
    assert set(sample.parts) == {"S2L1C", "label"}
    np.testing.assert_array_equal(array(sample, "S2L1C"), np.stack([b.data for b in bands]))
    assert modality("S2L1C").bands[8:11] == ("B8A", "B09", "B10")


def test_twelve_without_cirrus_are_l2a_whatever_type_holds_them(tmp_path: Path) -> None:
    bands = optical(NO_CIRRUS, dtype="float32")
    sample = only_sample(one(tmp_path, bands))
    assert array(sample, "S2L2A").dtype == np.int16
    np.testing.assert_array_equal(array(sample, "S2L2A"), np.stack([b.data for b in bands]))


def test_the_configuration_may_say_otherwise_and_nothing_is_lost(tmp_path: Path) -> None:
    bands = optical(S2)
    sample = only_sample(one(tmp_path, bands), modality_map={"Sentinel2": "S2L2A"})
    assert set(sample.parts) == {"S2L2A", "Sentinel2", "label"}
    np.testing.assert_array_equal(array(sample, "Sentinel2")[0], bands[10].data)
    np.testing.assert_array_equal(array(sample, "S2L2A")[10], bands[11].data)


@pytest.mark.parametrize("names", [S2[1:9] + S2[-2:], (*S2, "13 - Another")])
def test_other_sets_of_sentinel2_bands_stay_as_they_are(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    bands = optical(names, dtype="float32")
    folder = one(tmp_path, bands)
    assert source_of(folder).rows["Sentinel2"].bands == names
    sample = only_sample(folder)
    assert set(sample.parts) == {"Sentinel2", "label"}
    np.testing.assert_array_equal(array(sample, "Sentinel2"), np.stack([b.data for b in bands]))


def test_landsat_is_taken_where_the_configuration_says_so(tmp_path: Path) -> None:
    names = (*LANDSAT, "07 - SWIR2")
    bands = [Band(n, np.full((PX, PX), i + 1, np.int16), "Landsat8") for i, n in enumerate(names)]
    folder = one(tmp_path, bands)
    assert set(only_sample(folder).parts) == {"Landsat8", "label"}
    sample = only_sample(folder, modality_map={"Landsat8": "Landsat"})
    assert array(sample, "Landsat")[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_a_map_to_what_the_bands_cannot_fill_is_told(tmp_path: Path) -> None:
    folder = one(tmp_path, [Band(n, np.ones((2, 2), np.int16), "Landsat8") for n in LANDSAT])
    with pytest.raises(SourceError, match="Landsat8 has no B7 for Landsat"):
        _ = source_of(folder, modality_map={"Landsat8": "Landsat"}).rows


def test_other_band_sets_make_rows_of_their_own(tmp_path: Path) -> None:
    rgb = [
        Band(n, np.full((20, 20), i, np.uint8), "SpectralBand", gsd_m=0.1)
        for i, n in enumerate(("Red", "Green", "Blue"))
    ]
    canopy = Band("Canopy Height Model", np.full((2, 2, 1), 1.5), "ElevationBand", gsd_m=1)
    spectra = np.arange(2 * 2 * 5, dtype=np.int16).reshape(2, 2, 5)
    neon = Band("Neon", spectra, "HyperSpectralBands", gsd_m=1)
    source = source_of(one(tmp_path, [*rgb, canopy, neon]))
    own = [name for name in source.rows if name not in ("coordinates", "date")]
    assert own == ["image", "ElevationBand", "HyperSpectralBands", "label"]
    image = source.rows["image"]
    assert (image.bands, image.dtype, image.gsd_m) == (("Red", "Green", "Blue"), "uint8", 0.1)
    assert image.display.bands == image.bands
    assert source.rows["ElevationBand"].dtype == "float64"
    assert source.rows["HyperSpectralBands"].bands[-1] == "Neon 005"
    sample = source.read(refs_of(source.listing())[0])
    assert array(sample, "ElevationBand").shape == (1, 2, 2)
    np.testing.assert_array_equal(array(sample, "HyperSpectralBands")[3], spectra[:, :, 3])


def test_a_type_the_registry_lacks_becomes_one_that_holds_it(tmp_path: Path) -> None:
    bands = [Band(n, np.full((2, 2), 70000, np.int32), "SpectralBand") for n in ("a", "b")]
    sample = only_sample(one(tmp_path, bands))
    assert array(sample, "image").dtype == np.float64
    assert (array(sample, "image") == 70000).all()


@pytest.mark.parametrize(("dates", "year"), [("last", 2021), ("first", 2019)])
def test_of_a_time_series_one_date_is_taken(tmp_path: Path, dates: str, year: int) -> None:
    days = [datetime.date(y, 5, 11) for y in (2020, 2021, 2019)]
    bands = [
        Band(name, np.full((PX, PX), day.year, np.int16), date=day) for day in days for name in S2
    ]
    sample = only_sample(one(tmp_path, bands), dates=dates)
    assert (array(sample, "S2L1C") == year).all()
    assert sample.meta.times == {"S2L1C": f"{year}-05-11"}
    assert sample.parts["date"] == f"{year}-05-11"


def test_georeferencing_becomes_coordinates(tmp_path: Path) -> None:
    write_task(tmp_path, {"train": ["id_0"]})
    write_sample(tmp_path / "id_0.hdf5", optical(S2), 0, east_m=500_000)
    source = source_of(tmp_path)
    (ref,) = refs_of(source.listing())
    sample = source.read(ref)
    assert sample.meta.crs == "EPSG:32633"
    assert sample.meta.transform == (10, 0, 500_000, 0, -10, 5_000_000)
    assert sample.meta.lon == ref.lon == pytest.approx(15.0004, abs=1e-4)
    assert sample.meta.lat == ref.lat == pytest.approx(45.1532, abs=2e-3)
    assert array(sample, "coordinates").tolist() == [sample.meta.lon, sample.meta.lat]


def test_splits_are_the_benchmarks_in_its_order(tmp_path: Path) -> None:
    splits = {"test": ["z", "a.b"], "train": ["m", "c"], "valid": ["b"]}
    write_task(tmp_path, splits)
    for name in ("z", "a.b", "m", "c", "b"):
        write_sample(tmp_path / f"{name}.hdf5", optical(S2), 0)
    listing = source_of(tmp_path).listing()
    assert listing.column("key").to_pylist() == ["m", "c", "b", "z", "a%2Eb"]
    assert listing.column("split").to_pylist() == ["train", "train", "val", "test", "test"]
    source = source_of(tmp_path)
    assert source.read(refs_of(listing)[4]).key == "a%2Eb"


def test_an_unknown_partition_names_those_there_are(tmp_path: Path) -> None:
    folder = one(tmp_path, optical(S2))
    with pytest.raises(SourceError, match=r"1x_partition\.json: no such partition.*\['default'\]"):
        source_of(folder, partition="1x").listing()
    (folder / "1x_partition.json").write_text('{"train": []}')
    with pytest.raises(SourceError, match=r"1x_partition\.json: not a partition of GEO-Bench"):
        source_of(folder, partition="1x").listing()


def test_the_partition_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    folder = one(tmp_path, optical(S2))
    before = source_of(folder).fingerprint()
    assert before == source_of(folder).fingerprint()
    write_task(folder, {"valid": ["id_0"]})
    assert source_of(folder).fingerprint() != before


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def test_attributes_that_run_code_spoil_their_sample_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = one(tmp_path / "task", optical(S2))
    write_task(folder, {"train": ["id_0", "evil"]})
    write_sample(folder / "evil.hdf5", optical(S2), 0)
    with h5py.File(folder / "evil.hdf5", "a") as file:
        file.attrs["pickle"] = str(pickle.dumps({"label": 1, "04 - Red": Evil()}))
    monkeypatch.chdir(tmp_path)
    source = source_of(folder)
    with pytest.raises(SampleError, match=r"evil\.hdf5: its attributes.*names posix\.system"):
        source.read(refs_of(source.listing())[1])
    (folder / "task_specs.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(SourceError, match=r"task_specs\.pkl: it names posix\.system"):
        _ = source_of(folder).rows
    assert source_of(folder, num_classes=3).rows["label"].num_bands == 3
    assert not (tmp_path / "ran").exists()


def test_a_sample_that_differs_from_the_first_is_told(tmp_path: Path) -> None:
    folder = one(tmp_path, optical(S2))
    write_task(folder, {"train": ["id_0", "few", "none", "sizes"]})
    write_sample(folder / "few.hdf5", optical(S2[:-1]), 0)
    write_sample(folder / "none.hdf5", [], 0)
    odd = optical(S2)
    odd[3].data = odd[3].data[:-1]
    write_sample(folder / "sizes.hdf5", odd, 0)
    source = source_of(folder)
    _, few, none, sizes = [source.read(ref) for ref in refs_of(source.listing())]
    assert "lacks 12 - SWIR of S2L1C's bands" in few.faults["S2L1C"]
    assert not none.faults
    assert set(none.parts) == {"label"}
    assert "make no image" in sizes.faults["S2L1C"]


def test_a_task_that_is_not_there_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no such folder; write source\.path=FOLDER"):
        source_of(tmp_path / "nowhere")
    write_task(tmp_path, {"train": ["id_0"]})
    with pytest.raises(SourceError, match=r"none of the 1 samples.*id_0\.hdf5: no such file"):
        _ = source_of(tmp_path).rows


def test_a_build_holds_what_the_files_held_and_leaves_out_a_cut_one(tmp_path: Path) -> None:
    folder = tmp_path / "m-tiny"
    names = [f"id_{i}" for i in range(8)]
    write_task(folder, {"train": names[:4], "valid": names[4:6], "test": names[6:]})
    for i, name in enumerate(names):
        # Far enough from each other to lie in cells of their own.
        write_sample(folder / f"{name}.hdf5", optical(S2, i), i % 3, east_m=300_000 + 50_000.0 * i)
    cut = folder / "id_5.hdf5"
    cut.write_bytes(cut.read_bytes()[:1000])
    source: dict[str, object] = {"type": "geobench", "path": str(folder)}
    config = source_config(source, tmp_path / "out", splits="source", max_bad=1)
    result = build(config, quiet=True)
    assert result is not None
    assert (result.num_samples, result.num_quarantined) == (7, 1)
    quarantined = (tmp_path / "out" / "quarantine.jsonl").read_text()
    assert "id_5.hdf5: not readable as HDF5" in quarantined
    report = verify(tmp_path / "out")
    assert report.ok, report.errors
    dataset = open_dataset(tmp_path / "out")
    assert [len(dataset.select(split)) for split in ("train", "val", "test")] == [4, 1, 2]
    for i, key in enumerate(dataset.keys):
        number = int(key[3:])
        parts = dataset.read(i, ["S2L1C", "label"])
        expected = np.stack([band.data for band in optical(S2, number)])
        np.testing.assert_array_equal(parts["S2L1C"], expected)
        assert np.flatnonzero(parts["label"]).tolist() == [number % 3]
    assert dataset.modalities["label"].bands == ("forest", "river", "field")


def test_a_real_sample_is_read_as_described() -> None:
    folder = real_samples("geobench", "classification_v1.0", "m-eurosat")
    source = source_of(folder, partition="0.01x_train")
    listing = source.listing()
    assert listing.num_rows == 2020
    ref = next(ref for ref in refs_of(listing.slice(0, 20)) if ref.key == "id_1905")
    sample = source.read(ref)
    assert checked(sample, source.rows) == sample
    assert set(sample.parts) == {"S2L1C", "coordinates", "label"}
    with h5py.File(folder / "id_1905.hdf5") as file:
        stored = np.stack([np.asarray(file[name]) for name in S2])
    np.testing.assert_array_equal(array(sample, "S2L1C"), stored)
    label = source.rows["label"]
    assert label.bands[int(np.argmax(array(sample, "label")))] == "Residential Buildings"
    assert sample.meta.crs == "EPSG:32635"
    # In Romania, by the Black Sea.
    assert (sample.meta.lon, sample.meta.lat) == (
        pytest.approx(28.56, abs=0.01),
        pytest.approx(44.04, abs=0.01),
    )
