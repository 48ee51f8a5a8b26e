"""Foreign tars as a source: written by tarfile, by webdataset itself, and by us."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from shards.build import build
from shards.dataset import open_dataset
from shards.errors import SourceError
from shards.sources.base import refs_of
from shards.verify import verify
from tests.shards.helpers import source_config, tiny_array
from tests.shards.webdataset_twin import dem, npy, samples_of, source_of, tiff, write_tar

# Untyped on purpose: it names what it has when it is imported.
webdataset: Any = pytest.importorskip("webdataset")


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
