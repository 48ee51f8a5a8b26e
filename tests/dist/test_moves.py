"""Runs that change hands: requeued by a scheduler of their own, resharded by hand."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import submitit

from pipeline.engine.checkpoint import committed, verify
from pipeline.engine.heartbeat import read_beat
from tests.dist.ranks import ROOT, Ranks, run_ranks
from tests.dist.runs import curve
from tests.dist.submitted import Training

pytestmark = pytest.mark.dist


def test_submitits_own_handler_is_called_after_the_commit(tiny_stage2, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as the run it is compared with: bit by bit
    out = tmp_path / "run"
    argv = [*tiny_stage2(out), "engine.kind=plain", "engine.num_steps=300"]
    executor = submitit.LocalExecutor(tmp_path / "submitit", max_num_timeout=3)
    executor.update_parameters(timeout_min=5)
    job = executor.submit(Training(argv))
    deadline = time.monotonic() + 120
    while len(committed(out / "checkpoints")) < 2:
        assert time.monotonic() < deadline, job.stderr()
        time.sleep(0.01)
    beat = read_beat(out / "heartbeat" / "rank-0000.json")
    assert beat is not None
    os.kill(beat["pid"], signal.SIGUSR2)
    assert job.result() == 0
    attempts = [json.loads(line) for line in (out / "attempts.jsonl").read_text().splitlines()]
    assert len(attempts) == 2
    assert attempts[1]["step"] > 0
    straight = tmp_path / "straight"
    run_ranks(["pipeline", *argv, f"out={straight}"], 1, tmp_path / "logs")
    assert curve(out) == curve(straight)


def test_a_resharded_commit_goes_on_where_the_first_would_have(tiny_stage2, tmp_path):
    out, moved = tmp_path / "run", tmp_path / "moved"
    argv = [*tiny_stage2(out), "engine.checkpoint.keep_last=5", "engine.ema_decay=0.9"]
    run_ranks(["pipeline", *argv], 2, tmp_path / "logs")
    source = out / "checkpoints" / "step-00000004"
    target = moved / "checkpoints" / "step-00000004"
    target.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "pipeline", "reshard", str(source), "--ranks", "3"]
    command += ["--out", str(target)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "compared with" in result.stdout
    assert verify(target).world_size == 3
    assert len(list(target.glob("rank-*.safetensors"))) == 3
    zero = ["engine.zero_stage=3", f"out={moved}"]
    output = run_ranks(["pipeline", *argv, *zero], 3, tmp_path / "moved-logs")
    assert "goes on from step 4" in output
    expected = curve(out)
    found = curve(moved)
    assert sorted(found) == list(range(5, 13))
    for step, loss in found.items():
        assert loss == pytest.approx(expected[step], rel=1e-6)
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 2
    assert "exists" in again.stderr
    shutil.rmtree(target)
    (source / "rank-0001.safetensors").write_bytes(b"")
    broken = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert broken.returncode == 2
    assert "committed were" in broken.stderr
    assert not target.exists()


def test_another_optimizer_starts_afresh_where_that_is_allowed(tiny_stage2, tmp_path):
    out = tmp_path / "run"
    argv = ["pipeline", *tiny_stage2(out), "engine.kind=plain"]
    run_ranks([*argv, "engine.num_steps=4"], 1, tmp_path / "first")
    other = [*argv, "engine.optimizer.name=muon", "engine.num_steps=6"]
    refused = Ranks(other, 1, tmp_path / "refused")
    assert refused.wait() == [2]
    assert "optimizer.name was 'adamw' and is 'muon'" in refused.output()
    output = run_ranks([*other, "engine.allow_changes=true"], 1, tmp_path / "second")
    assert "goes on though optimizer.name was 'adamw' and is 'muon'" in output
    assert max(curve(out)) == 6
