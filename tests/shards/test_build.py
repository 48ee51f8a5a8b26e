import dataclasses
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards import build as build_module
from shards.__main__ import main
from shards.build import build
from shards.dataset import open_dataset
from shards.errors import ShardError
from shards.fill import Task, fill_shard, open_site
from shards.filters import samples_columns
from shards.plan import plan
from shards.sources.geotiff import GeoTiffSource
from shards.verify import verify
from tests.shards.helpers import (
    ROOT,
    command_for,
    config_for,
    contents,
    make_collection,
    run_mpi,
    run_shards,
    write_tiff,
)


def damage(path: Path) -> None:
    """Keep the listing as it is and make the pixels unreadable."""
    path.write_bytes(path.read_bytes()[:200] + bytes(path.stat().st_size - 200))


def test_building_again_does_nothing_and_says_so(
    built: Path, collection: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_mtime_ns for p in built.rglob("*")}
    with pytest.raises(SystemExit, match="0"):
        main(command_for(collection, built))
    assert "everything is done" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in built.rglob("*")} == before


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


KILL = """
import os, pathlib, signal, sys
from shards.__main__ import main
from shards.sources.geotiff import GeoTiffSource

def deadly(function, after):
    calls = iter(range(10**9))
    def wrapped(*args, **kwargs):
        if next(calls) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped

what, after, *arguments = sys.argv[1:]
owner = {"read": GeoTiffSource, "rename": pathlib.Path}[what]
setattr(owner, what, deadly(getattr(owner, what), int(after)))
main(arguments)
"""


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


def quarantine(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]


def test_an_unusable_part_clears_its_bit_and_is_told_with_its_reason(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=6)
    damage(source / "S2L2A" / "place3.tif")
    build(config_for(source, tmp_path / "out", max_bad=1), quiet=True)
    dataset = open_dataset(tmp_path / "out")
    assert dataset.num_samples == 6
    i = dataset.keys.index("place3")
    assert not dataset.present("S2L2A")[i]
    assert set(dataset.read(i, dataset.modalities)) == {"DEM", "LULC", "coordinates"}
    (fault,) = quarantine(tmp_path / "out")
    assert (fault["key"], fault["part"]) == ("place3", "S2L2A")
    assert "S2L2A/place3.tif" in fault["reason"]


def test_an_unusable_sample_is_left_out_with_its_reason(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=6)
    write_tiff(source / "DEM" / "place3.tif", np.ones((1, 24, 24), np.int16), east_m=1.0)
    build(config_for(source, tmp_path / "out", max_bad=1), quiet=True)
    dataset = open_dataset(tmp_path / "out")
    assert dataset.num_samples == 5
    assert "place3" not in dataset.keys
    (fault,) = quarantine(tmp_path / "out")
    assert (fault["key"], fault["part"]) == ("place3", "")
    assert "do not show the same place" in fault["reason"]
    # The samples behind it move up: slots of a shard count on without a hole.
    for split, shard in dataset.shards:
        slots = [dataset.location(i)[2] for i in dataset.shard_samples(split, shard)]
        assert slots == list(range(len(slots)))


def test_the_bytes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=12)
    damage(source / "DEM" / "place7.tif")
    write_tiff(source / "DEM" / "place3.tif", np.ones((1, 24, 24), np.int16), east_m=1.0)
    write_tiff(source / "DEM" / f"{'long' * 24}.tif", np.ones((1, 24, 24), np.int16))
    config = config_for(source, tmp_path / "out", max_bad=9, splits={"train": 1.0})
    made = plan(GeoTiffSource(config.source).listing(), config)  # type: ignore[arg-type]
    found = []
    for threads in (1, 2, 5):
        out = tmp_path / str(threads)
        site = dataclasses.replace(
            open_site(config.model_copy(update={"out": out})), threads=threads
        )
        for shard in made.shards:
            fill_shard(site, Task(shard, made.refs(shard)), lambda: None)
        found.append(contents(out))
    assert found[0] == found[1] == found[2]


