import datetime
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from configs.schema import ShardsConfig, Ssl4eoSourceConfig
from shards.build import build
from shards.dataset import open_dataset
from shards.errors import SampleError, SourceError
from shards.sample import Sample, checked
from shards.sources import zarrzip
from shards.sources.base import refs_of
from shards.sources.ssl4eo import Ssl4eoSource
from shards.verify import verify
from tests.shards.zarr_twins import (
    PLACES,
    PX,
    make_ssl4eo,
    pixels,
    place_of,
    ssl4eo_name,
    ssl4eo_variables,
    write_ssl4eo,
    zarr_zip,
)

TRAIN, VAL = ssl4eo_name("train", 1), ssl4eo_name("val", 1)
MAPS = ("S2L1C", "S2L2A", "S2RGB", "S1GRD")


@pytest.fixture(scope="session")
def ssl4eo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ssl4eo(tmp_path_factory.mktemp("ssl4eo"))


@pytest.fixture
def own(ssl4eo: Path, tmp_path: Path) -> Path:
    """A collection to be damaged."""
    return Path(shutil.copytree(ssl4eo, tmp_path / "own"))


def source_of(folder: Path, **options: Any) -> Ssl4eoSource:
    return Ssl4eoSource(Ssl4eoSourceConfig(path=folder, **options))


def samples_of(source: Ssl4eoSource) -> dict[str, Sample]:
    return {ref.key: source.read(ref) for ref in refs_of(source.listing())}


def expected(name: str, key: str) -> np.ndarray:
    place, season = key.split("_")
    raw = pixels(name, 10 * PLACES.index(place) + int(season))
    return raw.astype(np.float32) if raw.dtype == np.float16 else raw


def assert_whole(samples: dict[str, Sample]) -> None:
    for key, sample in samples.items():
        for name in MAPS:
            np.testing.assert_array_equal(sample.parts[name], expected(name, key))


def test_places_are_joined_by_name_and_read_as_written(ssl4eo: Path) -> None:
    source = source_of(ssl4eo)
    assert tuple(source.rows) == (*MAPS, "coordinates", "date")
    samples = samples_of(source)
    assert list(samples) == [
        *(f"{place}_{season}" for season in range(4) for place in PLACES[:2]),
        *(f"{PLACES[2]}_{season}" for season in range(4)),
    ]
    assert_whole(samples)
    assert all(checked(sample, source.rows) == sample for sample in samples.values())
    assert not any(sample.faults for sample in samples.values())


def test_the_listing_has_places_and_splits(ssl4eo: Path) -> None:
    for row in source_of(ssl4eo).listing().to_pylist():
        number = PLACES.index(row["key"].partition("_")[0])
        assert (row["lon"], row["lat"]) == place_of(number)
        assert row["split"] == ("val" if number == 2 else "train")
        assert row["block"] == (number == 2)
        assert row["num_bytes"] > 0


def test_every_season_has_its_own_meta_data(ssl4eo: Path) -> None:
    samples = samples_of(source_of(ssl4eo))
    for season in range(4):
        sample = samples[f"{PLACES[1]}_{season}"]
        meta = sample.meta
        day = (datetime.date(2020, 1, 7) + datetime.timedelta(91 * season)).isoformat()
        assert meta.times == dict.fromkeys(MAPS, day)
        assert sample.parts["date"] == day
        assert meta.products == {name: f"{name}_1_{season}" for name in MAPS}
        assert meta.cloud == season / 4
        assert (meta.lon, meta.lat) == place_of(1)
        assert meta.crs == "EPSG:32633"
        assert meta.transform == (10.0, 0.0, 501000.0, 0.0, -10.0, 5000240.0)


def test_together_seasons_are_dates_of_a_place(own: Path) -> None:
    arrays = ssl4eo_variables("S1GRD", PLACES[:2])
    arrays["bands"] = arrays["bands"][:, :2]
    zarr_zip(own / "train" / "S1GRD" / TRAIN, arrays)
    source = source_of(own, together=True, seasons=(2, 0), modalities=("S2L2A", "S1GRD"))
    assert tuple(source.rows) == ("S2L2A", "S1GRD", "S2L2A_t1", "S1GRD_t1")
    samples = samples_of(source)
    assert list(samples) == list(PLACES)
    for place, sample in samples.items():
        # Of two places S1GRD has the first seasons alone.
        lacks = {"S1GRD"} if place in PLACES[:2] else set()
        assert sample.parts.keys() == source.rows.keys() - lacks
        for name, season in (("S2L2A", 2), ("S2L2A_t1", 0)):
            np.testing.assert_array_equal(
                sample.parts[name], expected("S2L2A", f"{place}_{season}")
            )
            first = datetime.date(2020, 1, 6 + PLACES.index(place))
            day = first + datetime.timedelta(91 * season)
            assert sample.meta.times[name] == day.isoformat()
        assert sample.meta.cloud == 2 / 4
        assert checked(sample, source.rows) == sample
    apart, one_date = (
        source_of(own, seasons=(1,), together=t).fingerprint() for t in (False, True)
    )
    assert apart != one_date
    (one, *_), (two, *_) = (s.listing()["num_bytes"] for s in (source_of(own), source))
    assert two.as_py() == 2 * one.as_py()


