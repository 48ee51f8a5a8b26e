"""Signs of life: what is in them, who is named, what is left when a rank stands still."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.schema import WatchConfig
from pipeline.engine import heartbeat as module
from pipeline.engine.heartbeat import STALLED, WAITING, Heartbeat, read_beat

Make = Callable[..., Heartbeat]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Heartbeats of a short beat that are closed afterwards."""
    made: list[Heartbeat] = []

    def build(rank: int = 0, num_ranks: int = 1, stall_s: float = 600, abort_s: float = 0):
        config = WatchConfig(beat_s=0.02, stall_s=stall_s, abort_s=abort_s)
        made.append(Heartbeat(tmp_path, rank, num_ranks, config))
        return made[-1]

    yield build
    for heartbeat in made:
        heartbeat.close()


def until(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not ready():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def path_of(folder: Path, rank: int) -> Path:
    return folder / "heartbeat" / f"rank-{rank:04d}.json"


def test_a_beat_says_who_where_and_since_when(make: Make, tmp_path: Path):
    began = time.time()
    make(rank=3).at(12, "eval")
    until(lambda: (read_beat(path_of(tmp_path, 3)) or {}).get("step") == 12)
    beat = read_beat(path_of(tmp_path, 3))
    assert beat is not None
    assert (beat["phase"], beat["pid"], beat["host"]) == ("eval", os.getpid(), socket.gethostname())
    assert began - 0.01 <= beat["since"] <= beat["time"] + 0.01 <= time.time() + 0.02


def test_it_beats_without_progress(make: Make, tmp_path: Path):
    make()
    until(lambda: read_beat(path_of(tmp_path, 0)))
    first = read_beat(path_of(tmp_path, 0))
    assert first is not None
    until(lambda: (read_beat(path_of(tmp_path, 0)) or first)["time"] > first["time"])
    assert (read_beat(path_of(tmp_path, 0)) or {})["since"] == first["since"]


def test_a_rank_that_leaves_in_order_takes_its_file_away(make: Make, tmp_path: Path):
    heartbeat = make()
    until(lambda: path_of(tmp_path, 0).exists())
    heartbeat.close()
    assert not list((tmp_path / "heartbeat").iterdir())


@pytest.mark.parametrize("text", ["", "{", '{"time": 1'])
def test_half_a_beat_is_none(tmp_path: Path, text: str):
    (tmp_path / "beat").write_text(text)
    assert read_beat(tmp_path / "beat") is None
    assert read_beat(tmp_path / "nowhere") is None


def leave(folder: Path, rank: int, step: int, phase: str, age_s: float = 0) -> None:
    now = time.time()
    beat = {"time": now - age_s, "step": step, "phase": phase, "since": now - age_s}
    path_of(folder, rank).write_text(json.dumps(beat | {"host": "node7", "pid": 4321}))


def test_dead_slow_and_missing_ranks_are_named_and_waiting_ones_are_not(make: Make, tmp_path: Path):
    heartbeat = make(rank=0, num_ranks=6)
    heartbeat.at(9, WAITING)
    until(lambda: (read_beat(path_of(tmp_path, 0)) or {}).get("step") == 9)
    leave(tmp_path, 1, 9, WAITING)
    leave(tmp_path, 2, 8, WAITING)
    leave(tmp_path, 3, 9, "data")
    leave(tmp_path, 4, 9, "forward", age_s=100)
    found = heartbeat._behind()
    assert found[:2] == [
        "rank 2 on node7 is at step 8 (wait)",
        "rank 3 on node7 is at step 9 (data)",
    ]
    assert found[2].startswith("rank 4 (process 4321 on node7) is dead or frozen since 100 s")
    assert found[3:] == ["rank 5 has left no heartbeat"]


def test_when_all_wait_nobody_is_named(make: Make, tmp_path: Path):
    heartbeat = make()
    heartbeat.at(1, WAITING)
    until(lambda: (read_beat(path_of(tmp_path, 0)) or {}).get("step") == 1)
    assert heartbeat._behind() == ["all ranks wait for each other"]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(module, "_tell", found.append)
    return found


def test_a_stall_leaves_the_stacks_and_is_told_once(make: Make, tmp_path: Path, said: list[str]):
    heartbeat = make(stall_s=0.1)
    heartbeat.at(5, "forward")
    until(lambda: said)
    time.sleep(0.1)
    assert len(said) == 1
    assert "at step 5 (forward): rank 0 on " in said[0]
    stacks = (tmp_path / "heartbeat" / "rank-0000.stacks.txt").read_text()
    assert "test_heartbeat.py" in stacks
    heartbeat.at(6, "forward")
    until(lambda: len(said) == 2)


def test_other_ranks_leave_their_stacks_and_say_nothing(
    make: Make, tmp_path: Path, said: list[str]
):
    make(rank=2, num_ranks=3, stall_s=0.05)
    until((tmp_path / "heartbeat" / "rank-0002.stacks.txt").exists)
    time.sleep(0.1)
    assert not said


def test_progress_keeps_a_run_alive_and_none_ends_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, said: list[str]
):
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    heartbeat = make(rank=1, num_ranks=2, stall_s=0.5, abort_s=1.0)
    for step in range(10):
        heartbeat.at(step, "forward")
        time.sleep(0.03)
    assert not codes
    until(lambda: codes)
    assert codes[0] == STALLED
    assert "no progress" in said[0]


def test_a_clock_that_is_set_forward_is_no_stall(
    make: Make, monkeypatch: pytest.MonkeyPatch, said: list[str]
):
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    heartbeat = make(stall_s=60, abort_s=120)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    for _ in range(3):
        heartbeat._look()
    assert not codes
    assert not said


def test_a_log_on_a_full_disk_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch):
    class Full:
        def write(self, _: str) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    module._tell("still here")
