"""The failure matrix, building: what the writer and the builder must survive. A test per row, or several.

    a dot in a key                        refused by the writer, escaped by sources
    a writer killed                       no half of a shard; the same bytes after another start
    killed while the index is made        no data set yet; `status` says so, another start finishes it
    a part of an extra never written      the shards that are missing, by name; nobody waits for ever
    two builds of one folder              one of them says so and leaves; two folders share nothing
    a corrupt source                      tried again, left out, counted, told; bounded
    NaN, infinity, constants, no time     told as warnings; never in statistics
    a full disk                           told; no temporaries; goes on where it was

What reading must survive is in `test_failure_matrix_reading.py`; what others do in these cases is in
the documents of the project's data formats.
"""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from shards.build import build
from shards.codec import META_PART
from shards.dataset import open_dataset
from shards.errors import SampleError, ShardError
from shards.extra import ExtraWriter
from shards.manifest import INDEX, MANIFEST, read_manifest
from shards.status import build_status
from shards.verify import verify
from shards.writer import ShardWriter
from tests.shards.geobench_twin import S2, optical, write_sample, write_task
from tests.shards.helpers import (
    KILL,
    ROOT,
    command_for,
    config_for,
    contents,
    damage,
    make_collection,
    quarantine,
    run_mpi,
    run_shards,
    source_config,
    write_tiff,
)
from tests.shards.zarr_twins import variables, write_tar, zarr_zip


def test_a_dot_in_a_key(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "a.tar", [META_PART]) as writer:
        with pytest.raises(SampleError, match="write a dot as %2E"):
            writer.add("scene_1.5m", {META_PART: b"{}"})
        writer.add("scene", {META_PART: b"{}"})
        assert writer.close().num_samples == 1
    write_tiff(tmp_path / "in" / "DEM" / "scene_1.5m.tif", np.ones((1, 8, 8), np.int16))
    build(config_for(tmp_path / "in", tmp_path / "out", splits={"train": 1.0}), quiet=True)
    assert list(open_dataset(tmp_path / "out").keys) == ["scene_1%2E5m"]
    with tarfile.open(tmp_path / "out" / "train" / "shard-000000.tar") as stock:
        assert {name.split(".")[0] for name in stock.getnames()} == {"scene_1%2E5m"}


def killed_build(collection: Path, out: Path, what: str, after: int) -> None:
    command = [sys.executable, "-c", KILL, what, str(after), *command_for(collection, out)]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == -signal.SIGKILL


