"""Which samples TerraMesh has: told by its parquet or by its tars, chosen by options."""

import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import SourceError
from tests.shards.test_terramesh import MAJORTOM, samples_of, source_of
from tests.shards.zarr_twins import (
    key_of,
    place_of,
    variables,
    write_parquets,
    write_tar,
    zarr_zip,
)


@pytest.mark.parametrize(("suffix", "folder"), [(".zarr.zip", ""), ("", "train/")])
def test_the_parquet_tells_samples_and_places(
    own_terramesh: Path, suffix: str, folder: str
) -> None:
    walked = source_of(own_terramesh).listing()
    assert walked.column("lon").null_count == 7
    write_parquets(own_terramesh, suffix, folder)
    told = source_of(own_terramesh).listing()
    assert sorted(told.column("key").to_pylist()) == sorted(walked.column("key").to_pylist())
    by_key = {row["key"]: row for row in told.to_pylist()}
    for row in walked.to_pylist():
        found = by_key[row["key"]]
        number = int(row["key"][-7:])
        assert (found["block"], found["split"]) == (row["block"], row["split"])
        assert (found["lon"], found["lat"]) == place_of(number)
        assert found["num_bytes"] == pytest.approx(row["num_bytes"], rel=0.3)


def test_shards_the_parquet_does_not_know_are_walked(own_terramesh: Path) -> None:
    write_parquets(own_terramesh)
    for tar in list((own_terramesh / "val").rglob(MAJORTOM)):
        tar.rename(tar.with_name("majortom_shard_000081.tar"))
    listing = source_of(own_terramesh, splits=("val",)).listing()
    assert listing.column("key").to_pylist() == [key_of("val", 5), key_of("val", 6)]
    assert listing.column("lon").null_count == 2


def test_keys_with_dots_are_escaped(tmp_path: Path) -> None:
    data = zarr_zip(tmp_path / "one.zip", variables("DEM", 0))
    write_tar(tmp_path / "val" / "DEM" / MAJORTOM, {"./282D.485L.zarr.zip": data})
    assert list(samples_of(source_of(tmp_path))) == ["282D%2E485L"]


def test_only_plain_files_are_members(tmp_path: Path) -> None:
    path = tmp_path / "val" / "DEM" / MAJORTOM
    data = zarr_zip(tmp_path / "one.zip", variables("DEM", 0))
    write_tar(path, {"a.zarr.zip": data})
    link = tarfile.TarInfo("b.zarr.zip")
    link.type = tarfile.SYMTYPE
    with tarfile.open(path, "a") as tar:
        tar.addfile(link)
    assert list(samples_of(source_of(tmp_path))) == ["a"]


def test_options_choose_and_are_in_the_fingerprint(terramesh: Path) -> None:
    assert samples_of(source_of(terramesh, subsets=("ssl4eos12",))).keys() == {
        key_of("train", 3),
        key_of("train", 4),
    }
    source = source_of(terramesh, splits=("val",), modalities=("NDVI", "date", "S2L2A"))
    assert tuple(source.rows) == ("S2L2A", "NDVI", "date")
    assert set(samples_of(source)[key_of("val", 5)].parts) == {"S2L2A", "NDVI", "date"}
    options: list[dict[str, Any]] = [
        {},
        *({"splits": ("val",)}, {"modalities": ("DEM",)}, {"subsets": ("majortom",)}),
        {"harmonise_s2": True},
    ]
    assert len({source_of(terramesh, **o).fingerprint() for o in options}) == len(options)
    assert source_of(terramesh).fingerprint() == source_of(terramesh).fingerprint()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"splits": ("test",)}, "no shards of splits test; write source.path=FOLDER"),
        ({"subsets": ("landsat",)}, "no shards of splits train, val in subsets landsat"),
        ({"modalities": ("CHM",)}, "TerraMesh has S2L1C, .* NDVI, and coordinates and date come"),
        ({"modalities": ("date",)}, "TerraMesh has S2L1C"),
        (
            {"splits": ("val",), "modalities": ("DEM", "S1GRD")},
            "has no tars of S1GRD; it has .*S1RTC",
        ),
    ],
)
def test_wishes_that_cannot_be_met_are_told(
    terramesh: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(SourceError, match=told):
        source_of(terramesh, **options).listing()


def test_a_parquet_of_something_else_is_told(own_terramesh: Path) -> None:
    pq.write_table(pa.table({"name": ["a"]}), own_terramesh / "val_metadata.parquet")
    with pytest.raises(SourceError, match="has no column tar and zarr, but name"):
        source_of(own_terramesh).listing()
