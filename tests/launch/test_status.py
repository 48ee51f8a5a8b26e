import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from configs import load_config, to_yaml
from launch.jobs import freeze
from launch.plan import plan_steps
from launch.runs import RunStatus, find_runs
from launch.status import app, as_table
from launch.step import What


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three runs as training leaves them: done, half way, and not begun."""
    for name in ("done", "half", "new"):
        run = tmp_path / "experiment" / name
        run.mkdir(parents=True)
        config = load_config(
            "configs/stage2/small.yaml", ["engine.num_steps=100", "engine.global_batch=32"]
        )
        (run / "config.yaml").write_text(to_yaml(config))
    (tmp_path / "experiment" / "done" / "DONE").write_text('{"step": 100}')
    half = tmp_path / "experiment" / "half"
    lines = [{"step": s, "loss": 10 - s / 10, "samples_per_s": 16.0} for s in (10, 20, 30)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    text += json.dumps({"step": 30, "eval": {"loss": 1.0}}) + "\n" + '{"step": 40, "lo'
    (half / "metrics.jsonl").write_text(text)
    (half / "run.json").write_text('{"host": "node7"}')
    for step in (10, 20):
        commit = half / "checkpoints" / f"step-{step:08d}"
        commit.mkdir(parents=True)
        (commit / "MANIFEST.json").write_text("{}")
    (half / "checkpoints" / "step-00000030.tmp").mkdir()
    other = tmp_path / "notes"
    other.mkdir()
    (other / "config.yaml").write_text("kind: something\n")
    return tmp_path


def test_runs_are_read_from_their_files(folder: Path) -> None:
    runs = {Path(run.path).name: run for run in find_runs(folder)}
    assert set(runs) == {"done", "half", "new"}
    assert runs["done"].state == "done"
    half = runs["half"]
    assert (half.state, half.step, half.loss, half.host) == ("running", 30, 7.0, "node7")
    assert half.committed_step == 20
    assert half.eta_s == pytest.approx((100 - 30) * 32 / 16.0)
    assert (runs["new"].step, runs["new"].committed_step) == (None, None)


def test_a_run_that_has_written_nothing_for_long_is_stopped(folder: Path) -> None:
    runs = {Path(run.path).name: run for run in find_runs(folder, now=time.time() + 3600)}
    assert runs["half"].state == "stopped"
    assert runs["half"].eta_s is None
    assert runs["done"].state == "done"


def test_the_table_shows_every_run(folder: Path) -> None:
    console = Console(width=160, file=io.StringIO())
    console.print(as_table(find_runs(folder)))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "30/100" in text
    assert "7.0000" in text
    assert "2m20s" in text


NOW = 1_700_000_000.0


def a_run(
    folder: Path,
    *,
    marks: dict[str, str] | None = None,
    beat: Mapping[str, object] | None = None,
    attempts: Sequence[float] = (),
    exits: Sequence[tuple[float, int, bool]] = (),
    config: Sequence[str] = (),
    world_size: int = 1,
) -> RunStatus:
    """One run with these files, as `find_runs` sees it at NOW."""
    run = folder / "run"
    run.mkdir()
    small = load_config("configs/stage2/small.yaml", ["engine.num_steps=100", *config])
    (run / "config.yaml").write_text(to_yaml(small))
    for name, text in (marks or {}).items():
        (run / name).write_text(text)
    if beat is not None:
        (run / "heartbeat").mkdir()
        line = {"step": 40, "phase": "forward", "host": "n3", "pid": 7, "since": NOW - 2, **beat}
        (run / "heartbeat/rank-0000.json").write_text(json.dumps(line))
    for at in attempts:
        line = {"time": at, "step": 0, "world_size": world_size, "host": "n2", "job": "17"}
        append(run / "attempts.jsonl", line)
    for at, code, again in exits:
        append(run / "exits.jsonl", {"time": at, "code": code, "again": again, "job": "17"})
    for path in (run / "config.yaml", run / "attempts.jsonl"):
        if path.exists():
            os.utime(path, (NOW - 5000, NOW - 5000))
    (found,) = find_runs(folder, NOW)
    return found


def append(path: Path, line: dict[str, object]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


LIVE = {"time": NOW - 4}
DEAD = {"time": NOW - 400}
STARTED = (NOW - 900, NOW - 500)


def test_a_fresh_heartbeat_is_a_running_run_at_the_step_it_tells(tmp_path: Path) -> None:
    run = a_run(tmp_path, beat=LIVE, attempts=STARTED)
    assert (run.state, run.step, run.host, run.restarts, run.job) == ("running", 40, "n3", 1, "17")


def test_a_heartbeat_without_progress_is_a_stalled_run(tmp_path: Path) -> None:
    run = a_run(tmp_path, beat=LIVE | {"since": NOW - 3000, "phase": "backward"}, attempts=STARTED)
    assert run.state == "stalled"
    assert run.reason == "in backward since 3000 s"


def test_a_rank_without_a_sign_of_life_is_a_stalled_run(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    a_run(folder, beat=LIVE, attempts=STARTED, world_size=3)
    for rank, age_s in ((1, 5), (2, 300), (3, 300)):  # 3: of an earlier start, on more ranks
        path = folder / f"run/heartbeat/rank-{rank:04d}.json"
        path.write_text("{}")
        os.utime(path, (NOW - age_s, NOW - age_s))
    (run,) = find_runs(folder, NOW)
    assert (run.state, run.reason) == ("stalled", "no sign of life from rank 2")


@pytest.mark.parametrize("beat", [DEAD, None])
def test_how_a_run_ended_is_told_by_its_last_exit(tmp_path: Path, beat) -> None:
    cases = [
        ((NOW - 100, 75, True), "preempted"),
        ((NOW - 100, 75, False), "stopped"),
        ((NOW - 100, 139, True), "pending"),
        ((NOW - 100, 139, False), "failed"),
        ((NOW - 100, 130, False), "stopped"),
        ((NOW - 600, 75, True), "stopped"),  # of the start before the last
    ]
    for number, (ended, state) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert a_run(folder, beat=beat, attempts=STARTED, exits=[ended]).state == state, ended


def test_a_run_without_heartbeats_is_over_once_its_exit_is_told(folder: Path) -> None:
    half = folder / "experiment/half"
    append(half / "exits.jsonl", {"time": time.time() + 1, "code": 75, "again": True})
    runs = {Path(run.path).name: run for run in find_runs(folder)}
    assert runs["half"].state == "preempted"


def test_a_run_whose_machine_is_gone_is_stopped(tmp_path: Path) -> None:
    run = a_run(tmp_path, beat=DEAD, attempts=STARTED)
    assert (run.state, run.reason) == ("stopped", "ended without a word")


def test_marks_of_an_end_are_told_with_their_reason(tmp_path: Path) -> None:
    cases = [
        ({"FAILED": '{"code": 65, "reason": "diverged", "time": 1}'}, "failed", "diverged"),
        ({"KILL": ""}, "stopped", "called off: KILL"),
        ({"DONE": "{}", "KILL": ""}, "done", None),
    ]
    for number, (marks, state, reason) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        run = a_run(folder, marks=marks, beat=DEAD, attempts=STARTED)
        assert (run.state, run.reason) == (state, reason)


def test_a_run_that_started_again_after_it_failed_is_running(tmp_path: Path) -> None:
    marks = {"FAILED": '{"code": 65, "reason": "diverged", "time": 1}'}
    assert a_run(tmp_path, marks=marks, beat=LIVE, attempts=STARTED).state == "running"


@pytest.mark.parametrize("what", ["step", "experiment"])
def test_what_was_submitted_and_has_not_started_is_pending(
    tmp_path: Path, monkeypatch, what: str
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    root = Path("runs/demo/stage2") if what == "step" else Path("runs/demo")
    (step,) = plan_steps(What.stage2, "configs/stage2/small.yaml", ["out=runs/demo/stage2"])
    freeze(step, root).write()
    (run,) = find_runs(Path("runs"), NOW)
    assert (run.path, run.kind, run.state) == ("demo/stage2", "stage2", "pending")
    (root / "stage2" if what == "experiment" else root).mkdir(exist_ok=True)
    (Path("runs/demo/stage2") / "config.yaml").write_text(to_yaml(step.config))
    (run,) = find_runs(Path("runs"))
    assert run.state == "running"


def test_anything_with_an_engine_is_a_run_whatever_its_kind(tmp_path: Path) -> None:
    text = "kind: something-new\nengine: {num_steps: null, num_samples: 65, global_batch: 8}\n"
    (tmp_path / "config.yaml").write_text(text)
    (run,) = find_runs(tmp_path)
    assert (run.path, run.kind, run.num_steps) == (".", "something-new", 9)


def test_folders_that_hold_no_runs_are_not_searched(tmp_path: Path) -> None:
    for name in ("checkpoints", "code", ".launch", "tensorboard"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("kind: x\nengine: {num_steps: 1}\n")
    assert find_runs(tmp_path) == []


def test_the_last_commit_has_an_age(folder: Path) -> None:
    manifest = folder / "experiment/half/checkpoints/step-00000020/MANIFEST.json"
    os.utime(manifest, (NOW - 90, NOW - 90))
    runs = {Path(run.path).name: run for run in find_runs(folder, NOW)}
    assert runs["half"].commit_age_s == 90
    console = Console(width=180, file=io.StringIO())
    console.print(as_table(list(runs.values())))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "20, 1m30s ago" in text


def status(root: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "launch.status", *argv]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_the_command_prints_a_table_or_json(folder: Path, root: Path) -> None:
    runs = json.loads(status(root, str(folder), "--json").stdout)
    assert [run["state"] for run in runs] == ["done", "running", "running"]
    assert "experiment/half" in status(root, str(folder)).stdout


def test_a_folder_without_runs_is_no_error_and_no_folder_is(tmp_path: Path, root: Path) -> None:
    assert "no run below" in status(root, str(tmp_path)).stdout
    missing = status(root, str(tmp_path / "missing"))
    assert missing.returncode == 2
    assert "error: no folder" in missing.stderr


def test_watching_shows_what_changes_until_it_is_interrupted(folder, monkeypatch) -> None:
    looks = iter([30, 77])

    def sleep(seconds: float) -> None:
        assert seconds == 0.5
        step = next(looks, None)
        if step is None:
            raise KeyboardInterrupt
        line = {"step": step, "loss": 1.5, "samples_per_s": 16.0}
        (folder / "experiment/half/metrics.jsonl").write_text(json.dumps(line) + "\n")

    monkeypatch.setattr("launch.status.time.sleep", sleep)
    console = Console(width=180, file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr("launch.status.Console", lambda **_: console)
    result = CliRunner().invoke(app, [str(folder), "--watch", "--every", "0.5"])
    assert result.exit_code == 0, result.output
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert 0 < text.index("30/100") < text.index("77/100")


def test_a_table_that_is_watched_is_not_json(folder: Path, root: Path) -> None:
    result = status(root, str(folder), "--json", "--watch")
    assert result.returncode == 2
    assert "give one of them" in result.stderr