def test_a_writer_killed(collection: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    killed_build(collection, out, "read", 6)
    assert list(out.rglob(".*.tmp-*")), "killed while it wrote"
    for tar in out.rglob("[!.]*.tar"):
        assert tar.read_bytes() == (built / tar.relative_to(out)).read_bytes()
    build(config_for(collection, out), quiet=True)
    assert not list(out.rglob(".*.tmp-*"))
    assert contents(out) == contents(built)


def test_killed_while_the_index_is_made(collection: Path, built: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    # Renames: the plan, three of each of the three shards, samples.parquet, then index.bin.
    killed_build(collection, out, "rename", 11)
    assert len(list(out.rglob("[!.]*.tar"))) == 3
    assert not (out / INDEX).exists()
    with pytest.raises(ShardError, match="not a finished data set"):
        open_dataset(out)
    status = build_status(out)
    assert (status["state"], status["share"]) == ("building", 1.0)
    result = build(config_for(collection, out), quiet=True)
    assert result is not None
    assert result.num_built == 0
    assert contents(out) == contents(built)


def test_a_part_of_an_extra_never_written(copy: Path) -> None:
    dataset = open_dataset(copy)
    writer = ExtraWriter(dataset, "tok", {})
    for split, name in dataset.shards[1:]:
        count = len(dataset.shard_samples(split, name))
        writer.write_shard(f"{split}/{name}", [None] * count)
    with pytest.raises(ShardError, match=r"1 of 3 shards are missing \(train/shard-000000\)"):
        writer.commit()
    assert open_dataset(copy).extras == ()


WAIT = """
import sys, time
from pathlib import Path
from shards.__main__ import main
from shards.sources.geotiff import GeoTiffSource

reading, go, *arguments = sys.argv[1:]
read = GeoTiffSource.read
def slow(self, ref):
    Path(reading).touch()
    while not Path(go).exists():
        time.sleep(0.01)
    return read(self, ref)
GeoTiffSource.read = slow
main(arguments)
"""


def test_two_builds_of_one_folder(collection: Path, built: Path, tmp_path: Path) -> None:
    reading, go, out = tmp_path / "reading", tmp_path / "go", tmp_path / "set"
    command = [sys.executable, "-c", WAIT, str(reading), str(go), *command_for(collection, out)]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while not reading.exists():
            assert first.poll() is None
            time.sleep(0.02)
        second = run_shards(*command_for(collection, out))
        assert second.returncode == 2
        assert second.stderr.startswith(f"error: another build is writing to {out}; wait for it")
        # Two folders, two users: nothing is shared but the files that are read.
        build(config_for(collection, tmp_path / "other"), quiet=True)
        go.touch()
        assert first.wait(timeout=60) == 0
    finally:
        first.kill()
        first.wait()
    assert contents(out) == contents(tmp_path / "other") == contents(built)


def test_a_corrupt_geotiff(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=5)
    damage(source / "S2L2A" / "place1.tif")
    (source / "DEM" / "place3.tif").write_bytes(b"no tiff")
    with pytest.raises(ShardError, match="more than max_bad=1") as told:
        build(config_for(source, tmp_path / "out", max_bad=1), quiet=True)
    assert "finished shards are kept" in str(told.value)
    build(config_for(source, tmp_path / "out", max_bad=2), quiet=True)
    assert {(f["key"], f["part"]) for f in quarantine(tmp_path / "out")} == {
        ("place1", "S2L2A"),
        ("place3", "DEM"),
    }
    assert read_manifest(tmp_path / "out" / MANIFEST)["num_quarantined"] == 2
    assert open_dataset(tmp_path / "out").num_samples == 5
    assert verify(tmp_path / "out").ok


def test_a_truncated_hdf5(tmp_path: Path) -> None:
    names = [f"id_{i}" for i in range(3)]
    write_task(tmp_path / "in", {"train": names})
    for i, name in enumerate(names):
        write_sample(tmp_path / "in" / f"{name}.hdf5", optical(S2, i), 0, east_m=3e5 + 5e4 * i)
    broken = tmp_path / "in" / "id_1.hdf5"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 3])
    source: dict[str, object] = {"type": "geobench", "path": str(tmp_path / "in")}
    build(source_config(source, tmp_path / "out", splits="source", max_bad=1), quiet=True)
    assert set(open_dataset(tmp_path / "out").keys) == {"id_0", "id_2"}
    (fault,) = quarantine(tmp_path / "out")
    assert "id_1.hdf5: not readable as HDF5" in fault["reason"]


