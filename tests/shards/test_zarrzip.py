import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shards.errors import SampleError
from shards.sources.zarrmaps import as_times
from shards.sources.zarrzip import ZarrZip
from tests.shards.zarr_twins import zarr_zip

numcodecs = pytest.importorskip("numcodecs")

RNG = np.random.default_rng(0)
ARRAYS = {
    "int16": RNG.integers(-1000, 10000, (1, 3, 7, 5)).astype(np.int16),
    "half": RNG.normal(-12, 4, (2, 7, 5)).astype(np.float16),
    "byte": RNG.integers(0, 7, (7, 5)).astype(np.uint8),
    "double": RNG.normal(size=9),
    "time": np.array(["2020-01-06T10:04:01", "NaT"], "datetime64[ns]"),
    "number": np.array([0, -5, 2**62]),
    "scalar": np.array(32633),
    "name": np.array(["B01", "B8A", "ü"]),
    "big_endian": np.arange(6, dtype=">i4").reshape(2, 3),
}


def only_array(data: bytes) -> np.ndarray:
    return ZarrZip(data, "store").read("a")


@pytest.mark.parametrize(
    "compressor",
    [
        *(
            numcodecs.Blosc(name, clevel=5, shuffle=shuffle)
            for name in ("lz4", "lz4hc", "blosclz", "zlib", "zstd")
            for shuffle in (0, 1, 2)
        ),
        numcodecs.Blosc("lz4", clevel=0),
        *(numcodecs.Zstd(1), numcodecs.Zlib(1), numcodecs.GZip(1), numcodecs.BZ2(1)),
        *(numcodecs.LZ4(), None),
    ],
    ids=str,
)
def test_every_type_is_read_as_zarr_wrote_it(tmp_path: Path, compressor: Any) -> None:
    store = ZarrZip(zarr_zip(tmp_path / "a.zip", ARRAYS, compressors=compressor), "store")
    for name, expected in ARRAYS.items():
        found = store.read(name)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chunks_are_put_together_and_parts_cut_out(tmp_path: Path, data: st.DataObject) -> None:
    array = data.draw(
        hnp.arrays(
            data.draw(st.sampled_from(["i2", "f4", "u1"])),
            hnp.array_shapes(max_dims=4, max_side=5),
            elements={"min_value": 0, "max_value": 3},
        )
    )
    # Zeros are not stored where zarr finds nothing else in a chunk: they come from the fill value.
    stored = zarr_zip(
        tmp_path / "a.zip",
        {"a": array},
        chunks={"a": tuple(data.draw(st.integers(1, n + 1)) for n in array.shape)},
        order=data.draw(st.sampled_from("CF")),
        fill_value=data.draw(st.sampled_from([0, 2])),
    )
    store = ZarrZip(stored, "store")
    for _ in range(3):
        at = tuple(data.draw(st.integers(0, n - 1)) for n in array.shape)
        at = at[: data.draw(st.integers(0, array.ndim))]
        np.testing.assert_array_equal(store.read("a", *at), array[at])


def test_a_part_is_made_of_its_own_chunks_alone(tmp_path: Path) -> None:
    array = RNG.integers(0, 10000, (2, 3, 400)).astype(np.int16)
    data = zarr_zip(tmp_path / "a.zip", {"a": array}, chunks={"a": (1, 1, 400)})
    # Behind the member's name and some more of its header lie its 800 bytes.
    at = data.index(b"a/1.2.0") + 200
    damaged = data[:at] + b"\xff\xff\xff" + data[at + 3 :]
    store = ZarrZip(damaged, "store")
    for i, j in [(0, 0), (0, 2), (1, 1)]:
        np.testing.assert_array_equal(store.read("a", i, j), array[i, j])
    with pytest.raises(SampleError, match=r"store: a/1\.2\.0: Bad CRC-32"):
        store.read("a", 1, 2)


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "f2"), (-np.inf, "f4"), (7, "i2")])
def test_a_chunk_that_is_not_stored_is_all_fill_value(
    tmp_path: Path, value: float, dtype: str
) -> None:
    array = np.full((4, 2), value, dtype)
    array[0] = 1
    data = zarr_zip(tmp_path / "a.zip", {"a": array}, chunks={"a": (1, 2)}, fill_value=value)
    assert "a/3.0" not in zipfile.ZipFile(io.BytesIO(data)).namelist()
    np.testing.assert_array_equal(only_array(data), array)


