"""What submitit pickles, run by submitit itself on this machine."""

import signal
from pathlib import Path

import pytest
import submitit

from launch.job import StepJob
from launch.plan import plan_steps
from launch.step import What
from tests.launch.stubs import stub_step
from tests.launch.test_ranks import wait_for


def submit(job: StepJob, folder: Path, num_ranks: int = 1) -> submitit.Job:
    executor = submitit.LocalExecutor(folder / "submitit", max_num_timeout=3)
    executor.update_parameters(tasks_per_node=num_ranks, timeout_min=1, signal_delay_s=20)
    return executor.submit(job)


def test_every_task_runs_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "(FOLDER / os.environ['SUBMITIT_LOCAL_GLOBALID']).touch()"
    step = stub_step(tmp_path, monkeypatch, body)
    assert submit(StepJob(step), tmp_path, 2).results() == [0, 0]
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()


def test_a_signal_ends_a_step_that_does_not_listen(tmp_path: Path, monkeypatch) -> None:
    # submitit alone would requeue on USR2, from within rank 0, and would not hear TERM at all.
    for name in ("USR2", "TERM"):
        body = f"""
import signal, time
(FOLDER / '{name}').touch()
os.kill(os.getpid(), signal.SIG{name})
time.sleep(5)
(FOLDER / '{name}.survived').touch()"""
        step = stub_step(tmp_path, monkeypatch, body, name=name)
        job = submit(StepJob(step), tmp_path)
        wait_for(job.done)
        assert not job.paths.result_pickle.exists()
        assert (tmp_path / name).exists()
        assert not (tmp_path / f"{name}.survived").exists()


@pytest.mark.parametrize("code", [65, 75])
def test_a_job_that_ends_early_keeps_its_exit_code(tmp_path: Path, monkeypatch, code: int) -> None:
    step = stub_step(tmp_path, monkeypatch, f"return {code}", name=f"code{code}", launch="single")
    before = {n: signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as leave:
            StepJob(step)()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert leave.value.code == code


def test_a_real_command_runs_as_a_job(tmp_path: Path, monkeypatch, root: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root))
    out = tmp_path / "shards"
    changes = [f"out={out}", "source.num_samples=4", "samples_per_shard=4", "source.tile_px=24"]
    (step,) = plan_steps(What.shards, "configs/shards/synthetic.yaml", changes)
    assert submit(StepJob(step), tmp_path).result() == 0
    assert (out / "manifest.json").is_file()
