from pathlib import Path

import pytest
import submitit

from launch.job import StepJob
from launch.plan import What, plan_steps
from tests.launch.stubs import stub_step


def submit(job: StepJob, folder: Path, num_ranks: int) -> submitit.Job:
    executor = submitit.LocalExecutor(folder / "submitit", max_num_timeout=3)
    executor.update_parameters(tasks_per_node=num_ranks, timeout_min=1, signal_delay_s=20)
    return executor.submit(job)


def test_every_task_is_a_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = """
names = 'RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT'.split()
(FOLDER / f"rank{os.environ['RANK']}").write_text(' '.join(os.environ[n] for n in names))"""
    step = stub_step(tmp_path, monkeypatch, body)
    assert submit(StepJob(step), tmp_path, 2).results() == [0, 0]
    first, second = ((tmp_path / f"rank{r}").read_text().split() for r in range(2))
    assert first[:5] == ["0", "2", "0", "2", "127.0.0.1"]
    assert second[:5] == ["1", "2", "1", "2", "127.0.0.1"]
    assert first[5] == second[5]
    assert 20000 <= int(first[5]) < 32000
    assert step.record is not None
    assert step.record.is_file()


def test_a_preempted_job_is_requeued_and_goes_on(tmp_path: Path, monkeypatch) -> None:
    body = """
path = FOLDER / f"starts{os.environ['RANK']}"
starts = len(path.read_text()) if path.exists() else 0
path.write_text('x' * (starts + 1))
if starts < 1:
    import signal
    if os.environ['RANK'] == '0': signal.getsignal(signal.SIGUSR2)(signal.SIGUSR2, None)
    return 75"""
    job = submit(StepJob(stub_step(tmp_path, monkeypatch, body)), tmp_path, 2)
    assert job.results() == [0, 0]
    assert (tmp_path / "starts0").read_text() == "xx"


# 75: stopped by TERM, which must not undo a scancel.
@pytest.mark.parametrize("code", [65, 75])
def test_a_job_that_ends_early_keeps_its_exit_code(tmp_path: Path, monkeypatch, code: int) -> None:
    step = stub_step(tmp_path, monkeypatch, f"return {code}", name=f"code{code}", launch="single")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "1")
    with pytest.raises(SystemExit) as leave:
        StepJob(step)()
    assert leave.value.code == code
    assert step.record is not None
    assert not step.record.exists()


def test_a_real_command_runs_as_a_job(tmp_path: Path, monkeypatch, root: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root))
    out = tmp_path / "shards"
    changes = [f"out={out}", "source.num_samples=4", "samples_per_shard=4", "source.tile_px=24"]
    (step,) = plan_steps(What.shards, "configs/shards/synthetic.yaml", changes)
    assert submit(StepJob(step), tmp_path, 1).result() == 0
    assert (out / "manifest.json").is_file()
