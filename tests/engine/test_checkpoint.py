"""Commits: whole or invisible, on all ranks alike; ranks are threads here."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.engine.base import Piece
from pipeline.engine.checkpoint import (
    MANIFEST,
    CheckpointStore,
    Commit,
    committed,
    read_manifest,
    verify,
)
from pipeline.engine.distributed import World
from pipeline.engine.errors import CheckpointError, OtherFormatError
from pipeline.engine.statefile import Snapshot, StateReader, file_name
from tests.engine.team import alone, together

LENGTH = 12


def pieces(world: World, value: float) -> list[Piece]:
    """This rank's stretch of one tensor full of a value."""
    borders = [rank * LENGTH // world.size for rank in (world.rank, world.rank + 1)]
    return [
        Piece("weights/w", (LENGTH,), borders[0], torch.full((borders[1] - borders[0],), value))
    ]


def about(step: int, world: World) -> Commit:
    return Commit(step, cursor=10 * step, world_size=world.size, identity={}, versions={})


def save(store: CheckpointStore, world: World, *steps: int) -> None:
    for step in steps:
        store.begin(about(step, world), pieces(world, float(step)))
        store.finish()


def make_store(folder: Path, keep_last: int = 2, keep_every: int = 0) -> CheckpointStore:
    return CheckpointStore(folder, alone(), keep_last, keep_every)


def steps_in(folder: Path) -> list[int]:
    return [int(path.name[5:]) for path in committed(folder)]


def newest(folder: Path) -> int:
    """The step of the newest whole commit, whose tensor is looked at as well."""
    found = make_store(folder).latest()
    assert found is not None
    path, commit = found
    values = StateReader(path, commit.world_size).whole("weights/w")
    assert values.tolist() == [float(commit.step)] * LENGTH
    return commit.step


def test_three_ranks_commit_and_one_reads(tmp_path: Path):
    def run(world: World) -> Any:
        store = CheckpointStore(tmp_path, world, keep_last=2)
        assert store.latest() is None
        save(store, world, 5)
        return store.latest()

    found = together(3, run)
    assert [commit.cursor for _, commit in found] == [50, 50, 50]
    assert sorted(p.name for p in (tmp_path / "step-00000005").iterdir()) == sorted(
        [MANIFEST, *(file_name(rank) for rank in range(3))]
    )
    assert newest(tmp_path) == 5


def test_a_commit_appears_when_it_is_whole_and_not_before(tmp_path: Path):
    world, store = alone(), make_store(tmp_path)
    store.begin(about(1, world), pieces(world, 1.0))
    seen = []
    while store.is_saving:
        if store._work is not None:
            store._work.exception()
        seen.append(steps_in(tmp_path))
        store.advance(*store.state)
    assert seen[0] == []
    assert steps_in(tmp_path) == [1]
    assert not list(tmp_path.glob("*.tmp"))


def test_nothing_happens_while_a_rank_is_busy(tmp_path: Path):
    world, store = alone(), make_store(tmp_path)
    store.begin(about(1, world), pieces(world, 1.0))
    assert store.advance(busy=1, failed=0) is None
    assert store.is_saving
    assert store.finish() == tmp_path / "step-00000001"


def test_the_newest_stay_and_every_nth_for_good(tmp_path: Path):
    world, store = alone(), make_store(tmp_path, keep_last=2, keep_every=4)
    save(store, world, *range(0, 12, 2))
    assert steps_in(tmp_path) == [10, 8, 4, 0]


def test_a_damaged_later_commit_does_not_push_out_the_one_just_made(tmp_path: Path):
    save(make_store(tmp_path, keep_last=9), alone(), 1, 5)
    (tmp_path / "step-00000005" / file_name(0)).unlink()
    with pytest.warns(UserWarning, match="trying the commit before it"):
        assert newest(tmp_path) == 1
    save(make_store(tmp_path, keep_last=1), alone(), 3)
    with pytest.warns(UserWarning, match="trying the commit before it"):
        assert newest(tmp_path) == 3


def test_a_damaged_commit_is_replaced_when_its_step_comes_again(tmp_path: Path):
    save(make_store(tmp_path), alone(), 1, 2)
    (tmp_path / "step-00000002" / file_name(0)).unlink()
    save(make_store(tmp_path), alone(), 2)
    assert newest(tmp_path) == 2


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "its digest differs": flip,
    "bytes, committed were": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "is missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("said", DAMAGE)
def test_a_damaged_commit_is_passed_over_by_all_ranks_with_a_warning(tmp_path: Path, said: str):
    together(2, lambda world: save(CheckpointStore(tmp_path, world, 2), world, 1, 2))
    DAMAGE[said](tmp_path / "step-00000002" / file_name(1))
    with pytest.raises(CheckpointError, match=said):
        verify(tmp_path / "step-00000002")
    with pytest.warns(UserWarning, match=said):
        found = together(2, lambda world: CheckpointStore(tmp_path, world, 2).latest())
    assert [commit.step for _, commit in found] == [1, 1]


def test_a_file_that_the_disk_does_not_give_back_is_damaged_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save(make_store(tmp_path), alone(), 1, 2)
    real = Path.open

    def broken(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.parent.name == "step-00000002" and path.suffix == ".safetensors":
            raise OSError(5, "Input/output error")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", broken)
    with pytest.warns(UserWarning, match="Input/output error"):
        assert newest(tmp_path) == 1


@pytest.mark.filterwarnings("ignore:.*trying the commit before it")
def test_without_any_whole_commit_all_ranks_say_so_and_nothing_is_deleted(tmp_path: Path):
    together(2, lambda world: save(CheckpointStore(tmp_path, world, 2), world, 1, 2))
    for step in (1, 2):
        (tmp_path / f"step-{step:08d}" / file_name(0)).unlink()
    found = together(2, lambda world: CheckpointStore(tmp_path, world, 2).latest())
    assert all(isinstance(error, CheckpointError) for error in found)
    assert "Restore the missing files" in str(found[1])
    assert steps_in(tmp_path) == [2, 1]


def test_the_format_of_another_version_is_named(tmp_path: Path):
    save(make_store(tmp_path), alone(), 1)
    path = tmp_path / "step-00000001" / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    # An older commit of ours would be whole, but taking it would throw work away without a word.
    with pytest.raises(OtherFormatError, match="another version of this project"):
        make_store(tmp_path).latest()


def test_a_manifest_that_is_changed_is_damaged(tmp_path: Path):
    save(make_store(tmp_path), alone(), 1)
    path = tmp_path / "step-00000001" / MANIFEST
    path.write_text(path.read_text().replace('"step": 1', '"step": 2'))
    with pytest.raises(CheckpointError, match="its digest differs"):
        read_manifest(path.parent)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_manifest_that_is_none_is_not_readable(tmp_path: Path, text: str):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json is not readable"):
        read_manifest(tmp_path)


def test_what_a_crash_left_is_swept_by_the_next_save(tmp_path: Path):
    for name in ("step-00000003.tmp", "step-00000001.trash"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text("{}")
    assert steps_in(tmp_path) == []
    save(make_store(tmp_path), alone(), 7)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000007"]


def test_without_room_no_rank_writes_and_earlier_commits_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    together(2, lambda world: save(CheckpointStore(tmp_path, world, 2), world, 1))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    found = together(2, lambda world: save(CheckpointStore(tmp_path, world, 2), world, 2))
    assert all(isinstance(error, CheckpointError) for error in found)
    assert "0.0 MB are free" in str(found[0])
    assert newest(tmp_path) == 1


def test_a_rank_that_cannot_write_fails_the_save_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    together(3, lambda world: save(CheckpointStore(tmp_path, world, 2), world, 1))
    write = Snapshot.write

    def broken(snapshot: Snapshot, path: Path) -> Any:
        if path.name == file_name(2):
            raise OSError(28, "No space left on device")
        return write(snapshot, path)

    monkeypatch.setattr(Snapshot, "write", broken)
    found = together(3, lambda world: save(CheckpointStore(tmp_path, world, 2), world, 2))
    assert all(isinstance(error, CheckpointError) for error in found)
    assert all("No space left on device" in str(error) for error in found)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]


def test_a_commit_that_cannot_be_flushed_fails_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(world: World) -> None:
        store = CheckpointStore(tmp_path, world, 2)
        store.begin(about(1, world), pieces(world, 1.0))
        while not store._parts_written:
            store.advance(*world.add(*store.state))
        world.barrier()
        store.finish()

    monkeypatch.setattr(
        "pipeline.engine.checkpoint.fsync_folder",
        lambda _: (_ for _ in ()).throw(OSError("broken disk")),
    )
    found = together(2, run)
    assert all(isinstance(error, CheckpointError) for error in found)
    assert all("broken disk" in str(error) for error in found)
    assert newest_or_none(tmp_path) is None


def newest_or_none(folder: Path) -> int | None:
    return newest(folder) if make_store(folder).latest() else None


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.filterwarnings("ignore:.*trying the commit before it")
@pytest.mark.parametrize("replaced", [False, True], ids=["new step", "over a damaged one"])
@pytest.mark.parametrize("k", range(18))
def test_a_crash_anywhere_in_a_commit_leaves_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int, replaced: bool
):
    world = alone()
    save(make_store(tmp_path, 9), world, 1, 2)
    if replaced:
        (tmp_path / "step-00000002" / file_name(0)).unlink()
    step = 2 if replaced else 3
    store, commit = make_store(tmp_path, keep_last=1), about(step, world)
    store.begin(commit, pieces(world, float(step)))
    assert store._work is not None
    written, calls = [store._work.result()], [0]

    def crashing(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] > k:
                raise Crash
            return real(*args, **kwargs)

        return call

    final = tmp_path / f"step-{step:08d}"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", crashing(Path.write_text))
        patch.setattr(Path, "rename", crashing(Path.rename))
        patch.setattr(os, "fsync", crashing(os.fsync))
        patch.setattr(os, "unlink", crashing(os.unlink))
        patch.setattr(os, "rmdir", crashing(os.rmdir))
        try:
            store._commit(commit, written, final)
        except Crash:
            crashed = True
        else:
            crashed = False
    assert newest(tmp_path) in ({1, 2} if replaced else {2, 3})
    assert crashed or newest(tmp_path) == step
    save(make_store(tmp_path, keep_last=1), world, 4)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000004"]
