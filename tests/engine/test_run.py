"""How a run begins and what it leaves behind when it cannot go on."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import distributed, lifecycle, run
from pipeline.engine.distributed import World
from pipeline.engine.errors import CheckpointError, RunError
from tests.engine.team import alone

Start = Callable[[World], int]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a run in `tmp_path` as one of the ranks."""

    class Engine:
        device = "cpu"

    class Config:
        out, engine = tmp_path, Engine()

    def begin(world: World) -> int:
        monkeypatch.setattr(distributed, "start", lambda *_: world)
        config: Any = Config()
        nothing: Any = None
        return run.train(config, "run", nothing, {})

    return begin


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def train(*_: Any) -> int:
        raise error

    monkeypatch.setattr(run, "_train", train)


def test_a_folder_in_use_is_refused_and_not_marked(start: Start, tmp_path: Path):
    with (
        lifecycle.run_lock(tmp_path),
        pytest.raises(RunError, match="is in use by process"),
    ):
        start(alone())
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_other_ranks_are_refused_with_the_first_and_touch_nothing(start: Start, tmp_path: Path):
    class Second(type(alone())):
        def broadcast(self, value: Any) -> Any:
            assert value is None
            return "the folder is in use"

    with pytest.raises(RunError, match="the folder is in use"):
        start(Second(**vars(replace(alone(), rank=1, size=2))))
    assert not list(tmp_path.iterdir())


def test_why_a_run_ended_stands_in_its_folder(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fail_with(monkeypatch, CheckpointError("no room"))
    with pytest.raises(CheckpointError, match="no room"):
        start(alone())
    assert json.loads((tmp_path / "FAILED").read_text())["reason"] == "no room"
    with lifecycle.run_lock(tmp_path):  # it has been let go
        pass


def test_on_a_full_disk_the_reason_is_still_told(start: Start, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    fail_with(monkeypatch, CheckpointError("no room"))
    monkeypatch.setattr(lifecycle, "mark_failed", full)
    with pytest.raises(CheckpointError, match="no room"):
        start(alone())
