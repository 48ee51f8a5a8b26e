from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.load import parse_config
from configs.schema import ShardsConfig, TerraMeshSourceConfig
from shards.build import build
from shards.dataset import open_dataset
from shards.errors import SampleError, SourceError
from shards.sample import Sample, checked
from shards.sources.base import refs_of
from shards.sources.terramesh import TerraMeshSource, offset_was_taken
from shards.verify import verify
from tests.shards.zarr_twins import (
    BANDS,
    CLOUD,
    SAFE,
    SHARDS,
    key_of,
    pixels,
    place_of,
    rewrite,
    variables,
    write_parquets,
    write_tar,
    zarr_zip,
)

FIRST = key_of("train", 0)
MAJORTOM = "majortom_shard_000001.tar"


def source_of(folder: Path | str, **options: Any) -> TerraMeshSource:
    return TerraMeshSource(TerraMeshSourceConfig(path=str(folder), **options))


def samples_of(source: TerraMeshSource) -> dict[str, Sample]:
    return {ref.key: source.read(ref) for ref in refs_of(source.listing())}


def one_sample(folder: Path, name: str, arrays: dict[str, np.ndarray], **options: Any) -> Sample:
    """The sample of a collection of a single store."""
    data = zarr_zip(folder / "one.zip", arrays)
    write_tar(folder / "val" / name / MAJORTOM, {"a.zarr.zip": data})
    (sample,) = samples_of(source_of(folder, **options)).values()
    return sample


def expected(name: str, number: int) -> np.ndarray:
    raw = pixels(name, number)
    if name == "DEM":
        return np.rint(raw).astype(np.int16)
    return raw.astype(np.float32) if raw.dtype == np.float16 else raw


def test_every_store_is_read_as_it_was_written(terramesh: Path) -> None:
    source = source_of(terramesh)
    assert tuple(source.rows) == (
        *("S2L1C", "S2L2A", "S2RGB", "S1GRD", "S1RTC", "DEM", "LULC", "NDVI"),
        *("coordinates", "date"),
    )
    samples = samples_of(source)
    assert list(samples) == [key_of(s, i) for (s, _), numbers in SHARDS.items() for i in numbers]
    for (split, shard), numbers in SHARDS.items():
        lacking = "S1GRD" if shard.startswith("majortom") else "S1RTC"
        for number in numbers:
            sample = samples[key_of(split, number)]
            assert checked(sample, source.rows) == sample
            assert set(sample.parts) == set(source.rows) - {lacking}
            assert not sample.faults
            for name in set(BANDS) - {lacking}:
                np.testing.assert_array_equal(sample.parts[name], expected(name, number))
    assert np.isnan(samples[FIRST].parts["S1RTC"]).sum() == 3


def test_place_days_products_and_clouds_are_in_the_meta_data(terramesh: Path) -> None:
    sample = samples_of(source_of(terramesh))[key_of("val", 6)]
    meta = sample.meta
    assert (meta.lon, meta.lat) == place_of(6)
    assert np.asarray(sample.parts["coordinates"]).tolist() == [*place_of(6)]
    assert meta.crs == "EPSG:32632"
    # Pixel centres begin at 500005 and 5000235: the corner is half a pixel outside.
    assert meta.transform == (10.0, 0.0, 500000.0, 0.0, -10.0, 5000240.0)
    assert sample.parts["date"] == "2021-07-23"
    assert set(meta.times) == {"S2L1C", "S2L2A", "S2RGB", "S1RTC", "LULC", "NDVI"}
    assert meta.products["S2L2A"] == f"{SAFE}_6"
    assert meta.products["DEM"] == "DEM_6"
    assert meta.source == "terramesh"


def test_clouds_are_thin_and_thick_ones_among_classified_pixels(tmp_path: Path) -> None:
    arrays = variables("S2L2A", 0)
    # Snow 2 and shadow 5 are no clouds, 6 is no class at all.
    arrays["cloud_mask"] = np.repeat(np.array([0, 2, 3, 4, 5, 6, 6, 6], np.uint8), 72)
    arrays["cloud_mask"] = arrays["cloud_mask"].reshape(1, 24, 24)
    assert one_sample(tmp_path, "S2L2A", arrays).meta.cloud == 2 / 5
    assert CLOUD == 0.25


WITH_MASK = {"modalities": ("S2L1C", "S2L2A", "S1RTC", "CloudMask")}


