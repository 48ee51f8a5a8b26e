"""The failure matrix, reading: what readers and training must survive. A test per row.

    a tar cut between two samples         told before the first read; its samples are replaced, in step
    a tar cut inside a member             only what lies behind the cut is lost
    a flipped bit                         told with file, offset and sample; replaced, in step
    a modality missing in a sample        a bit, and nothing else
    a modality that ends early            told; the other modalities are read as before
    members of two samples interleaved    told by `verify`; the reader follows the index
    another number of ranks               no sample lost, none repeated
    an epoch that does not divide         as many steps and micro-batches on every rank
    a crash                               nothing with a name is left in shared memory

What writing must survive is in `test_failure_matrix_building.py`; what others do in these cases is in
the documents of the project's data formats.
"""

import itertools
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
from shards.errors import DamagedError, ShardError
from shards.extra import ExtraWriter
from shards.index import index_path, make_index, member_layout, read_index, write_joined
from shards.manifest import INDEX, MANIFEST, read_manifest, write_manifest
from shards.tar import BLOCK_BYTES
from shards.verify import verify
from tests.shards.helpers import ROOT, config_for, make_collection
from tests.shards.processes import children, is_alive, shared_names
from tests.shards.test_dataset import flip_bit

NAMES = ("S2L2A", "DEM")


def stream(dataset: Dataset, world: int, steps: int = 6) -> tuple[list, list[Damage]]:
    """(key, digest of its pixels) in the order in which training on `world` ranks sees them."""
    order = Order(dataset.select(), seed=1)

    def read(i: int, rng: np.random.Generator, cursor: int) -> tuple[str, int]:
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


def test_another_number_of_ranks(dataset: Dataset) -> None:
    order = Order(dataset.select(), seed=7)
    seen: list[int] = []
    cursor = 0
    for world, batch, steps in ((2, 6, 1), (3, 9, 2), (1, 4, 1), (4, 12, 1)):
        loaders = [
            Loader(
                order,
                lambda i, rng, cursor: i,
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


READ_AND_CHECK = """
import sys
from pipeline.data.loader import Loader, Slice
from pipeline.data.order import Order
from shards.dataset import open_dataset
from shards.verify import verify

dataset = open_dataset(sys.argv[1])
loader = Loader(
    Order(dataset.select(), 0), lambda i, rng, cursor: dataset.read(i, ["DEM"]), lambda s: s,
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
