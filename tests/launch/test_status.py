import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from configs import load_config, to_yaml
from launch.status import as_table, find_runs


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