def test_a_build_keeps_the_cloud_mask_for_those_who_name_it(
    terramesh: Path, tmp_path: Path
) -> None:
    config = parse_config(
        {
            "kind": "shards",
            "source": {"type": "terramesh", "path": str(terramesh), **WITH_MASK},
            "out": str(tmp_path / "set"),
            "splits": "source",
        }
    )
    assert isinstance(config, ShardsConfig)
    assert build(config, quiet=True) is not None
    assert verify(tmp_path / "set").ok
    dataset = open_dataset(tmp_path / "set")
    assert tuple(dataset.modalities) == ("S2L1C", "S2L2A", "S1RTC", "CloudMask")
    for i, key in enumerate(dataset.keys):
        mask = dataset.read(i, ["CloudMask"])["CloudMask"]
        np.testing.assert_array_equal(mask, variables("S2L1C", int(key[-7:]))["cloud_mask"])
    # A quarter of the pixels is thin or thick cloud, the rest is land.
    assert dataset.class_counts["CloudMask"].tolist() == [5 * 432, 0, 0, 5 * 72, 5 * 72, 0, 0]


def test_classes_beyond_the_last_are_a_fault_of_the_mask_alone(tmp_path: Path) -> None:
    arrays = variables("S2L2A", 0)
    arrays["cloud_mask"][0, 0, 0] = 7
    options = {"modalities": ("S2L2A", "CloudMask")}
    sample = checked(
        one_sample(tmp_path, "S2L2A", arrays, **options), source_of(tmp_path, **options).rows
    )
    assert set(sample.parts) == {"S2L2A"}
    assert sample.faults == {"CloudMask": "class 7 is not one of 0 .. 6"}


def test_a_mask_of_another_shape_is_no_map(tmp_path: Path) -> None:
    arrays = variables("S2L2A", 0)
    arrays["cloud_mask"] = arrays["cloud_mask"][:, :, 2:]
    sample = one_sample(tmp_path, "S2L2A", arrays, modalities=("S2L2A", "CloudMask"))
    assert set(sample.parts) == {"S2L2A"}
    assert "cloud mask is (1, 24, 22), its map asks for (1, 24, 24)" in sample.faults["CloudMask"]
    # Who does not ask for it is not told.
    assert not one_sample(tmp_path, "S2L2A", arrays, modalities=("S2L2A",)).faults


def test_values_that_a_byte_cannot_hold_are_a_fault_of_the_mask(tmp_path: Path) -> None:
    arrays = variables("S2L2A", 0)
    arrays["cloud_mask"] = arrays["cloud_mask"].astype(np.int16) - 1
    sample = one_sample(tmp_path, "S2L2A", arrays, modalities=("S2L2A", "CloudMask"))
    assert set(sample.parts) == {"S2L2A"}
    assert "do not fit into CloudMask's uint8" in sample.faults["CloudMask"]


def test_a_store_without_a_mask_is_a_sample_without_it(tmp_path: Path) -> None:
    arrays = variables("S2L2A", 0)
    del arrays["cloud_mask"]
    sample = one_sample(tmp_path, "S2L2A", arrays, modalities=("S2L2A", "CloudMask"))
    assert set(sample.parts) == {"S2L2A"}
    assert not sample.faults


def test_an_unreadable_mask_is_damage_of_its_store_and_the_next_one_speaks(
    own_terramesh: Path,
) -> None:
    arrays = variables("S2L1C", 0)
    data = zarr_zip(own_terramesh / "one.zip", arrays)
    at = data.index(b"cloud_mask/0.0.0") + 60
    flipped = data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]
    rewrite(own_terramesh / "train" / "S2L1C" / MAJORTOM, {f"{FIRST}.zarr.zip": flipped})
    sample = samples_of(source_of(own_terramesh, **WITH_MASK))[FIRST]
    assert "cloud_mask/0.0.0: Bad CRC-32" in sample.faults["S2L1C"]
    assert set(sample.parts) == {"S2L2A", "S1RTC", "CloudMask"}
    np.testing.assert_array_equal(sample.parts["CloudMask"], variables("S2L2A", 0)["cloud_mask"])


def test_a_sample_that_one_tar_lacks_goes_without_that_modality(own_terramesh: Path) -> None:
    rewrite(own_terramesh / "train" / "S2L2A" / MAJORTOM, {f"{key_of('train', 1)}.zarr.zip": None})
    rewrite(own_terramesh / "train" / "DEM" / MAJORTOM, {f"{FIRST}.zarr.zip": None})
    samples = samples_of(source_of(own_terramesh))
    assert len(samples) == 7
    assert "S2L2A" not in samples[key_of("train", 1)].parts
    assert "DEM" not in samples[FIRST].parts
    assert not samples[FIRST].faults
    # Positions in the tars differ now; what comes after still belongs together.
    for name in ("S2L2A", "DEM", "LULC"):
        found = samples[key_of("train", 2)].parts[name]
        np.testing.assert_array_equal(found, expected(name, 2))


