"""The failure matrix: what goes wrong with shards, and what must come of it. A test per row.

    a tar cut between two samples         told before the first read; its samples are replaced, in step
    a tar cut inside a member             only what lies behind the cut is lost
    a flipped bit                         told with file, offset and sample; replaced, in step
    a modality missing in a sample        a bit, and nothing else
    a modality that ends early            told; the other modalities are read as before
    members of two samples interleaved    told by `verify`; the reader follows the index
    a dot in a key                        refused by the writer, escaped by sources
    a writer killed                       no half of a shard; the same bytes after another start
    killed while the index is made        no data set yet; `status` says so, another start finishes it
    a part of an extra never written      the shards that are missing, by name; nobody waits for ever
    another number of ranks               no sample lost, none repeated
    an epoch that does not divide         as many steps and micro-batches on every rank
    a crash                               nothing with a name is left in shared memory
    two builds of one folder              one of them says so and leaves; two folders share nothing
    a corrupt source                      tried again, left out, counted, told; bounded
    NaN, infinity, constants, no time     told as warnings; never in statistics
    a full disk                           told; no temporaries; goes on where it was

What others do in these cases is in the documents of the project's data formats.
"""

import itertools
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

from pipeline.data.loader import Damage, Loader, Slice
from pipeline.data.order import Order
from shards.build import build
from shards.codec import META_PART
from shards.dataset import Dataset, open_dataset
from shards.errors import DamagedError, SampleError, ShardError
from shards.extra import ExtraWriter
from shards.index import index_path, make_index, member_layout, read_index, write_joined
from shards.manifest import INDEX, MANIFEST, read_manifest, write_manifest
from shards.status import build_status
from shards.tar import BLOCK_BYTES
from shards.verify import verify
from shards.writer import ShardWriter
from tests.shards.helpers import (
    ROOT,
    command_for,
    config_for,
    contents,
    make_collection,
    run_mpi,
    run_shards,
    source_config,
    write_tiff,
)
from tests.shards.test_build import KILL, damage, quarantine
from tests.shards.test_dataset import flip_bit

NAMES = ("S2L2A", "DEM")