def test_text_of_any_length_is_read(tmp_path: Path) -> None:
    names = np.array(["", "vv", "länger"], object)
    data = zarr_zip(tmp_path / "a.zip", {"a": names}, chunks={"a": (2,)})
    assert only_array(data).tolist() == names.tolist()


def test_attributes_are_those_of_the_array(tmp_path: Path) -> None:
    arrays = {"a": np.zeros(1), "b": np.zeros(1)}
    data = zarr_zip(tmp_path / "a.zip", arrays, attributes={"a": {"units": "m"}})
    store = ZarrZip(data, "store")
    assert store.attributes("a") == {"units": "m"}
    assert store.attributes("b") == {}
    assert "a" in store
    assert "c" not in store


def test_what_is_not_supported_is_told(tmp_path: Path) -> None:
    array = {"a": np.arange(5)}
    with pytest.raises(SampleError, match="compressed by 'lzma', which is not supported; blosc,"):
        only_array(zarr_zip(tmp_path / "a.zip", array, compressors=numcodecs.LZMA()))
    with pytest.raises(SampleError, match=r"filters \['delta'\] is not supported"):
        only_array(zarr_zip(tmp_path / "a.zip", array, filters=[numcodecs.Delta("i8")]))
    store = ZarrZip(zarr_zip(tmp_path / "a.zip", array), "store")
    with pytest.raises(SampleError, match="store: no array 'bands'"):
        store.read("bands")
    for at in [(5,), (-1,), (0, 0)]:
        with pytest.raises(SampleError, match=r"store: a has shape \(5,\), and no part"):
            store.read("a", *at)


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "store: not a zip file"),
        (b"PK" * 100, "store: not a zip file"),
        (zipped(a=b""), "no readable .zmetadata: not a consolidated zarr store, format 2"),
        (zipped(**{".zmetadata": b"[1, 2]"}), "not a consolidated zarr store"),
    ],
    ids=["nothing", "no zip", "no metadata", "other metadata"],
)
def test_what_is_no_store_is_told(data: bytes, told: str) -> None:
    with pytest.raises(SampleError, match=told):
        ZarrZip(data, "store")


@pytest.mark.parametrize("told_bytes", [39, 41, -1, 2**30])
def test_a_chunk_of_another_size_is_damage(tmp_path: Path, told_bytes: int) -> None:
    data = zarr_zip(tmp_path / "a.zip", {"a": np.arange(5)})
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {name: file.read(name) for name in set(file.namelist())}
    chunk = members["a/0"]
    members["a/0"] = chunk[:4] + told_bytes.to_bytes(4, "little", signed=True) + chunk[8:]
    with pytest.raises(SampleError, match=r"a/0: a chunk of -?\d+ bytes where 40 belong"):
        only_array(zipped(**members))


@pytest.mark.parametrize(
    ("value", "units"),
    [
        (1587289231 * 10**9, None),
        (1587289231, "seconds since 1970-01-01"),
        (13, "seconds since 2020-04-19 09:40:18"),
        (0, "days since 2020-04-19 09:40:31"),
        (-20.0, "minutes since 2020-04-19T10:00:31"),
    ],
)
def test_times_are_counted_in_their_units(value: float, units: str | None) -> None:
    found = as_times(np.array([value]), {"units": units} if units else {}, "store")
    assert found == np.datetime64("2020-04-19T09:40:31", "ns")


@pytest.mark.parametrize(
    ("value", "units"),
    [
        *((0, None), (-1, None), (np.iinfo(np.int64).min, None)),
        *((np.nan, "days since 2020-01-01"), (np.datetime64("NaT", "ns"), None)),
        (np.datetime64(0, "ns"), None),
    ],
)
def test_times_of_nothing_are_unknown(value: Any, units: str | None) -> None:
    found = as_times(np.array([value]), {"units": units} if units else {}, "store")
    assert np.isnat(found).all()


@pytest.mark.parametrize(
    ("value", "units"),
    [
        *((1, "months since 2020-01-01"), (1, "seconds"), (1, "days since last week")),
        *((1, "days since 2020-13-01"), ("2020-01-06", "nanoseconds since 1970-01-01")),
    ],
)
def test_times_that_are_not_understood_are_told(value: Any, units: str) -> None:
    with pytest.raises(SampleError, match=f"store: times of type .* in '{units}' are not under"):
        as_times(np.array([value]), {"units": units}, "store")