@pytest.mark.parametrize("parquet", [True, False])
def test_a_cut_tar_keeps_what_lies_inside(own_terramesh: Path, parquet: bool) -> None:
    if parquet:
        write_parquets(own_terramesh)
    tar = own_terramesh / "train" / "S2L2A" / MAJORTOM
    data = tar.read_bytes()
    cut = data.index(key_of("train", 1).encode() + b".zarr.zip\0") + 2000
    tar.write_bytes(data[:cut])
    samples = samples_of(source_of(own_terramesh))
    np.testing.assert_array_equal(samples[FIRST].parts["S2L2A"], expected("S2L2A", 0))
    inside, after = samples[key_of("train", 1)], samples[key_of("train", 2)]
    assert f"ends after {cut} bytes, inside the member of" in inside.faults["S2L2A"]
    assert "S2L2A/majortom_shard_000001.tar is cut or damaged at byte" in after.faults["S2L2A"]
    for sample in (inside, after):
        assert "S2L2A" not in sample.parts
        assert "S2L1C" in sample.parts


def test_tars_that_tell_nothing_end_the_listing(own_terramesh: Path) -> None:
    for tar in (own_terramesh / "val").rglob("*.tar"):
        tar.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(SourceError, match=r"damaged at byte 0: .*; download these tars again"):
        source_of(own_terramesh).listing()


def test_a_damaged_store_is_a_fault(own_terramesh: Path) -> None:
    data = zarr_zip(own_terramesh / "one.zip", variables("NDVI", 0))
    rewrite(own_terramesh / "train" / "NDVI" / MAJORTOM, {f"{FIRST}.zarr.zip": data[:-50]})
    at = data.index(b"bands/0.0.0.0") + 60
    flipped = data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :]
    rewrite(
        own_terramesh / "train" / "NDVI" / MAJORTOM, {f"{key_of('train', 1)}.zarr.zip": flipped}
    )
    samples = samples_of(source_of(own_terramesh))
    assert f"{FIRST}: not a zip file" in samples[FIRST].faults["NDVI"]
    assert "bands/0.0.0.0: Bad CRC-32" in samples[key_of("train", 1)].faults["NDVI"]
    assert not samples[key_of("train", 2)].faults


def test_a_sample_without_any_readable_map_is_none(own_terramesh: Path) -> None:
    write_parquets(own_terramesh)
    for tar in (own_terramesh / "train").rglob(MAJORTOM):
        rewrite(tar, {f"{FIRST}.zarr.zip": None})
    source = source_of(own_terramesh)
    ref = next(ref for ref in refs_of(source.listing()) if ref.key == FIRST)
    with pytest.raises(SampleError, match=f"{FIRST}: no tar of train/majortom.* has it"):
        source.read(ref)


def test_bands_are_ordered_by_their_names(tmp_path: Path) -> None:
    arrays = variables("S2L1C", 0)
    order = np.random.default_rng(0).permutation(13)
    arrays["bands"], arrays["band"] = arrays["bands"][:, order], arrays["band"][order]
    found = one_sample(tmp_path, "S2L1C", arrays).parts["S2L1C"]
    np.testing.assert_array_equal(found, pixels("S2L1C", 0))


@pytest.mark.parametrize("names", [["Red", "Green", "Blue"], ["B4", "B3", "B2"]])
def test_colours_have_several_names(tmp_path: Path, names: list[str]) -> None:
    arrays = variables("S2RGB", 0)
    arrays["bands"], arrays["band"] = arrays["bands"][:, ::-1], np.array(names[::-1])
    found = one_sample(tmp_path, "S2RGB", arrays).parts["S2RGB"]
    np.testing.assert_array_equal(found, pixels("S2RGB", 0))


def test_other_bands_are_a_fault_that_names_both(tmp_path: Path) -> None:
    arrays = variables("S1RTC", 0)
    arrays["band"] = np.array(["hh", "hv"])
    with pytest.raises(SampleError, match=r"S1RTC needs 2 bands \(VV, VH\).* has 2 bands \(HH, HV"):
        one_sample(tmp_path, "S1RTC", arrays)


@pytest.mark.parametrize("numbered", [True, False])
def test_bands_without_names_are_taken_by_position(tmp_path: Path, numbered: bool) -> None:
    arrays = variables("S2RGB", 0)
    arrays["band"] = np.arange(3)
    if not numbered:
        del arrays["band"]
    found = one_sample(tmp_path / "good", "S2RGB", arrays).parts["S2RGB"]
    np.testing.assert_array_equal(found, pixels("S2RGB", 0))
    arrays["bands"] = np.repeat(arrays["bands"], 2, axis=1)
    with pytest.raises(SampleError, match=r"needs 3 bands \(R, G, B\), this file has 6 bands;"):
        one_sample(tmp_path / "bad", "S2RGB", arrays)


