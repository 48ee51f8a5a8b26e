"""The forms of a member of a foreign tar: the same values from each, and what cannot be kept is a fault."""

import contextlib
import io
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.registry import modality
from shards.codec import encode_blosc2, encode_npy
from shards.errors import SampleError
from shards.sample import part_problem
from shards.sources.decoders import decode_member
from shards.sources.own_rows import label_row
from tests.shards.webdataset_twin import PX, dem, npy, npz, one, picture, tiff

_CASES: dict[str, Callable[[Path], tuple[bytes, str, np.ndarray]]] = {
    "npy": lambda _: (npy(dem(1)), "DEM", dem(1)),
    "npy, two axes": lambda _: (npy(dem(1)[0]), "DEM", dem(1)),
    "npy, Fortran order": lambda _: (npy(np.asfortranarray(dem(1))), "DEM", dem(1)),
    "npy, other types": lambda _: (npy(dem(1).astype(">f8")), "DEM", dem(1)),
    "npz": lambda _: (npz(dem(1)), "DEM", dem(1)),
    "b2": lambda _: (encode_blosc2(dem(1), modality("DEM").codec), "DEM", dem(1)),
    "tif": lambda folder: (tiff(folder, dem(1)), "DEM", dem(1)),
    "png": lambda _: (
        picture(np.eye(PX, dtype=np.uint8)),
        "LULC",
        np.eye(PX, dtype=np.uint8)[None],
    ),
    "png, palette": lambda _: (
        picture(np.zeros((PX, PX), np.uint8), mode="P"),
        "LULC",
        np.zeros((1, PX, PX), np.uint8),
    ),
    "png, colour": lambda _: (
        picture(np.arange(PX * PX * 3, dtype=np.uint8).reshape(PX, PX, 3)),
        "S2RGB",
        np.moveaxis(np.arange(PX * PX * 3, dtype=np.uint8).reshape(PX, PX, 3), 2, 0),
    ),
    "npy, vector": lambda _: (npy(np.eye(14)[3]), "biome", np.eye(14, dtype=np.uint8)[3]),
    "cls": lambda _: (b"3", "biome", np.eye(14, dtype=np.uint8)[3]),
    "npy, coordinates": lambda _: (npy([9.5, 45.25]), "coordinates", np.array([9.5, 45.25])),
}


@pytest.mark.parametrize("case", _CASES)
def test_each_form_gives_the_same_values(tmp_path: Path, case: str) -> None:
    data, name, expected = _CASES[case](tmp_path)
    sample = one(tmp_path, f"v1.{case.partition(',')[0]}", data, name)
    part = sample.parts[name]
    assert isinstance(part, np.ndarray)
    assert part.dtype == np.dtype(modality(name).dtype)
    np.testing.assert_array_equal(part, expected)


def test_a_jpeg_is_read_as_colour(tmp_path: Path) -> None:
    sample = one(tmp_path, "jpg", picture(np.full((8, 8, 3), 200, np.uint8), "JPEG"), "S2RGB")
    assert (abs(np.asarray(sample.parts["S2RGB"], int) - 200) < 3).all()


def test_texts_and_days_are_texts(tmp_path: Path) -> None:
    assert one(tmp_path, "d.txt", b"2021-07-23\n", "date").parts["date"] == "2021-07-23"
    assert one(tmp_path, "t.txt", "Füße".encode(), "OSM").parts["OSM"] == "Füße"
    assert "expected a day" in one(tmp_path, "d.txt", b"yesterday", "date").faults["date"]


def test_no_data_of_a_tiff_becomes_the_registrys(tmp_path: Path) -> None:
    heights = dem(2)
    heights[0, 0, 0] = -9999
    sample = one(tmp_path, "tif", tiff(tmp_path, heights, nodata=-9999), "DEM")
    assert np.asarray(sample.parts["DEM"])[0, 0, 0] == modality("DEM").nodata


class Evil:
    def __reduce__(self) -> Any:
        return print, ("ran",)


@pytest.mark.parametrize(
    ("suffix", "name", "data", "told"),
    [
        (
            "npy",
            "DEM",
            npy(np.ones((2, 4, 4), np.int16)),
            r"DEM is \(1, H, W\), this is \(2, 4, 4\)",
        ),
        ("npy", "DEM", npy(np.full((1, 2, 2), 0.5)), "the file has fractions"),
        ("npy", "DEM", npy(np.full((1, 2, 2), 70000)), "do not fit into DEM's int16"),
        ("npy", "DEM", npy(np.zeros((1, 0, 4), np.int16)), r"this is \(1, 0, 4\)"),
        ("npy", "DEM", npy(np.array([["a"]])), "are no numbers"),
        ("npy", "DEM", npy(dem(0))[:-1], "buffer is smaller"),
        ("npy", "DEM", b"no array", "magic"),
        ("npy", "biome", npy(np.ones(13)), r"biome is \(14,\), this is \(13,\)"),
        ("npz", "DEM", npz(dem(0), dem(1)), "it must hold one"),
        ("npz", "DEM", npz(dem(0))[:60], "zip"),
        ("tif", "DEM", b"II*\0 nothing", "not readable as GeoTIFF"),
        ("png", "S2RGB", picture(np.zeros((4, 4, 4), np.uint8)), r"S2RGB is \(3, H, W\)"),
        ("png", "S2RGB", picture(np.zeros((99, 99, 3), np.uint8))[:70], "one.tar: a.png"),
        ("cls", "biome", b"14", r"biome has the classes 0 \.\. 13, not 14"),
        ("cls", "biome", b"forest", "invalid literal"),
        ("b2", "DEM", b"EOB2", "not a .b2 member"),
        ("txt", "OSM", b"\xff\xfe", "one.tar: a.txt"),
    ],
)
def test_what_cannot_be_kept_is_a_fault_of_that_part(
    tmp_path: Path, suffix: str, name: str, data: bytes, told: str
) -> None:
    sample = one(tmp_path, suffix, data, name)
    assert set(sample.parts) == {"captions"}
    assert re.search(told, sample.faults[name])
    assert "one.tar: a." in sample.faults[name]


def test_arrays_of_objects_are_refused_and_not_unpickled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], object), allow_pickle=True)
    assert "Python objects" in one(tmp_path, "npy", stream.getvalue(), "DEM").faults["DEM"]
    assert "Evil" not in capsys.readouterr().out
    pickle.loads(pickle.dumps(Evil()))
    assert capsys.readouterr().out == "ran\n"


_LABEL = label_row("label", "label", ["a", "b"])
_FORMS = [("npy", modality("DEM")), ("npz", modality("DEM")), ("b2", modality("DEM"))]
_FORMS += [("tif", modality("DEM")), ("png", modality("LULC")), ("jpg", modality("S2RGB"))]
_FORMS += [("cls", _LABEL), ("txt", modality("captions"))]


@given(st.sampled_from(_FORMS), st.binary(max_size=80), st.booleans())
@settings(max_examples=120)
def test_random_bytes_are_a_part_or_a_sample_error(form: Any, data: bytes, begun: bool) -> None:
    suffix, row = form
    starts = {"npy": npy(dem(0))[:70], "npz": npz(dem(0))[:40], "png": b"\x89PNG\r\n\x1a\n"}
    starts |= {"b2": encode_npy(dem(0))[:8], "tif": b"II*\0", "jpg": b"\xff\xd8\xff\xe0"}
    # Any other error ends the test.
    with contextlib.suppress(SampleError):
        part = decode_member(suffix, starts.get(suffix, b"") * begun + data, row, "somewhere")
        assert part_problem(part, row) is None
