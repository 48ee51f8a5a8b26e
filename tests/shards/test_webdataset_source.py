"""Foreign tars as a source: written by tarfile, by webdataset itself, and by us."""

import contextlib
import io
import json
import pickle
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from configs.errors import ConfigError
from configs.load import parse_config
from configs.registry import modality
from configs.schema import WebDatasetSourceConfig
from shards.build import build
from shards.codec import encode_blosc2, encode_npy
from shards.dataset import open_dataset
from shards.errors import SampleError, SourceError
from shards.sample import Sample, checked, part_problem
from shards.sources.base import refs_of
from shards.sources.decoders import decode_member
from shards.sources.own_rows import label_row
from shards.sources.webdataset import WebDatasetSource
from shards.verify import verify
from tests.shards.helpers import source_config, tiny_array, write_tiff

# Untyped on purpose: it names what it has when it is imported.
webdataset: Any = pytest.importorskip("webdataset")
PX = 6
Members = Sequence[tuple[str, bytes]]


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.asarray(array))
    return stream.getvalue()


def npz(*arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, *arrays)
    return stream.getvalue()


def picture(array: np.ndarray, form: str = "PNG", mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(stream, form)
    return stream.getvalue()


def tiff(folder: Path, array: np.ndarray, **options: Any) -> bytes:
    write_tiff(folder / "x.tif", array, **options)
    return (folder / "x.tif").read_bytes()


def dem(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3000, (1, PX, PX)).astype(np.int16)


def write_tar(path: Path, members: Members, form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def source_of(url: object, members: dict[str, str], **options: Any) -> WebDatasetSource:
    urls = url if isinstance(url, tuple) else (str(url),)
    return WebDatasetSource(WebDatasetSourceConfig(urls=urls, members=members, **options))


def samples_of(url: object, members: dict[str, str], **options: Any) -> list[Sample]:
    source = source_of(url, members, **options)
    return [checked(source.read(ref), source.rows) for ref in refs_of(source.listing())]


def one(folder: Path, suffix: str, data: bytes, name: str, **options: Any) -> Sample:
    """The only sample of a tar with one member of interest and a good one beside it."""
    path = write_tar(folder / "one.tar", [(f"a.{suffix}", data), ("a.ok.txt", b"fine")])
    (sample,) = samples_of(path, {suffix: name, "ok.txt": "captions"}, **options)
    return sample


def test_members_with_one_key_are_one_sample(tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar",
        [("x.dem.npy", npy(dem(0))), ("x.txt", b"a plain"), ("y.dem.npy", npy(dem(1)))],
    )
    first, second = samples_of(tar, {"dem.npy": "DEM", "txt": "captions"})
    assert (first.key, second.key) == ("x", "y")
    np.testing.assert_array_equal(first.parts["DEM"], dem(0))
    assert first.parts["captions"] == "a plain"
    assert set(second.parts) == {"DEM"}
    assert not second.faults


def test_interleaved_members_are_joined_by_key(tmp_path: Path) -> None:
    members = [("x.dem.npy", npy(dem(0))), ("y.dem.npy", npy(dem(1)))]
    members += [("y.txt", b"of y"), ("x.txt", b"of x")]
    tar = write_tar(tmp_path / "a.tar", members)
    found = {s.key: s for s in samples_of(tar, {"dem.npy": "DEM", "txt": "captions"})}
    assert {key: sample.parts["captions"] for key, sample in found.items()} == {
        "x": "of x",
        "y": "of y",
    }
    np.testing.assert_array_equal(found["y"].parts["DEM"], dem(1))


# webdataset leaves its tars open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_keys_are_cut_as_webdataset_cuts_them(tmp_path: Path) -> None:
    names = ["v1.0.txt", "./b.1.0.txt", "a/b.c/d.e.txt", "README", ".hidden.txt", "with space.txt"]
    tar = write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names])
    theirs = {
        s["__key__"]: {k for k in s if not k.startswith("_")}
        for s in webdataset.WebDataset(str(tar), shardshuffle=False)
    }
    assert theirs["a/b.c/d"] == {"e.txt"}
    listed = {}
    for suffix in ("0.txt", "1.0.txt", "e.txt", "txt"):
        (sample,) = samples_of(tar, {suffix: "captions"})
        listed[sample.key] = suffix
    ours = {"v1": "0.txt", "b": "1.0.txt", "a%2Fb%2Ec%2Fd": "e.txt", "with%20space": "txt"}
    assert listed == ours


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_in_every_dialect(tmp_path: Path, form: int) -> None:
    key = "f" * 60 + "/" + "k" * 70
    tar = write_tar(tmp_path / "a.tar", [(f"{key}.txt", b"long"), ("b.txt", b"short")], form)
    assert [s.key for s in samples_of(tar, {"txt": "captions"})] == [key.replace("/", "%2F"), "b"]


