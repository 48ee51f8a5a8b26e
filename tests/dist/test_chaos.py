"""What happens to runs in the night: after each of it they end as if it had not happened."""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from pipeline.engine.checkpoint import committed
from tests.dist.ranks import Ranks, run_ranks
from tests.dist.runs import consumed, curve, events

pytestmark = pytest.mark.dist

NUM_STEPS, GLOBAL_BATCH = 120, 6
LONG = [
    f"engine.num_steps={NUM_STEPS}",
    "engine.checkpoint.every_steps=2",
    "engine.log_samples=true",
    "engine.kind=plain",
]


@pytest.fixture(scope="module")
def undisturbed(tiny_stage2, tmp_path_factory):
    """The same run without any trouble, at 2 ranks."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run_ranks(["pipeline", *tiny_stage2(out), *LONG], 2, out.parent / "logs")
    return curve(out)


def wait_until(ranks: Ranks, ready, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready() and all(p.poll() is None for p in ranks.processes):
        assert time.monotonic() < deadline, ranks.output()
        time.sleep(0.001)


def newest_commit(out: Path) -> int:
    newest = next(iter(committed(out / "checkpoints")), None)
    return -1 if newest is None else int(newest.name[5:])


def disturb(ranks: Ranks, out: Path, dice: random.Random) -> str:
    """Kill one rank with SIGKILL, at a random step or while a commit is being written."""
    victim, begin = dice.randrange(len(ranks.processes)), newest_commit(out)
    wait_until(ranks, lambda: newest_commit(out) > begin)
    if dice.random() < 0.5:
        wait_until(ranks, lambda: any(out.glob("checkpoints/*.tmp")))
        how = "in a save"
    else:
        time.sleep(dice.random() * 0.05)
        how = "at some step"
    ranks.kill(victim)
    time.sleep(0.05)
    ranks.kill()
    return how


@pytest.mark.timeout(1800)
def test_twenty_kills_change_nothing_and_no_sample_is_lost_or_repeated(
    tiny_stage2, undisturbed, tmp_path
):
    out = tmp_path / "run"
    argv = ["pipeline", *tiny_stage2(out), *LONG]
    kills = []
    for seed in range(20):
        ranks = Ranks(argv, 2, tmp_path / f"start-{seed}")
        kills.append(disturb(ranks, out, random.Random(seed)))
        if (out / "DONE").exists():
            break
    run_ranks(argv, 2, tmp_path / "last")
    assert len(kills) > 10, "the run was over before it had been killed often enough"
    assert curve(out) == undisturbed
    assert consumed(out) == list(range(NUM_STEPS * GLOBAL_BATCH))


@pytest.mark.timeout(1800)
def test_killed_and_gone_on_with_by_other_numbers_of_ranks_and_stages(
    tiny_stage2, undisturbed, tmp_path
):
    out = tmp_path / "run"
    argv = ["pipeline", *tiny_stage2(out), *LONG]
    turns = [(2, "2"), (3, "3"), (1, "1"), (2, "0"), (1, "3"), (3, "2")]
    for turn, (world, stage) in enumerate(turns):
        zero = ["engine.kind=deepspeed", f"engine.zero_stage={stage}"]
        ranks = Ranks([*argv, *zero], world, tmp_path / f"start-{turn}")
        disturb(ranks, out, random.Random(turn))
    output = run_ranks(argv, 1, tmp_path / "last")
    assert "goes on from step" in output
    found = curve(out)
    assert found.keys() == undisturbed.keys()
    for step, loss in undisturbed.items():
        assert found[step] == pytest.approx(loss, rel=1e-6), step
    assert consumed(out) == list(range(NUM_STEPS * GLOBAL_BATCH))


def test_a_frozen_rank_is_named_and_the_others_leave(tiny_stage2, undisturbed, tmp_path):
    out = tmp_path / "run"
    argv = ["pipeline", *tiny_stage2(out), *LONG]
    watch = ["engine.watch.beat_s=0.2", "engine.watch.stall_s=3", "engine.watch.abort_s=6"]
    ranks = Ranks([*argv, *watch], 2, tmp_path / "first")
    ranks.wait_for(out / "checkpoints" / "step-00000004" / "MANIFEST.json")
    ranks.signal(signal.SIGSTOP, 1)
    assert ranks.processes[0].wait(60) == 70
    ranks.kill()
    said = ranks.output()
    assert "no progress for 3 s" in said
    assert f"rank 1 (process {ranks.processes[1].pid} on " in said
    assert "dead or frozen" in said
    assert "Thread" in (out / "heartbeat" / "rank-0000.stacks.txt").read_text()
    run_ranks(argv, 2, tmp_path / "second")
    assert curve(out) == undisturbed


def poisoned(argv: list[str], positions, folder: Path, monkeypatch) -> Ranks:
    monkeypatch.setenv("POISON", ",".join(map(str, positions)))
    ranks = Ranks(["tests.dist.poison", *argv], 2, folder)
    ranks.wait()
    return ranks


@pytest.mark.parametrize("engine", ["plain", "zero-0", "zero-1", "zero-2", "zero-3", "bf16"])
def test_nan_in_one_batch_costs_that_step_alone(
    tiny_stage2, undisturbed, tmp_path, monkeypatch, engine
):
    out = tmp_path / "run"
    zero = {
        "plain": [],
        "bf16": ["engine.kind=deepspeed", "engine.zero_stage=1", "engine.precision=bf16"],
    }.get(engine, ["engine.kind=deepspeed", f"engine.zero_stage={engine[-1]}"])
    argv = [*tiny_stage2(out), *LONG, *zero, "engine.num_steps=8"]
    # The schedule belongs to the run's length: compare with a healthy run as long as this one.
    ranks = poisoned(argv, [5 * GLOBAL_BATCH + 1], tmp_path / "logs", monkeypatch)
    assert [p.returncode for p in ranks.processes] == [0, 0], ranks.output()
    assert [(e["step"], e["event"]) for e in events(out)] == [(6, "skipped")]
    named = [json.loads(p.read_text()) for p in sorted((out / "skipped").glob("step-00000006-*"))]
    keys = [s["key"] for found in named for s in found["samples"]]
    assert len(keys) == GLOBAL_BATCH
    assert all(Path(s["shard"]).is_file() for found in named for s in found["samples"])
    healthy = tmp_path / "healthy"
    run_ranks(["pipeline", *argv, f"out={healthy}"], 2, tmp_path / "healthy-logs")
    expected, found = curve(healthy), curve(out)
    assert all(found[step] == expected[step] for step in range(1, 6))
    # The weights are those of a run that made five updates: finite, and close to the other's.
    assert [s for s in (7, 8) if abs(found[s] - expected[s]) < 0.2 * expected[s]] == [7, 8]


def test_repeated_nan_goes_back_and_leaves_that_data_out(tiny_stage2, tmp_path, monkeypatch):
    out = tmp_path / "run"
    argv = [*tiny_stage2(out), *LONG, "engine.num_steps=12"]
    guard = ["engine.guard.skips_before_rollback=2", "engine.checkpoint.every_steps=4"]
    bad = [5 * GLOBAL_BATCH, 6 * GLOBAL_BATCH + 3]  # steps 6 and 7, after the commit of step 4
    ranks = poisoned([*argv, *guard], bad, tmp_path / "logs", monkeypatch)
    assert [p.returncode for p in ranks.processes] == [0, 0], ranks.output()
    back = [e for e in events(out) if e["event"] == "rolled back"]
    left_out = [5 * GLOBAL_BATCH, 7 * GLOBAL_BATCH]
    assert [(e["step"], e["to"], e["left_out"]) for e in back] == [(7, 4, left_out)]
    stream = list(range(5 * GLOBAL_BATCH)) + list(range(7 * GLOBAL_BATCH, 14 * GLOBAL_BATCH))
    assert consumed(out) == stream
    # As if the data had never been there.
    other = tmp_path / "other"
    other.mkdir()
    (other / "guard.json").write_text(json.dumps({"left_out": [left_out]}))
    run_ranks(["pipeline", *argv, *guard, f"out={other}"], 2, tmp_path / "other-logs")
    assert curve(out) == curve(other)


def test_when_nothing_helps_the_run_gives_up_and_says_why(tiny_stage2, tmp_path, monkeypatch):
    out = tmp_path / "run"
    guard = ["engine.guard.skips_before_rollback=2", "engine.guard.max_rollbacks=2"]
    argv = [*tiny_stage2(out), *LONG, *guard]
    ranks = poisoned(argv, range(30, 300), tmp_path / "logs", monkeypatch)
    assert [p.returncode for p in ranks.processes] == [65, 65], ranks.output()
    failed = json.loads((out / "FAILED").read_text())
    assert failed["code"] == 65
    assert "after 2 returns to the last commit" in failed["reason"]


def test_kill_and_save_files_are_obeyed(tiny_stage2, undisturbed, tmp_path):
    out = tmp_path / "run"
    argv = ["pipeline", *tiny_stage2(out), *LONG, "engine.checkpoint.every_steps=1000"]
    ranks = Ranks(argv, 2, tmp_path / "first")
    ranks.wait_for(out / "checkpoints" / "step-00000000" / "MANIFEST.json")
    (out / "SAVE").touch()
    wait_until(ranks, lambda: not (out / "SAVE").exists())
    assert newest_commit(out) > 0
    (out / "KILL").touch()
    assert ranks.wait() == [65, 65], ranks.output()
    assert not (out / "SAVE").exists()
    assert "committed as asked" in ranks.output()
    again = Ranks(argv, 2, tmp_path / "second")
    assert again.wait() == [65, 65]
    assert "called off" in again.output()
    (out / "KILL").unlink()
    run_ranks(argv, 2, tmp_path / "third")
    assert curve(out) == undisturbed