@pytest.mark.parametrize("time", [0, -62135596800000000000 // 10, np.iinfo(np.int64).min])
def test_a_time_of_zero_or_less_is_unknown(tmp_path: Path, time: int) -> None:
    sample = one_sample(tmp_path, "S2L2A", variables("S2L2A", 0) | {"time": np.array([time])})
    assert sample.meta.times == {}
    assert "date" not in sample.parts
    assert "S2L2A" in sample.parts


def test_the_date_is_that_of_an_optical_map(tmp_path: Path) -> None:
    sample = one_sample(tmp_path, "S1RTC", variables("S1RTC", 0))
    assert sample.meta.times == {"S1RTC": "2021-07-23"}
    assert "date" not in sample.parts


def test_a_store_of_several_dates_is_refused(tmp_path: Path) -> None:
    arrays = variables("NDVI", 0)
    arrays["bands"] = np.repeat(arrays["bands"], 4, axis=0)
    with pytest.raises(SampleError, match="4 dates, TerraMesh has one a sample"):
        one_sample(tmp_path, "NDVI", arrays)


def test_maps_of_different_places_are_no_sample(own_terramesh: Path) -> None:
    arrays = variables("DEM", 0)
    arrays["x"] = arrays["x"] + 20
    data = zarr_zip(own_terramesh / "one.zip", arrays)
    rewrite(own_terramesh / "train" / "DEM" / MAJORTOM, {f"{FIRST}.zarr.zip": data})
    source = source_of(own_terramesh)
    with pytest.raises(SampleError, match="do not show the same place: bounds 20 apart"):
        source.read(refs_of(source.listing())[0])


@pytest.mark.parametrize(
    ("product", "day", "taken"),
    [
        ("S2B_MSIL2A_20230610T074621_N0509_R135_T36MVB_20230610T101000", None, True),
        ("20230610T074621_20230610T075021_T36MVB", "2023-06-10", True),
        (None, "2022-01-25", True),
        (None, "2022-01-24", False),
        (None, None, False),
        (SAFE, "2021-07-23", False),
        # Processed again later: the offset is in its values still.
        ("S2A_MSIL1C_20200408T143729_N0500_R096_T18HXD_20230601T000000", "2020-04-08", False),
        ("S2A_MSIL1C_20220301T143729_N0301_R096_T18HXD_20220301T000000", "2022-03-01", False),
    ],
)
def test_the_offset_was_taken_from_what_was_acquired_with_it(
    product: str | None, day: str | None, taken: bool
) -> None:
    assert offset_was_taken(product, day) is taken


def test_harmonising_gives_the_offset_back(tmp_path: Path) -> None:
    arrays = variables("S2L2A", 0)
    arrays["time"] = np.array([np.datetime64("2023-06-10", "ns").astype(np.int64)])
    arrays["file_id"] = np.array(["20230610T074621_20230610T075021_T36MVB"])
    arrays["bands"][0, 0, 0, :3] = -1000, 0, 32767
    plain = np.asarray(one_sample(tmp_path / "a", "S2L2A", arrays).parts["S2L2A"])
    np.testing.assert_array_equal(plain, arrays["bands"][0])
    raised = np.asarray(
        one_sample(tmp_path / "b", "S2L2A", arrays, harmonise_s2=True).parts["S2L2A"]
    )
    assert raised.dtype == np.int16
    assert raised[0, 0, :3].tolist() == [0, 1000, 32767]
    np.testing.assert_array_equal(raised[1:], plain[1:] + 1000)
    rgb = variables("S2RGB", 0) | {name: arrays[name] for name in ("time", "file_id")}
    same = one_sample(tmp_path / "c", "S2RGB", rgb, harmonise_s2=True).parts["S2RGB"]
    np.testing.assert_array_equal(same, pixels("S2RGB", 0))


def test_a_build_keeps_values_and_splits(own_terramesh: Path, tmp_path: Path) -> None:
    write_parquets(own_terramesh)
    out = tmp_path / "set"
    config = parse_config(
        {
            "kind": "shards",
            "source": {"type": "terramesh", "path": str(own_terramesh)},
            "out": str(out),
            "samples_per_shard": 2,
            "splits": "source",
        }
    )
    assert isinstance(config, ShardsConfig)
    assert build(config, quiet=True) is not None
    assert verify(out).ok
    dataset = open_dataset(out)
    assert len(dataset.select("train")) == 5
    assert len(dataset.select("val")) == 2
    for i, key in enumerate(dataset.keys):
        number = int(key[-7:])
        for name, part in dataset.read(i, list(BANDS)).items():
            np.testing.assert_array_equal(part, expected(name, number))
        assert dataset.meta(i).cloud == CLOUD
