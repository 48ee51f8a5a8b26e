"""Records of a run: samples, metrics and damage, after resumes and returns to a commit."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.loader import Damage, Slice
from pipeline.data.order import Order
from pipeline.engine.damage import DamageLog
from pipeline.engine.metrics import MetricsLog, Window, clock, keep_until, read_metrics
from pipeline.engine.samplelog import SampleLog

BATCH, NUM_SAMPLES = 6, 50
ORDER = Order(range(NUM_SAMPLES), seed=4)
DATASET: Any = SimpleNamespace(locate=lambda index: (f"key-{index}", f"shard-{index // 10}.tar"))


def make_log(out: Path, rank: int, world: int) -> SampleLog:
    return SampleLog(out, DATASET, ORDER, Slice(BATCH, 0, rank, world))


def write_steps(out: Path, world: int, opened_at: int, steps: range) -> None:
    logs = [make_log(out, rank, world) for rank in range(world)]
    for log in logs:
        log.open(opened_at)
        for step in steps:
            log.consumed(step, (step - 1) * BATCH)
        log.close()


def consumed(out: Path) -> dict[int, str]:
    """Key by position, over all files; a position in two lines is a mistake."""
    found: dict[int, str] = {}
    for path in sorted((out / "samples").glob("*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            positions = range(*line["positions"])
            assert not found.keys() & set(positions)
            found |= dict(zip(positions, line["keys"], strict=True))
    return found


def test_every_position_is_written_once_with_its_key(tmp_path: Path):
    write_steps(tmp_path, 3, 0, range(1, 5))
    indices = ORDER.samples(np.arange(4 * BATCH))
    assert consumed(tmp_path) == {p: f"key-{i}" for p, i in enumerate(indices)}


@pytest.mark.parametrize("world", [1, 2, 5])
def test_a_resume_under_any_number_of_ranks_drops_what_lies_beyond_it(tmp_path: Path, world: int):
    write_steps(tmp_path, 3, 0, range(1, 6))
    write_steps(tmp_path, world, 2, range(3, 6))
    assert sorted(consumed(tmp_path)) == list(range(5 * BATCH))


def test_a_return_to_a_commit_drops_what_lies_beyond_it(tmp_path: Path):
    log = make_log(tmp_path, 0, 1)
    log.open(0)
    for step in range(1, 5):
        log.consumed(step, (step - 1) * BATCH)
    log.rewind(2)
    log.consumed(3, 90)
    log.close()
    assert sorted(consumed(tmp_path)) == [*range(2 * BATCH), *range(90, 90 + BATCH)]


def test_without_being_opened_it_writes_nothing_but_skipped_steps(tmp_path: Path):
    log = make_log(tmp_path, 0, 1)
    log.consumed(1, 0)
    log.rewind(0)
    log.close()
    assert not list(tmp_path.iterdir())


def test_a_skipped_step_names_position_key_and_shard_of_its_samples(tmp_path: Path):
    path = make_log(tmp_path, 1, 2).write_skipped(7, 60)
    assert path == tmp_path / "skipped" / "step-00000007-rank-001.json"
    found = json.loads(path.read_text())
    expected = [
        {"position": p, "key": f"key-{i}", "shard": f"shard-{i // 10}.tar"}
        for p, i in zip(range(63, 66), ORDER.samples(np.arange(63, 66)).tolist(), strict=True)
    ]
    assert found == {"step": 7, "samples": expected}


LINES = [
    {"step": 1, "loss": 3.0},
    {"step": 2, "loss": 2.0},
    {"step": 3, "event": "skipped"},
    {"step": 3, "loss": 1.0},
]


@pytest.mark.parametrize(
    ("step", "events", "kept"),
    [(9, False, [0, 1, 2, 3]), (2, False, [0, 1]), (2, True, [0, 1, 2]), (0, False, [])],
)
def test_lines_beyond_a_step_are_dropped_and_half_lines_too(
    tmp_path: Path, step: int, events: bool, kept: list[int]
):
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"step": 1, "lo')
    keep_until(path, step, events=events)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found == [LINES[i] for i in kept]


def test_a_record_that_is_not_there_is_none(tmp_path: Path):
    keep_until(tmp_path / "lines.jsonl", 3)
    assert not list(tmp_path.iterdir())
    assert read_metrics(tmp_path) == []


def steps_of(folder: Path) -> list[tuple[int, str]]:
    return [(line["step"], line.get("event", "")) for line in read_metrics(folder)]


def test_metrics_go_on_behind_a_resume_and_a_return_keeps_events(tmp_path: Path):
    log = MetricsLog(tmp_path, "run", num_steps=9, step=0)
    for step in (1, 2, 3):
        log.train(step, {"loss": 1.0 / step})
    log.event(3, "skipped", loss=float("nan"))
    log.rewind(1)
    log.event(3, "rolled back", to=1)
    log.train(2, {"loss": 0.25})
    log.evaluation(2, {"loss": 0.5})
    log.close()
    assert steps_of(tmp_path) == [(1, ""), (3, "skipped"), (3, "rolled back"), (2, ""), (2, "")]
    assert [line.get("loss") for line in read_metrics(tmp_path)][3] == 0.25
    MetricsLog(tmp_path, "run", num_steps=9, step=1).close()
    assert (1, "") in steps_of(tmp_path)
    assert (2, "") not in steps_of(tmp_path)


def test_a_return_is_not_forgotten_when_the_run_then_crashes(tmp_path: Path):
    log = MetricsLog(tmp_path, "run", num_steps=9, step=0)
    log.train(4, {"loss": 1.0})
    log.event(7, "skipped")
    log.rewind(4)
    log.event(7, "rolled back", to=4)
    log.event(6, "skipped")
    log.close()
    MetricsLog(tmp_path, "run", num_steps=9, step=4).close()
    assert steps_of(tmp_path) == [(4, ""), (7, "skipped"), (7, "rolled back")]


def test_a_window_adds_up_and_begins_anew():
    window = Window()
    window.add({"loss": torch.tensor(1.0)})
    window.add({"loss": torch.tensor(2.0), "count": torch.tensor(3.0)})
    assert {k: float(v) for k, v in window.sums.items()} == {"loss": 3.0, "count": 3.0}
    window.reset()
    assert window.sums == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.6, "1m00s"), (65, "1m05s"), (3725, "1h02m"), (float("inf"), "?")],
)
def test_a_clock_reads_as_a_person_would_say_it(seconds: float, text: str):
    assert clock(seconds) == text


def test_damage_is_appended_per_rank_and_counted(tmp_path: Path):
    log = DamageLog(tmp_path, 2)
    assert log.write([]) == 0
    assert not log.folder.exists()
    found = Damage(position=5, index=17, stand_in=3, reason="crc")
    assert log.write([found]) == 1
    assert DamageLog(tmp_path, 2).write([found, found]) == 2
    lines = (tmp_path / "damaged" / "rank-002.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == 3 * [
        {"position": 5, "index": 17, "stand_in": 3, "reason": "crc"}
    ]