def test_folders_and_links_are_no_members(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("a.txt", b"x")])
    with tarfile.open(path, "a") as tar:
        for name, kind in (("b.txt", tarfile.SYMTYPE), ("c.txt", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.txt"
            tar.addfile(info)
    assert [s.key for s in samples_of(path, {"txt": "captions"})] == ["a"]


def test_what_webdataset_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "wds.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for i in range(3):
            writer.write(
                {"__key__": f"k{i}", "dem.npy": dem(i), "cls": i, "json": {"lon": i, "lat": 0}}
            )
    members = {"dem.npy": "DEM", "cls": "label", "json": "meta"}
    samples = samples_of(path, members, classes={"label": 5})
    assert [s.key for s in samples] == ["k0", "k1", "k2"]
    for i, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.parts["DEM"], dem(i))
        assert np.flatnonzero(sample.parts["label"]).tolist() == [i]
        assert (sample.meta.lon, sample.meta.lat) == (i, 0)


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
@settings(max_examples=120, deadline=None)
def test_random_bytes_are_a_part_or_a_sample_error(form: Any, data: bytes, begun: bool) -> None:
    suffix, row = form
    starts = {"npy": npy(dem(0))[:70], "npz": npz(dem(0))[:40], "png": b"\x89PNG\r\n\x1a\n"}
    starts |= {"b2": encode_npy(dem(0))[:8], "tif": b"II*\0", "jpg": b"\xff\xd8\xff\xe0"}
    # Any other error ends the test.
    with contextlib.suppress(SampleError):
        part = decode_member(suffix, starts.get(suffix, b"") * begun + data, row, "somewhere")
        assert part_problem(part, row) is None


META = {
    "lon": 9.5,
    "lat": 45.25,
    "crs": "EPSG:32632",
    "transform": [10, 0, 500000, 0, -10, 5000000],
    "times": {"DEM": "2011-01-01", "S2L2A": "2021-07-23"},
    "cloud": 0.25,
    "products": {"S2L2A": "S2A_MSIL2A_20210723"},
    "camera": "anything else is passed over",
}


def test_json_gives_place_and_days(tmp_path: Path) -> None:
    members = [("a.npy", npy(dem(0))), ("a.json", json.dumps(META).encode())]
    source = source_of(write_tar(tmp_path / "a.tar", members), {"npy": "DEM", "json": "meta"})
    assert list(source.rows) == ["DEM", "coordinates", "date"]
    (ref,) = refs_of(source.listing())
    sample = source.read(ref)
    assert (ref.lon, ref.lat) == (sample.meta.lon, sample.meta.lat) == (9.5, 45.25)
    assert sample.meta.crs == "EPSG:32632"
    assert sample.meta.transform == (10, 0, 500000, 0, -10, 5000000)
    assert (sample.meta.cloud, sample.meta.products) == (0.25, META["products"])
    assert np.asarray(sample.parts["coordinates"]).tolist() == [9.5, 45.25]
    # Of the modalities this source has, the first that has a day.
    assert sample.parts["date"] == "2011-01-01"


@pytest.mark.parametrize("text", ["{", "[1]", '{"lon": "x", "lat": 1}', '{"transform": [1]}'])
def test_damaged_json_is_a_fault_and_no_place(tmp_path: Path, text: str) -> None:
    members = [("a.npy", npy(dem(0))), ("a.json", text.encode())]
    source = source_of(write_tar(tmp_path / "a.tar", members), {"npy": "DEM", "json": "meta"})
    (ref,) = refs_of(source.listing())
    sample = source.read(ref)
    assert ref.lon is sample.meta.lon is None
    assert list(sample.faults) == ["meta"]


def cut_tar(folder: Path, num_bytes: int) -> Path:
    """Three samples of DEM and text, of which `num_bytes` are left; a member takes 1024."""
    members = [(f"k{i}.{s}", d) for i in range(3) for s, d in (("npy", npy(dem(i))), ("txt", b"t"))]
    path = write_tar(folder / "cut.tar", members)
    path.write_bytes(path.read_bytes()[:num_bytes])
    return path


def read_cut(path: Path) -> list[Sample]:
    source = source_of(path, {"npy": "DEM", "txt": "captions"})
    with pytest.warns(UserWarning, match=r"cut\.tar is cut or damaged.*what lies before is used"):
        refs = refs_of(source.listing())
    return [source.read(ref) for ref in refs]


def test_a_member_that_is_cut_is_a_fault_and_the_rest_is_used(tmp_path: Path) -> None:
    first, second = read_cut(cut_tar(tmp_path, 2 * 1024 + 700))
    assert set(first.parts) == {"DEM", "captions"}
    assert not first.faults
    assert "ends inside of k1.npy" in second.faults["DEM"]
    assert "may have been behind" in second.faults["captions"]
    assert not second.parts


@pytest.mark.parametrize("num_bytes", [3 * 1024, 3 * 1024 + 100])
def test_what_may_be_lost_behind_the_cut_is_a_fault(tmp_path: Path, num_bytes: int) -> None:
    first, second = read_cut(cut_tar(tmp_path, num_bytes))
    assert not first.faults
    assert set(second.parts) == {"DEM"}
    assert "k1.txt may have been behind" in second.faults["captions"]


def test_a_file_that_is_no_tar_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"nothing" * 200)
    with pytest.raises(SourceError, match=r"a\.tar is cut or damaged at byte 0: not a tar header"):
        source_of(tmp_path / "a.tar", {"npy": "DEM"}).listing()


