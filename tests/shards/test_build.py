"""A build: what it makes, and that it goes on where it was stopped."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards.__main__ import main
from shards.build import build
from shards.dataset import open_dataset
from shards.errors import ShardError
from shards.filters import samples_columns
from tests.shards.helpers import (
    KILL,
    ROOT,
    command_for,
    config_for,
    contents,
    make_collection,
    run_shards,
    source_config,
    tiny_array,
    write_tiff,
)
from tests.shards.webdataset_twin import npy, write_tar


def test_building_again_does_nothing_and_says_so(
    built: Path, collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in built.rglob("*")}
    with pytest.raises(SystemExit, match="0"):
        main(command_for(collection, built))
    assert "everything is done" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in built.rglob("*")} == before


def test_a_file_rewritten_in_its_size_is_told(tmp_path: Path) -> None:
    source, out = make_collection(tmp_path / "in", num=3), tmp_path / "out"
    build(config_for(source, out), quiet=True)
    path = source / "DEM" / "place1.tif"
    size = path.stat().st_size
    write_tiff(path, tiny_array("DEM", 7), east_m=330000.0)
    assert path.stat().st_size == size
    told = rf"DEM/place1\.tif was written after .*: remove {out} and build it anew"
    with pytest.warns(UserWarning, match=told):
        result = build(config_for(source, out), quiet=True)
    assert result is not None
    assert result.num_built == 0
    done = run_shards(*command_for(source, out))
    assert done.returncode == 0
    assert "everything is done" in done.stdout
    assert "place1.tif was written after" in done.stderr


@pytest.mark.parametrize("kind", ["geotiff_list", "webdataset"])
def test_so_are_files_of_a_table_and_tars(tmp_path: Path, kind: str) -> None:
    write_tiff(tmp_path / "a.tif", tiny_array("DEM", 0))
    write_tar(tmp_path / "a.tar", [("a.npy", npy(tiny_array("DEM", 0)))])
    (tmp_path / "a.csv").write_text("key,dem\na,a.tif\nb,gone.tif\n")
    source: dict[str, object] = {
        "geotiff_list": {"table": str(tmp_path / "a.csv"), "columns": {"dem": "DEM"}},
        "webdataset": {"urls": [str(tmp_path / "a.tar")], "members": {"npy": "DEM"}},
    }[kind]
    config = source_config({"type": kind, **source}, tmp_path / "out", max_bad=1)
    build(config, quiet=True)
    build(config, quiet=True)
    for name in ("a.tif", "a.tar"):
        os.utime(tmp_path / name, (2e9, 2e9))
    with pytest.warns(UserWarning, match=r"a\.t(if|ar) was written after"):
        build(config, quiet=True)


def test_statistics_equal_those_of_all_pixels(built: Path) -> None:
    dataset = open_dataset(built)
    train = dataset.select("train")
    assert 0 < len(train) < dataset.num_samples
    for name in ("S2L2A", "DEM", "S1RTC"):
        arrays = [a for i in train for a in dataset.read(i, [name]).values()]
        pixels = np.stack([a for a in arrays if isinstance(a, np.ndarray)]).astype(np.float64)
        np.testing.assert_allclose(
            dataset.statistics[name].mean, pixels.mean((0, 2, 3)), rtol=1e-12
        )
        np.testing.assert_allclose(dataset.statistics[name].std, pixels.std((0, 2, 3)), rtol=1e-12)
    lulc = np.concatenate([dataset.read(i, ["LULC"]).get("LULC", np.empty(0)) for i in train], None)
    assert (
        dataset.class_counts["LULC"].tolist()
        == np.bincount(lulc.astype(int), minlength=10).tolist()
    )


def test_statistics_leave_out_nodata_and_what_is_not_finite(tmp_path: Path) -> None:
    dem = np.array([[[10, -9999], [30, -32768]]], np.int16)
    s1 = np.array([[[-10, np.nan], [-14, np.inf]], [[-20, -20], [-20, -24]]], np.float64)
    write_tiff(tmp_path / "in" / "DEM" / "a.tif", dem, nodata=-9999)
    write_tiff(tmp_path / "in" / "S1RTC" / "a.tif", s1)
    build(config_for(tmp_path / "in", tmp_path / "out", splits={"train": 1.0}), quiet=True)
    dataset = open_dataset(tmp_path / "out")
    assert dataset.manifest["statistics"]["DEM"] == {"mean": [20.0], "std": [10.0], "count": [2]}
    assert dataset.manifest["statistics"]["S1RTC"]["mean"] == [-12.0, -21.0]
    assert dataset.manifest["statistics"]["S1RTC"]["count"] == [2, 4]
    array = dataset.read(0, ["DEM"])["DEM"]
    assert np.asarray(array).tolist() == [[[10, -32768], [30, -32768]]]


def test_the_samples_table_agrees_with_the_index(built: Path) -> None:
    dataset = open_dataset(built)
    columns = samples_columns(dataset)
    table = columns.to_pydict()
    assert table["key"] == list(dataset.keys)
    where = zip(table["split"], table["shard"], table["slot"], strict=True)
    assert list(where) == [dataset.location(i) for i in range(dataset.num_samples)]
    assert table["lon"] == [dataset.meta(i).lon for i in range(dataset.num_samples)]
    bit = [part.partition(".")[0] for part in json.loads(columns.schema.metadata[b"parts"])].index(
        "S1RTC"
    )
    assert [p >> bit & 1 for p in table["present"]] == dataset.present("S1RTC").tolist()


@pytest.mark.parametrize(
    ("what", "after"),
    # Renames: 0 the plan; 1, 2, 3 record, index and tar of the first shard; the last the manifest.
    [("read", 6), ("rename", 2), ("rename", 3), ("rename", 12)],
)
def test_a_build_killed_anywhere_resumes_to_the_same_bytes(
    what: str, after: int, collection: Path, built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    command = command_for(collection, out)
    killed = subprocess.run(
        [sys.executable, "-c", KILL, what, str(after), *command], cwd=ROOT, timeout=60
    )
    assert killed.returncode == -9
    with pytest.raises(ShardError, match="not a finished data set"):
        open_dataset(out)
    kept = {p: p.stat().st_mtime_ns for p in out.glob("*/*.tar")}
    build(config_for(collection, out), quiet=True)
    assert contents(out) == contents(built)
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items()), "a finished shard was redone"


def test_a_missing_or_cut_shard_is_made_again(copy: Path, collection: Path, built: Path) -> None:
    first, second = sorted(copy.glob("*/*.tar"))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    result = build(config_for(collection, copy), quiet=True)
    assert result is not None
    assert result.num_built == 2
    assert contents(copy) == contents(built)


def test_a_folder_made_from_another_plan_is_refused(built: Path, collection: Path) -> None:
    before = contents(built)
    with pytest.raises(ShardError, match=r"another plan.*seed was 0, now 1"):
        build(config_for(collection, built, seed=1), quiet=True)
    with pytest.raises(ShardError, match=r"another plan.*splits"):
        build(config_for(collection, built, splits={"train": 1.0}), quiet=True)
    assert contents(built) == before


def test_two_builds_do_not_write_to_one_folder(collection: Path, tmp_path: Path) -> None:
    fd = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        with pytest.raises(ShardError, match="another build is writing"):
            build(config_for(collection, tmp_path), quiet=True)
    finally:
        os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_told_and_loses_nothing(
    collection: Path, built: Path, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = max(p.stat().st_size for p in built.glob("*/*.tar")) + 60_000
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)])
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        command = command_for(collection, disk / "set")
        full = run_shards(*command)
        assert full.returncode == 2
        assert "no space left" in full.stderr
        assert "finished shards are kept" in full.stderr
        assert "Traceback" not in full.stderr
        assert not list((disk / "set").rglob(".*.tmp-*")), "temporaries still take space"
        kept = {p.name for p in disk.glob("set/*/*.tar")}
        assert kept
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        build(config_for(collection, disk / "set"), quiet=True)
        assert contents(disk / "set") == contents(built)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