def test_a_sample_that_cannot_be_stored_is_left_out_too(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=2)
    write_tiff(source / "DEM" / f"{'long' * 24}.tif", np.ones((1, 24, 24), np.int16))
    build(config_for(source, tmp_path / "out", max_bad=1), quiet=True)
    assert sorted(open_dataset(tmp_path / "out").keys) == ["place0", "place1"]
    assert "shorter key" in (tmp_path / "out" / "quarantine.jsonl").read_text()


def test_a_shard_may_end_up_empty(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=3)
    write_tiff(source / "DEM" / "place1.tif", np.ones((1, 24, 24), np.int16), east_m=1.0)
    build(config_for(source, tmp_path / "out", max_bad=1, samples_per_shard=1), quiet=True)
    dataset = open_dataset(tmp_path / "out")
    assert (len(dataset.shards), dataset.num_samples) == (3, 2)
    assert all("DEM" in dataset.read(i, ["DEM"]) for i in range(2))
    assert len({dataset.location(i)[:2] for i in range(2)}) == 2
    assert verify(tmp_path / "out").ok


def test_too_many_unusable_samples_end_the_build_and_keep_the_rest(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=9)
    for number in (3, 7):
        damage(source / "DEM" / f"place{number}.tif")
    command = command_for(source, tmp_path / "out")
    failed = run_shards(*command, "max_bad=1")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: more than max_bad=1 samples and parts are unusable")
    assert "DEM/place" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert len((tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "out" / "manifest.json").exists()
    kept = contents(tmp_path / "out")
    build(config_for(source, tmp_path / "out", max_bad=2), quiet=True)
    tars = {n: b for n, b in kept.items() if n.endswith(".tar")}
    assert tars
    assert tars.items() <= contents(tmp_path / "out").items()


def test_a_sample_that_reads_at_the_second_try_is_kept(
    collection: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shards.sources.geotiff import GeoTiffSource

    read, failed = GeoTiffSource.read, set()

    def flaky(self: GeoTiffSource, ref):
        if ref.key not in failed:
            failed.add(ref.key)
            raise OSError("input/output error")
        return read(self, ref)

    monkeypatch.setattr(GeoTiffSource, "read", flaky)
    build(config_for(collection, tmp_path / "set"), quiet=True)
    assert contents(tmp_path / "set") == contents(built)


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


def test_a_launcher_without_mpi4py_is_told(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ShardError, match=r"pip install \.\[mpi\]"):
        build(config_for(collection, tmp_path / "set"), quiet=True)


def test_rank_is_what_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert build_module.mpi_rank() == 0, "sbatch itself sets SLURM_PROCID without several tasks"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert build_module.mpi_rank() == 3


@pytest.mark.mpi
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_and_one_process_write_the_same_bytes(
    num_ranks: int, collection: Path, built: Path, tmp_path: Path
) -> None:
    result = run_mpi(num_ranks, ["-m", "shards", *command_for(collection, tmp_path / "set")])
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("samples in") == 1, "every rank reports"
    assert contents(tmp_path / "set") == contents(built)


@pytest.mark.mpi
def test_ranks_finish_what_another_number_of_ranks_began(
    collection: Path, built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "set"
    command = command_for(collection, out)
    subprocess.run([sys.executable, "-c", KILL, "rename", "6", *command], cwd=ROOT, timeout=60)
    assert run_mpi(3, ["-m", "shards", *command]).returncode == 0
    assert contents(out) == contents(built)


@pytest.mark.mpi
def test_an_error_on_one_rank_ends_all_ranks(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=9)
    damage(source / "DEM" / "place7.tif")
    result = run_mpi(3, ["-m", "shards", *command_for(source, tmp_path / "out")])
    assert result.returncode != 0
    assert result.stderr.count("error: more than max_bad=0") == 1, result.stderr
    result = run_mpi(3, ["-m", "shards", *command_for(tmp_path / "nowhere", tmp_path / "out2")])
    assert result.returncode != 0
    assert result.stderr.count("error:") == 1, result.stderr
    assert "no such folder" in result.stderr