def stream(dataset: Dataset, world: int, steps: int = 6) -> tuple[list, list[Damage]]:
    """(key, digest of its pixels) in the order in which training on `world` ranks sees them."""
    order = Order(dataset.select(), seed=1)

    def read(i: int, rng: np.random.Generator) -> tuple[str, int]:
        parts = dataset.read(i, NAMES)
        return dataset.keys[i], sum(int(np.asarray(part).sum()) for part in parts.values())

    loaders = [
        Loader(order, read, lambda s: s, Slice(6, 2, rank, world), readers=2)  # type: ignore
        for rank in range(world)
    ]
    try:
        seen = [list(step) for step in itertools.islice(zip(*loaders, strict=True), steps)]
        # As many micro-batches on every rank in every step: collectives never wait for one.
        assert {len(micro) for step in seen for micro in step} == {6 // world // 2 or 1}
        told = [d for loader in loaders for d in loader.take_damage()]
        return [s for step in seen for micro in step for batch in micro for s in batch], told
    finally:
        for loader in loaders:
            loader.close()


def assert_goes_on_in_step(copy: Path, whole: Path, lost: set[str]) -> None:
    """Training sees everything but the lost samples, the same on one rank and on three."""
    dataset = open_dataset(copy, verify=False)
    expected, _ = stream(open_dataset(whole), 1)
    alone, told = stream(dataset, 1)
    assert stream(dataset, 3)[0] == alone
    assert len(alone) == len(expected)
    assert not lost & {key for key, _ in alone}
    kept = [(a, b) for a, b in zip(expected, alone, strict=True) if a[0] not in lost]
    assert all(a == b for a, b in kept)
    assert {dataset.keys[d.index] for d in told} == lost
    assert all(str(copy) in d.reason for d in told)


def first_tar(copy: Path) -> Path:
    return copy / "train" / "shard-000000.tar"


def cut(tar: Path, at: int) -> set[str]:
    """Cut the tar at this byte; returns the keys of samples that have lost a part of NAMES."""
    layout = member_layout(read_index(index_path(tar)))
    tar.write_bytes(tar.read_bytes()[:at])
    behind = [name for name, offset, size in layout if offset + size > at]
    return {name.split(".")[0] for name in behind if name.split(".")[1] in NAMES}


def test_a_tar_cut_between_two_samples(copy: Path, built: Path) -> None:
    tar = first_tar(copy)
    layout = member_layout(read_index(index_path(tar)))
    third = [name for name, *_ in layout if name.endswith(META_PART)][1]
    border = next(
        offset - BLOCK_BYTES
        for (before, *_), (_, offset, _) in itertools.pairwise(layout)
        if before == third
    )
    lost = cut(tar, border)
    assert len(lost) == 2
    with tarfile.open(tar) as stock:
        assert len(stock.getnames()) < len(layout), "a stock reader sees nothing wrong"
    with pytest.raises(ShardError, match=f"{tar}.*bytes long"):
        open_dataset(copy)
    assert any(f.where == str(tar) for f in verify(copy, "sizes").errors)
    assert open_dataset(copy, verify=False).damaged_shards() == [
        f"{tar}: {border} bytes long, {(built / 'train' / tar.name).stat().st_size} bytes expected"
    ]
    assert_goes_on_in_step(copy, built, lost)


def test_a_tar_cut_inside_a_member(copy: Path, built: Path) -> None:
    tar = first_tar(copy)
    layout = member_layout(read_index(index_path(tar)))
    name, offset, size = [m for m in layout if ".S2L2A." in m[0]][1]
    lost = cut(tar, offset + size // 2)
    assert name.split(".")[0] in lost
    dataset, whole = open_dataset(copy, verify=False), open_dataset(built)
    for i, key in enumerate(dataset.keys):
        if key in lost:
            with pytest.raises(DamagedError, match="behind its end"):
                dataset.read(i, NAMES)
        else:
            expected = whole.read(i, NAMES)
            np.testing.assert_array_equal(dataset.read(i, NAMES)["S2L2A"], expected["S2L2A"])
    assert_goes_on_in_step(copy, built, lost)


def test_a_flipped_bit(copy: Path, built: Path) -> None:
    tar = flip_bit(copy, "place4.S2L2A.b2")
    dataset = open_dataset(copy)
    i = dataset.keys.index("place4")
    with pytest.raises(DamagedError, match=rf"{tar}, sample place4: offset \d+, S2L2A\.b2"):
        dataset.read(i, NAMES)
    assert set(dataset.read(i, ["DEM"])) == {"DEM"}
    (error,) = verify(copy).errors
    assert (error.level, error.where) == ("digests", str(tar))
    assert_goes_on_in_step(copy, built, {"place4"})


def test_a_modality_missing_in_a_sample(dataset: Dataset) -> None:
    there = dataset.present("S1RTC")
    assert there.tolist() == [int(key[5:]) % 3 != 0 for key in dataset.keys]
    for i in range(dataset.num_samples):
        found = set(dataset.read(i, ["S2L2A", "S1RTC", "DEM"]))
        assert found == {"S2L2A", "DEM"} | ({"S1RTC"} if there[i] else set())


def test_a_modality_that_ends_early(copy: Path, tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=6)
    for number in (4, 5):
        (source / "DEM" / f"place{number}.tif").unlink()
    build(config_for(source, tmp_path / "out"), quiet=True)
    made = open_dataset(tmp_path / "out")
    assert made.num_samples == 6
    assert {k for k, there in zip(made.keys, made.present("DEM"), strict=True) if not there} == {
        "place4",
        "place5",
    }
    dataset = open_dataset(copy)
    writer = ExtraWriter(dataset, "tok", {})
    for split, name in dataset.shards:
        samples = dataset.shard_samples(split, name)
        writer.write_shard(f"{split}/{name}", [np.full(600, i, np.uint16) for i in samples])
    writer.commit()
    tar = copy / "extra" / "tok" / "train" / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    with pytest.raises(ShardError, match="extra/tok"):
        open_dataset(copy)
    assert {f.where for f in verify(copy).errors} == {str(tar)}
    short = open_dataset(copy, verify=False)
    for i in range(short.num_samples):
        assert set(short.read(i, NAMES)) == set(NAMES)
    assert "tok" in short.read(0, ["tok"])
    with pytest.raises(DamagedError, match=str(tar)):
        short.read(3, ["tok"])


def interleave(copy: Path) -> Path:
    """Write a shard's members part by part instead of sample by sample, with an index that knows."""
    tar = first_tar(copy)
    index, content = read_index(index_path(tar)), tar.read_bytes()
    entries, out = index.entries.copy(), bytearray()
    for p in range(len(index.parts)):
        for i in range(index.num_samples):
            if int(index.present[i]) >> p & 1:
                block, size, _ = index.entries[i, p].tolist()
                begin = (block - 1) * BLOCK_BYTES
                entries[i, p]["block"] = len(out) // BLOCK_BYTES + 1
                out += content[begin : begin + BLOCK_BYTES + size + -size % BLOCK_BYTES]
    out += bytes(2 * BLOCK_BYTES)
    tar.write_bytes(out)
    mixed = make_index(index.parts, len(out), index.present, entries, index.keys)
    index_path(tar).write_bytes(mixed.to_bytes())
    manifest = read_manifest(copy / MANIFEST)
    manifest["shards"][0]["digest"] = mixed.digest
    tars = [copy / s["split"] / f"{s['name']}.tar" for s in manifest["shards"]]
    joined = write_joined(copy / INDEX, [read_index(index_path(t)) for t in tars])
    write_manifest(copy / MANIFEST, manifest | {"index_digest": joined})
    return tar


def test_members_of_two_samples_interleaved(copy: Path, built: Path) -> None:
    tar = interleave(copy)
    dataset, whole = open_dataset(copy), open_dataset(built)
    for i in range(dataset.num_samples):
        expected = whole.read(i, NAMES)
        for name, part in dataset.read(i, NAMES).items():
            np.testing.assert_array_equal(part, expected[name])
    errors = [f for f in verify(copy, "walk").errors if f.where == str(tar)]
    assert errors
    assert all("does not follow" in f.what or "more errors like these" in f.what for f in errors)


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


def test_another_number_of_ranks(dataset: Dataset) -> None:
    order = Order(dataset.select(), seed=7)
    seen: list[int] = []
    cursor = 0
    for world, batch, steps in ((2, 6, 1), (3, 9, 2), (1, 4, 1), (4, 12, 1)):
        loaders = [
            Loader(
                order,
                lambda i, rng: i,
                lambda s: s,  # type: ignore
                Slice(batch, 0, rank, world),
                cursor,
            )
            for rank in range(world)
        ]
        for step in itertools.islice(zip(*loaders, strict=True), steps):
            seen += [i for micro in step for b in micro for i in b]  # type: ignore
        cursor += batch * steps
        for loader in loaders:
            loader.close()
    assert len(seen) == cursor == 40
    for epoch in range(4):
        assert sorted(seen[10 * epoch : 10 * epoch + 10]) == list(range(10))


def test_an_epoch_that_does_not_divide(dataset: Dataset) -> None:
    # Ten samples in shards of four, four and two; three ranks; batches of seven in twos.
    assert {len(dataset.shard_samples(*shard)) for shard in dataset.shards} == {4, 2}
    slices = [Slice(7, 2, rank, 3) for rank in range(3)]
    for cursor in range(0, 70, 7):
        parts = [part.positions(cursor) for part in slices]
        assert {len(micro) for micro in parts} == {2}
        assert np.concatenate([np.concatenate(part) for part in parts]).tolist() == list(
            range(cursor, cursor + 7)
        )


def shared_names(pid: int) -> set[str]:
    """What a process holds open or mapped of the places where shared memory has names."""
    try:
        links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    names = (*links, *(line.split()[-1] for line in maps))
    return {name for name in names if name.startswith(("/dev/shm", "/SYSV"))}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


READ_AND_CHECK = """
import sys
from pipeline.data.loader import Loader, Slice
from pipeline.data.order import Order
from shards.dataset import open_dataset
from shards.verify import verify

dataset = open_dataset(sys.argv[1])
loader = Loader(
    Order(dataset.select(), 0), lambda i, rng: dataset.read(i, ["DEM"]), lambda s: s,
    Slice(4, 0, 0, 1), readers=3,
)
for step in loader:
    verify(sys.argv[1], jobs=2)
"""


def test_a_crash(built: Path) -> None:
    command = [sys.executable, "-c", READ_AND_CHECK, str(built)]
    victim = subprocess.Popen(command, cwd=ROOT)
    helpers: list[int] = []
    try:
        deadline = time.monotonic() + 60
        # Two processes of the check, and the one by which Python tracks what has a name.
        while len(helpers) < 3:
            assert time.monotonic() < deadline
            assert victim.poll() is None
            time.sleep(0.02)
            helpers = children(victim.pid)
        names = set.union(*(shared_names(pid) for pid in (victim.pid, *helpers)))
    finally:
        victim.kill()
        victim.wait()
    assert names == set()
    while any(is_alive(pid) for pid in helpers):
        assert time.monotonic() < deadline, "they wait for somebody who is gone"
        time.sleep(0.02)
    # Another run on the same node meets nothing of the crashed one.
    assert len(stream(open_dataset(built), 1)[0]) == 36


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
    from tests.shards.test_geobench import S2, optical, write_sample, write_task

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
    from tests.shards.zarr_twins import variables, write_tar, zarr_zip

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