def test_a_member_that_comes_twice_is_a_fault(tmp_path: Path) -> None:
    members = [("a.npy", npy(dem(0))), ("a.npy", npy(dem(1))), ("a.txt", b"t")]
    tar = write_tar(tmp_path / "a.tar", members)
    (sample,) = samples_of(tar, {"npy": "DEM", "txt": "captions"})
    assert "a.npy comes twice" in sample.faults["DEM"]


def test_tars_are_blocks_in_the_order_of_the_urls(tmp_path: Path) -> None:
    for name in ("b0", "b1", "a0"):
        write_tar(tmp_path / f"{name}.tar", [(f"{name}.txt", b"x")])
    urls = (str(tmp_path / "b*.tar"), str(tmp_path / "a0.tar"), str(tmp_path / "b1.tar"))
    listing = source_of(urls, {"txt": "captions"}, split="train").listing()
    assert listing.column("key").to_pylist() == ["b0", "b1", "a0"]
    assert listing.column("block").to_pylist() == [0, 1, 2]
    assert listing.column("split").to_pylist() == ["train"] * 3
    plain = source_of(urls, {"txt": "captions"})
    assert "split" not in plain.listing().column_names
    assert plain.fingerprint() == source_of(urls, {"txt": "captions"}).fingerprint()
    assert plain.fingerprint() != source_of(urls[:1], {"txt": "captions"}).fingerprint()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"members": {"npy": "captions"}}, r"captions \(text\) cannot be read from .*\.npy"),
        ({"members": {"tif": "biome"}}, r"biome \(vector\) cannot be read"),
        ({"members": {"pth": "DEM"}}, r"DEM \(image\) cannot be read"),
        ({"members": {"cls": "label"}}, r"label not in the registry.*source\.classes=\{NAME"),
        ({"members": {"cls": "biome"}, "classes": {"biome": 14}}, "only for those"),
        ({"urls": ("http://x/a.tar",)}, "is not local"),
        ({"urls": ("nowhere-{000..009}.tar",)}, r"no file matches .*FOLDER/shard-\*\.tar"),
        ({"members": {"tif": "DEM"}}, "no member ends in tif; there are txt"),
    ],
)
def test_a_wrong_configuration_says_what_to_write(
    tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    tar = write_tar(tmp_path / "a.tar", [("a.txt", b"x")])
    with pytest.raises(SourceError, match=told):
        source_of(options.pop("urls", tar), **({"members": {"txt": "OSM"}} | options)).listing()


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"urls": ["a.tar"], "members": {}}, "must not be empty"),
        ({"urls": ["a.tar"], "members": {"a": "DEM", "b": "DEM"}}, "names a modality twice"),
        ({"urls": ["a.tar"], "members": {"cls": "x"}, "classes": {"y": 3}}, "number of classes"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(source: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_config({"kind": "shards", "out": "x", "source": {"type": "webdataset", **source}})


def test_our_own_shards_are_read_back(built: Path) -> None:
    dataset = open_dataset(built)
    members = {f"{n}.b2": n for n in ("S2L2A", "S1RTC", "DEM", "LULC")}
    members |= {"coordinates.npy": "coordinates", "date.txt": "date", "meta.json": "meta"}
    source = source_of(str(built / "*" / "*.tar"), members)
    refs = {ref.key: ref for ref in refs_of(source.listing())}
    assert set(refs) == set(dataset.keys)
    for i, key in enumerate(dataset.keys):
        sample = source.read(refs[key])
        expected = dataset.read(i, dataset.modalities)
        assert not sample.faults
        assert sample.parts.keys() == expected.keys()
        for name, part in expected.items():
            np.testing.assert_array_equal(sample.parts[name], part)
        meta = dataset.meta(i)
        assert (sample.meta.transform, sample.meta.times) == (meta.transform, meta.times)


def test_a_build_holds_what_the_tars_held(tmp_path: Path) -> None:
    expected = {}
    for t in range(2):
        members = []
        for i in range(4):
            key, place = f"t{t}_{i}", {"lon": 3.0 * i, "lat": 40.0 * t}
            expected[key] = {
                "S2L2A": tiny_array("S2L2A", 4 * t + i),
                "DEM": tiny_array("DEM", 4 * t + i),
            }
            members += [(f"{key}.json", json.dumps(place).encode())]
            members += [(f"{key}.s2.npy", npy(expected[key]["S2L2A"].astype(np.uint16)))]
            if i:
                members += [(f"{key}.dem.tif", tiff(tmp_path, expected[key]["DEM"]))]
            else:
                del expected[key]["DEM"]
        write_tar(tmp_path / f"{t}.tar", members, tarfile.PAX_FORMAT)
    told = {"s2.npy": "S2L2A", "dem.tif": "DEM", "json": "meta"}
    source = {"type": "webdataset", "urls": [str(tmp_path / "*.tar")], "members": told}
    result = build(source_config(source, tmp_path / "out", samples_per_shard=3), quiet=True)
    assert result is not None
    assert (result.num_samples, result.num_quarantined) == (8, 0)
    report = verify(tmp_path / "out")
    assert report.ok, report.errors
    dataset = open_dataset(tmp_path / "out")
    for i, key in enumerate(dataset.keys):
        parts = dataset.read(i, ["S2L2A", "DEM"])
        assert parts.keys() == expected[key].keys()
        for name, part in parts.items():
            np.testing.assert_array_equal(part, expected[key][name])