def test_only_the_chunks_of_the_sample_are_decoded(
    ssl4eo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = zarrzip._decode

    def spy(packed: bytes, array: Any) -> np.ndarray:
        decoded.append(array.name)
        return decode(packed, array)

    monkeypatch.setattr(zarrzip, "_decode", spy)
    source = source_of(ssl4eo, splits=("train",))
    refs = refs_of(source.listing())
    assert not {"bands", "cloud_mask", "x_", "time_"} & set(decoded)
    source.read(refs[5])
    assert decoded.count("bands") == 4
    assert decoded.count("cloud_mask") == 1


def test_a_chunk_of_many_places_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ssl4eo(tmp_path / "val" / "S2L2A" / VAL, "S2L2A", PLACES, places_per_chunk=3)
    num_decoded = 0
    decode = zarrzip._decode

    def spy(packed: bytes, array: Any) -> np.ndarray:
        nonlocal num_decoded
        num_decoded += array.name == "bands"
        return decode(packed, array)

    monkeypatch.setattr(zarrzip, "_decode", spy)
    samples = samples_of(source_of(tmp_path))
    assert len(samples) == 12
    assert num_decoded == 4
    for key, sample in samples.items():
        np.testing.assert_array_equal(sample.parts["S2L2A"], expected("S2L2A", key))


def test_a_place_that_one_store_lacks_goes_without_that_modality(own: Path) -> None:
    write_ssl4eo(own / "train" / "S2L2A" / TRAIN, "S2L2A", PLACES[1:2])
    (own / "val" / "S1GRD" / VAL).unlink()
    samples = samples_of(source_of(own))
    assert len(samples) == 12
    assert not any(sample.faults for sample in samples.values())
    assert "S2L2A" not in samples[f"{PLACES[0]}_2"].parts
    assert "S1GRD" not in samples[f"{PLACES[2]}_0"].parts
    kept = samples[f"{PLACES[1]}_3"]
    np.testing.assert_array_equal(kept.parts["S2L2A"], expected("S2L2A", f"{PLACES[1]}_3"))


def test_a_damaged_store_is_a_fault_of_its_samples(own: Path) -> None:
    store = own / "val" / "S2RGB" / VAL
    store.write_bytes(store.read_bytes()[:-100])
    samples = samples_of(source_of(own))
    for season in range(4):
        sample = samples[f"{PLACES[2]}_{season}"]
        assert f"S2RGB/{VAL}: not a zip file" in sample.faults["S2RGB"]
        assert set(sample.parts) == {"S2L1C", "S2L2A", "S1GRD", "coordinates", "date"}


def test_stores_that_tell_nothing_end_the_listing(own: Path) -> None:
    for store in (own / "val").rglob(VAL):
        store.write_bytes(b"")
    with pytest.raises(SourceError, match=r"not a zip file.*; download these again, or"):
        source_of(own).listing()


def test_a_place_that_comes_twice_is_damage(tmp_path: Path) -> None:
    arrays = ssl4eo_variables("S1GRD", PLACES)
    arrays["sample"][2] = PLACES[0]
    zarr_zip(tmp_path / "val" / "S1GRD" / VAL, arrays)
    with pytest.raises(SourceError, match="a place comes twice in `sample`"):
        source_of(tmp_path).listing()


def test_centres_of_other_places_are_damage(tmp_path: Path) -> None:
    arrays = ssl4eo_variables("S1GRD", PLACES)
    arrays["center_lon"] = arrays["center_lon"][:2]
    zarr_zip(tmp_path / "val" / "S1GRD" / VAL, arrays)
    with pytest.raises(SourceError, match=r"3 places, \(2,\) centres"):
        source_of(tmp_path).listing()


def test_a_season_that_a_store_lacks_is_a_missing_modality(own: Path) -> None:
    arrays = ssl4eo_variables("S2L2A", PLACES[2:])
    arrays["bands"] = arrays["bands"][:, :3]
    zarr_zip(own / "val" / "S2L2A" / VAL, arrays)
    samples = samples_of(source_of(own, splits=("val",)))
    assert ["S2L2A" in sample.parts for sample in samples.values()] == [True, True, True, False]
    assert not any(sample.faults for sample in samples.values())


def test_other_bands_are_a_fault_and_others_order_is_put_right(tmp_path: Path) -> None:
    arrays = ssl4eo_variables("S1GRD", PLACES[:1])
    arrays["bands"], arrays["band"] = arrays["bands"][:, :, ::-1], arrays["band"][::-1]
    zarr_zip(tmp_path / "val" / "S1GRD" / VAL, arrays)
    sample = samples_of(source_of(tmp_path))[f"{PLACES[0]}_1"]
    np.testing.assert_array_equal(sample.parts["S1GRD"], expected("S1GRD", f"{PLACES[0]}_1"))
    arrays["band"] = np.array(["hh", "hv"])
    zarr_zip(tmp_path / "val" / "S1GRD" / VAL, arrays)
    with pytest.raises(SampleError, match=r"S1GRD needs 2 bands \(VV, VH\), .* \(HH, HV\)"):
        samples_of(source_of(tmp_path))


def test_options_choose_and_are_in_the_fingerprint(ssl4eo: Path) -> None:
    source = source_of(ssl4eo, splits=("val",), seasons=(3, 0), modalities=("S1GRD", "coordinates"))
    assert tuple(source.rows) == ("S1GRD", "coordinates")
    samples = samples_of(source)
    assert list(samples) == [f"{PLACES[2]}_3", f"{PLACES[2]}_0"]
    assert set(samples[f"{PLACES[2]}_3"].parts) == {"S1GRD", "coordinates"}
    np.testing.assert_array_equal(
        samples[f"{PLACES[2]}_3"].parts["S1GRD"], expected("S1GRD", f"{PLACES[2]}_3")
    )
    options: list[dict[str, Any]] = [
        *({}, {"splits": ("val",)}, {"seasons": (0,)}, {"modalities": ("S2L2A",)})
    ]
    assert len({source_of(ssl4eo, **o).fingerprint() for o in options}) == len(options)
    assert source_of(ssl4eo).fingerprint() == source_of(ssl4eo).fingerprint()


def test_wishes_that_cannot_be_met_are_told(own: Path) -> None:
    with pytest.raises(SourceError, match=r"no stores of splits test; write source\.path=FOLDER"):
        source_of(own, splits=("test",)).listing()
    with pytest.raises(SourceError, match="SSL4EO-S12 has S2L1C, S2L2A, S2RGB, S1GRD, and"):
        source_of(own, modalities=("DEM",))
    shutil.rmtree(own / "train" / "S1GRD")
    with pytest.raises(SourceError, match="has no stores of S1GRD; it has S2L1C, S2L2A, S2RGB"):
        source_of(own, splits=("train",), modalities=("S1GRD",)).listing()


def test_the_cloud_mask_is_a_map_for_those_who_name_it(ssl4eo: Path) -> None:
    source = source_of(ssl4eo, modalities=("CloudMask", "S2L2A", "S1GRD"))
    assert tuple(source.rows) == ("S2L2A", "S1GRD", "CloudMask")
    samples = samples_of(source)
    for key, sample in samples.items():
        assert checked(sample, source.rows) == sample
        assert set(sample.parts) == {"S2L2A", "S1GRD", "CloudMask"}
        expected_mask = np.zeros((1, PX, PX), np.uint8)
        expected_mask[:, : 6 * int(key[-1])] = 4
        mask = np.asarray(sample.parts["CloudMask"])
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, expected_mask)
        assert sample.meta.products["CloudMask"] == sample.meta.products["S2L2A"]
        assert sample.meta.times["CloudMask"] == sample.meta.times["S2L2A"]
    assert source.fingerprint() != source_of(ssl4eo, modalities=("S2L2A", "S1GRD")).fingerprint()
    with pytest.raises(SourceError, match="CloudMask comes with optical maps; name one of S2L1C"):
        source_of(ssl4eo, modalities=("S1GRD", "CloudMask"))


