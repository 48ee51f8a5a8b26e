"""Tiny TerraMesh and SSL4EO-S12 collections, written by the zarr package as an independent reference."""

import io
import tarfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

PX = 24
NAN = np.float16("nan")
_TO_B09 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09"]
BANDS = {
    "S2L1C": [*_TO_B09, "B10", "B11", "B12"],
    "S2L2A": [*_TO_B09, "B11", "B12"],
    "S2RGB": ["R", "G", "B"],
    "S1GRD": ["vv", "vh"],
    "S1RTC": ["vv", "vh"],
    "DEM": ["DEM"],
    "LULC": ["lulc"],
    "NDVI": ["NDVI"],
}
CLOUD = 0.25
OPTICAL = ("S2L1C", "S2L2A", "S2RGB")
DAY = np.datetime64("2021-07-23T13:22:41", "ns")
SAFE = "S2A_MSIL2A_20210723T132241_N0301_R038_T22JGS_20210723T171101"


def zarr_zip(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    *,
    chunks: Mapping[str, Sequence[int]] | None = None,
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> bytes:
    """A consolidated zarr store, format 2, zipped: written to `path` and returned.

    `chunks` and `attributes` are by array; `options` go to `create_array` for all of them.
    """
    zarr = pytest.importorskip("zarr")
    from zarr.storage import ZipStore

    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # A zip keeps both versions of metadata written twice, and format 2 has always had texts.
        warnings.simplefilter("ignore")
        store = ZipStore(path, mode="w")
        group = zarr.create_group(store, zarr_format=2)
        for name, value in arrays.items():
            array = group.create_array(
                name,
                shape=value.shape,
                dtype=str if value.dtype.hasobject else value.dtype,
                chunks=(chunks or {}).get(name) or value.shape or "auto",
                attributes=(attributes or {}).get(name),
                **options,
            )
            array[...] = value
        zarr.consolidate_metadata(store)
        store.close()
    return path.read_bytes()


def pixels(name: str, number: int) -> np.ndarray:
    """Seeded pixels (C, PX, PX) of one modality in the type its stores have."""
    rng = np.random.default_rng([number, *name.encode()])
    shape = (len(BANDS[name]), PX, PX)
    match name:
        case "S2RGB":
            return rng.integers(0, 256, shape, dtype=np.uint8)
        case "LULC":
            return rng.integers(1, 10, shape, dtype=np.uint8)
        case "DEM":
            return rng.normal(500, 100, shape).astype(np.float32)
        case "S2L1C" | "S2L2A":
            return rng.integers(1, 4000, shape, dtype=np.int16)
    values = (rng.normal(-12, 4, shape) if name != "NDVI" else rng.uniform(-1, 1, shape)).astype(
        "f2"
    )
    values[0, 0, :3] = NAN
    return values


def place_of(number: int) -> tuple[float, float]:
    return 9.0 + number, 45.0 + number


def variables(name: str, number: int) -> dict[str, np.ndarray]:
    """The arrays of one TerraMesh store; a quarter of its pixels are cloud."""
    lon, lat = place_of(number)
    found = {
        "bands": pixels(name, number)[None],
        "band": np.array(BANDS[name]),
        "center_lon": np.array(lon),
        "center_lat": np.array(lat),
        "crs": np.array(32632),
        "time": np.array([0 if name == "DEM" else DAY.astype(np.int64)]),
        "x": 500005.0 + 10 * np.arange(PX),
        "y": 5000235.0 - 10 * np.arange(PX),
        "file_id": np.array([f"{SAFE}_{number}" if name in OPTICAL else f"{name}_{number}"]),
        "sample": np.array([f"sample{number}"]),
        "spatial_ref": np.array(0),
    }
    if name in OPTICAL:
        mask = np.zeros((1, PX, PX), np.uint8)
        mask[:, : PX // 2, : PX // 4], mask[:, : PX // 2, PX // 4 : PX // 2] = 3, 4
        found["cloud_mask"] = mask
    return found


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    """A tar as webdataset writes it: times with fractions, so that every member has a pax header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1700000000.25
            tar.addfile(info, io.BytesIO(data))


def key_of(split: str, number: int) -> str:
    return f"majortom_{split}_{number:07d}"


SHARDS = {
    ("train", "majortom_shard_000001.tar"): (0, 1, 2),
    ("train", "ssl4eos12_shard_000794.tar"): (3, 4),
    ("val", "majortom_shard_000001.tar"): (5, 6),
}


def make_terramesh(root: Path) -> Path:
    """Three shards of three, two and two samples, numbered over all; S1 is RTC or GRD by subset."""
    for (split, shard), numbers in SHARDS.items():
        for name in BANDS:
            if name != ("S1GRD" if shard.startswith("majortom") else "S1RTC"):
                members = {
                    f"{key_of(split, i)}.zarr.zip": zarr_zip(root / "one.zip", variables(name, i))
                    for i in numbers
                }
                write_tar(root / split / name / shard, members)
    (root / "one.zip").unlink()
    return root


def write_parquets(root: Path, suffix: str = ".zarr.zip", folder: str = "") -> None:
    for split in ("train", "val"):
        rows = [
            (s, shard, i) for (s, shard), numbers in SHARDS.items() for i in numbers if s == split
        ]
        # Another order than the tars': the table is joined by name.
        rows = rows[::-1]
        columns = {
            "tar": [folder + shard for _, shard, _ in rows],
            "zarr": [key_of(split, i) + suffix for _, _, i in rows],
            "center_lat": [place_of(i)[1] for _, _, i in rows],
            "center_lon": [place_of(i)[0] for _, _, i in rows],
            "cloud_cover": [25.0] * len(rows),
        }
        pq.write_table(pa.table(columns), root / f"{split}_metadata.parquet")


def rewrite(tar: Path, changes: Mapping[str, bytes | None]) -> None:
    """Replace members of a tar by name, or leave them out where None."""
    with tarfile.open(tar) as file:
        members = {m.name: file.extractfile(m).read() for m in file}  # pyright: ignore[reportOptionalMemberAccess]
    merged = {**members, **changes}
    write_tar(tar, {name: data for name, data in merged.items() if data is not None})


PLACES = ("0080717", "0060573", "0179869")


def ssl4eo_variables(name: str, places: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of one SSL4EO-S12 store: `places` of four seasons, each of its own day and cloud."""
    seasons = range(4)
    ids = [PLACES.index(place) for place in places]
    lonlat = np.array([place_of(i) for i in ids]).reshape(-1, 2)
    days = np.array([[np.datetime64("2020-01-06") + 91 * s + i for s in seasons] for i in ids])
    found = {
        "bands": np.array([[pixels(name, 10 * i + s) for s in seasons] for i in ids]),
        "band": np.array(BANDS[name]),
        "sample": np.array(places),
        "time": np.arange(4),
        "x": np.arange(PX),
        "y": np.arange(PX),
        "center_lon": lonlat[:, 0],
        "center_lat": lonlat[:, 1],
        "crs": np.array([32632 + i for i in ids]),
        "file_id": np.array([[f"{name}_{i}_{s}" for s in seasons] for i in ids]),
        "sample_id": np.array([[f"{place}_{s}" for s in seasons] for place in places]),
        "time_": (days + np.timedelta64(10, "h")).astype("M8[s]").astype(np.int64) - 1577923200,
        "x_": np.array([500005.0 + 1000 * i + 10 * np.arange(PX) for i in ids]),
        "y_": np.array([5000235.0 - 10 * np.arange(PX) for _ in ids]),
    }
    if name in OPTICAL:
        mask = np.zeros((len(ids), 4, PX, PX), np.uint8)
        for season in seasons:
            mask[:, season, : 6 * season] = 4
        found["cloud_mask"] = mask
    return found


def write_ssl4eo(
    path: Path, name: str, places: Sequence[str] = PLACES, *, places_per_chunk: int = 1
) -> None:
    """A store whose seasons are chunks of their own, times as xarray writes them."""
    arrays = ssl4eo_variables(name, places)
    zarr_zip(
        path,
        arrays,
        chunks={
            "bands": (places_per_chunk, 1, *arrays["bands"].shape[2:]),
            "cloud_mask": (places_per_chunk, 1, PX, PX),
        },
        attributes={
            "time_": {"units": "seconds since 2020-01-02", "calendar": "proleptic_gregorian"}
        },
    )


def ssl4eo_name(split: str, number: int) -> str:
    return f"ssl4eos12_{split}_seasonal_data_{number:06d}.zarr.zip"


def make_ssl4eo(root: Path) -> Path:
    """Two places in train, one in val; radar has them in another order than the optical stores."""
    for name in ("S2L1C", "S2L2A", "S1GRD", "S2RGB"):
        train = PLACES[:2] if name != "S1GRD" else PLACES[1::-1]
        write_ssl4eo(root / "train" / name / ssl4eo_name("train", 1), name, train)
        write_ssl4eo(root / "val" / name / ssl4eo_name("val", 1), name, PLACES[2:])
    return root