def test_a_bad_zip(tmp_path: Path) -> None:
    good = zarr_zip(tmp_path / "a.zip", variables("DEM", 0))
    lulc = zarr_zip(tmp_path / "b.zip", variables("LULC", 0))
    cut_zip = good[: len(good) // 2]
    folder = tmp_path / "in" / "val"
    members = {"a.zarr.zip": good, "b.zarr.zip": cut_zip}
    write_tar(folder / "DEM" / "majortom_shard_000001.tar", members)
    write_tar(
        folder / "LULC" / "majortom_shard_000001.tar", {"a.zarr.zip": lulc, "b.zarr.zip": lulc}
    )
    source: dict[str, object] = {"type": "terramesh", "path": str(tmp_path / "in")}
    build(source_config(source, tmp_path / "out", splits="source", max_bad=1), quiet=True)
    dataset = open_dataset(tmp_path / "out")
    assert dataset.num_samples == 2
    assert dataset.present("DEM").tolist() == [True, False]
    (fault,) = quarantine(tmp_path / "out")
    assert (fault["key"], fault["part"]) == ("b", "DEM")


def test_nan_infinity_constants_and_days_that_cannot_be(tmp_path: Path) -> None:
    s1 = np.full((2, 8, 8), -10.0)
    s1[:, :4] = [[[-11.0]], [[-12.0]]]
    s1[0, 0, :3], s1[1, 0, 0] = np.nan, -np.inf
    for name, tags in (("a", {}), ("b", {"datetime": "1969-12-31T23:59:59"})):
        east_m = 300_000.0 + 50_000 * len(tags)
        write_tiff(tmp_path / "in" / "S1RTC" / f"{name}.tif", s1 - len(tags), east_m=east_m)
        flat = np.full((12, 8, 8), 700 + len(tags), np.int16)
        write_tiff(tmp_path / "in" / "S2L2A" / f"{name}.tif", flat, east_m=east_m, tags=tags)
    build(config_for(tmp_path / "in", tmp_path / "out", splits={"train": 1.0}), quiet=True)
    report = verify(tmp_path / "out")
    assert report.ok
    told = {(f.where, f.what.rsplit(" in ", 1)[0]) for f in report.warnings}
    assert told == {
        ("S1RTC", "infinite values"),
        ("S2L2A", "a constant image"),
        ("S2L2A", "a day before 1972-07-23, in the future, or none at all"),
        ("date", "a day before 1972-07-23, in the future, or none at all"),
    }
    statistics = read_manifest(tmp_path / "out" / MANIFEST)["statistics"]["S1RTC"]
    assert statistics["count"] == [2 * (64 - 3), 2 * (64 - 1)]
    assert np.isfinite(statistics["mean"] + statistics["std"]).all()


def test_a_time_of_zero_is_no_time() -> None:
    from shards.sources.zarrmaps import as_times

    times = as_times(np.array([0, -5, 1_627_046_561_000_000_000]), {}, "x")
    assert np.isnat(times).tolist() == [True, True, False]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk(collection: Path, built: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = max(p.stat().st_size for p in built.glob("*/*.tar")) + 60_000
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        with pytest.raises(ShardError, match=r"no space left at .* finished shards are kept"):
            build(config_for(collection, disk / "set"), quiet=True)
        assert not list(disk.rglob(".*.tmp-*")), "temporaries still take space"
        done = list(disk.glob("set/*/*.tar"))
        assert done
        assert all(
            t.read_bytes() == (built / t.relative_to(disk / "set")).read_bytes() for t in done
        )
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        build(config_for(collection, disk / "set"), quiet=True)
        assert contents(disk / "set") == contents(built)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.mpi
def test_a_rank_killed(
    collection: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher ends the others, and another number of ranks goes on to the same bytes."""
    # A killed rank cannot remove what Open MPI keeps in shared memory for it.
    monkeypatch.setenv("OMPI_MCA_btl_sm_backing_directory", str(tmp_path))
    out = tmp_path / "set"
    script = KILL.replace(
        "if next(calls) == after:",
        "if next(calls) == after and os.environ['OMPI_COMM_WORLD_RANK'] == '1':",
    )
    killed = run_mpi(2, ["-c", script, "read", "0", *command_for(collection, out)])
    assert killed.returncode != 0
    with pytest.raises(ShardError, match="not a finished data set"):
        open_dataset(out)
    again = run_mpi(3, ["-m", "shards", *command_for(collection, out)])
    assert again.returncode == 0, again.stderr
    assert contents(out) == contents(built)


@pytest.mark.mpi
def test_a_corrupt_source_under_mpi(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=6)
    damage(source / "DEM" / "place2.tif")
    command = command_for(source, tmp_path / "mpi", "max_bad=1")
    result = run_mpi(3, ["-m", "shards", *command])
    assert result.returncode == 0, result.stderr
    build(config_for(source, tmp_path / "alone", max_bad=1), quiet=True)
    assert contents(tmp_path / "mpi") == contents(tmp_path / "alone")
    assert json.loads((tmp_path / "mpi" / "quarantine.jsonl").read_text())["key"] == "place2"