def test_the_mask_is_that_of_the_first_optical_store_that_has_the_place(own: Path) -> None:
    arrays = ssl4eo_variables("S2L2A", PLACES[1:2])
    arrays["cloud_mask"][:, :, :, 0] = 5
    zarr_zip(own / "train" / "S2L2A" / TRAIN, arrays)
    (own / "train" / "S2L1C" / TRAIN).unlink()
    masks = {
        key: np.asarray(sample.parts["CloudMask"])
        for key, sample in samples_of(
            source_of(own, splits=("train",), modalities=("S2L2A", "S2RGB", "CloudMask"))
        ).items()
    }
    for season in range(4):
        there, lacking = (masks[f"{PLACES[i]}_{season}"] for i in (1, 0))
        assert (there[0, :, 0] == 5).all()
        assert not (there[0, :, 1:] == 5).any()
        np.testing.assert_array_equal(there[0, :, 1:], lacking[0, :, 1:])
        assert not (lacking == 5).any()


@pytest.mark.parametrize("seasons", [[], [4], [1, 1]])
def test_seasons_are_some_of_four(seasons: list[int]) -> None:
    source = {"type": "ssl4eo", "path": "somewhere", "seasons": seasons}
    with pytest.raises(ConfigError, match="seasons"):
        parse_config({"kind": "shards", "source": source, "out": "out"})


def test_a_build_keeps_values_and_splits(ssl4eo: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    config = parse_config(
        {
            "kind": "shards",
            "source": {"type": "ssl4eo", "path": str(ssl4eo)},
            "out": str(out),
            "samples_per_shard": 3,
            "splits": "source",
        }
    )
    assert isinstance(config, ShardsConfig)
    assert build(config, quiet=True) is not None
    assert verify(out).ok
    dataset = open_dataset(out)
    assert (len(dataset.select("train")), len(dataset.select("val"))) == (8, 4)
    for i, key in enumerate(dataset.keys):
        for name, part in dataset.read(i, list(MAPS)).items():
            np.testing.assert_array_equal(part, expected(name, key))
