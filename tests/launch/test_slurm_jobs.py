"""Jobs of both Slurm routes, run by what `tests.launch.fake_slurm` has of Slurm."""

from dataclasses import replace
from pathlib import Path

import pytest

from configs.schema import ClusterConfig
from launch.errors import LaunchError
from launch.slurm import submit
from tests.launch.fake_slurm import FakeSlurm, directives, slurm
from tests.launch.stubs import stub_step

__all__ = ["slurm"]

COMMIT = """
def commit(step):
    folder = FOLDER / f'checkpoints/step-{step:08d}'
    folder.mkdir(parents=True)
    (folder / 'MANIFEST.json').touch()
number = int(os.environ['SLURM_RESTART_COUNT'])
if os.environ['RANK'] == '0': (FOLDER / 'starts').open('a').write('x')
import signal, time
"""
KILL_RANK_1 = """
ready = FOLDER / f'ready{number}'
if os.environ['RANK'] == '1':
    while not ready.exists(): time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
ready.touch()
time.sleep(30)"""


@pytest.fixture(params=["slurm", "sbatch"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> ClusterConfig:
    return ClusterConfig(
        kind="cluster", executor=request.param, ranks_per_node=2, log_dir=tmp_path / "logs"
    )


def submit_one(body: str, cluster: ClusterConfig, folder: Path, monkeypatch) -> None:
    step = stub_step(folder, monkeypatch, COMMIT + body)
    assert submit((step,), cluster) == 0


def test_every_task_is_a_rank(slurm: FakeSlurm, cluster, tmp_path, monkeypatch) -> None:
    body = """
names = 'RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT'.split()
(FOLDER / f"rank{os.environ['RANK']}").write_text(' '.join(os.environ[n] for n in names))"""
    submit_one(body, cluster, tmp_path, monkeypatch)
    ended = slurm.run(100)
    assert ended.code == 0, ended.log
    ranks = [(tmp_path / f"rank{r}").read_text() for r in range(2)]
    assert ranks == [f"{r} 2 {r} 2 n1 {20000 + 100}" for r in range(2)]
    assert "--kill-on-bad-exit=1" in slurm.srun
    assert not slurm.requeued


def test_a_preempted_job_is_requeued_and_goes_on(slurm, cluster, tmp_path, monkeypatch) -> None:
    submit_one("if number < 2: return 75", cluster, tmp_path, monkeypatch)
    ended = slurm.run(100)
    assert (ended.code, ended.num_runs) == (0, 3), ended.log
    assert slurm.requeued == ["100", "100"]


def test_a_preemption_counts_though_the_other_ranks_are_killed_for_it(
    slurm, cluster, tmp_path, monkeypatch
) -> None:
    body = "if number: return 0\nif os.environ['RANK'] == '1': time.sleep(30)\nreturn 75"
    slow = cluster.model_copy(update={"max_restarts": 0})
    submit_one(body, slow, tmp_path, monkeypatch)
    ended = slurm.run(100)
    assert (ended.code, ended.num_runs) == (0, 2), ended.log


def test_a_killed_rank_is_survived_if_something_was_committed(
    slurm, cluster, tmp_path, monkeypatch
) -> None:
    body = "if number == 2: return 0\nif os.environ['RANK'] == '0': commit(100 * (number + 1))"
    submit_one(body + KILL_RANK_1, cluster, tmp_path, monkeypatch)
    ended = slurm.run(100)
    assert (ended.code, ended.num_runs) == (0, 3), ended.log
    assert "crashed with exit code 137, but got further" in ended.log


def test_a_killed_rank_ends_the_job_if_nothing_was_committed(
    slurm, cluster, tmp_path, monkeypatch
) -> None:
    submit_one(KILL_RANK_1, cluster, tmp_path, monkeypatch)
    ended = slurm.run(100)
    assert (ended.code, ended.num_runs) == (137, 1), ended.log
    assert "committed nothing since the start" in ended.log


def test_a_job_that_was_made_smaller_starts_fewer_ranks(
    slurm, cluster, tmp_path, monkeypatch
) -> None:
    """Sbatch's own SLURM_NTASKS is of the submission: two nodes with two tasks each."""
    body = "(FOLDER / f\"rank{os.environ['RANK']}\").write_text(os.environ['WORLD_SIZE'])"
    submit_one(body, cluster, tmp_path, monkeypatch)
    ended = slurm.run(100, more={"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"})
    assert ended.code == 0, ended.log
    assert [p.read_text() for p in sorted(tmp_path.glob("rank?"))] == ["2", "2"]


def test_a_rank_killed_while_it_told_how_it_ended_does_not_spoil_the_next_start(
    slurm, tmp_path, monkeypatch
) -> None:
    site = ClusterConfig(
        kind="cluster", executor="slurm", ranks_per_node=1, log_dir=tmp_path / "log files"
    )
    submit_one("return 0", site, tmp_path, monkeypatch)
    half = tmp_path / "log files" / "100" / "100_0_result.pkl.save_tmp"
    half.write_text("")
    ended = slurm.run(100)
    assert ended.code == 0, ended.log


def test_crashes_have_a_limit(slurm, cluster, tmp_path, monkeypatch) -> None:
    body = "if os.environ['RANK'] == '0':\n    commit(number + 1)\n    return 1\ntime.sleep(30)"
    twice = cluster.model_copy(update={"max_restarts": 2})
    submit_one(body, twice, tmp_path, monkeypatch)
    ended = slurm.run(100)
    assert (ended.code, ended.num_runs) == (1, 3), ended.log
    assert "after 2 restarts; not started again" in ended.log


@pytest.mark.parametrize("code", [2, 65])
def test_a_job_that_gives_up_is_never_requeued(slurm, cluster, tmp_path, monkeypatch, code) -> None:
    body = f"if os.environ['RANK'] == '0':\n    commit(100)\n    return {code}\ntime.sleep(30)"
    submit_one(body, cluster, tmp_path, monkeypatch)
    ended = slurm.run(100)
    assert (ended.code, ended.num_runs) == (code, 1), ended.log


def test_usr2_before_training_listens_is_a_preemption(
    slurm, cluster, tmp_path, monkeypatch
) -> None:
    body = "if number: return 0\nos.kill(os.getpid(), signal.SIGUSR2)\ntime.sleep(30)"
    submit_one(body, cluster, tmp_path, monkeypatch)
    ended = slurm.run(100)
    assert (ended.code, ended.num_runs) == (0, 2), ended.log
    assert "preempted while starting" in ended.log


def test_a_run_that_is_called_off_neither_goes_on_nor_starts_again(
    slurm, cluster, tmp_path, monkeypatch
) -> None:
    body = "if os.environ['RANK'] == '1': time.sleep(30)\n(FOLDER / 'KILL').touch()\nreturn 75"
    submit_one(body, cluster, tmp_path, monkeypatch)
    assert slurm.run(100).code == 65
    ended = slurm.run(100)
    assert ended.code == 65
    assert "remove it to go on" in ended.log
    assert (tmp_path / "starts").read_text() == "x"
    assert not slurm.requeued


def test_where_slurm_does_not_requeue_the_job_says_so(
    slurm, cluster, tmp_path, monkeypatch
) -> None:
    submit_one("return 75", cluster, tmp_path, monkeypatch)
    slurm.refuse("no requeueing here")
    ended = slurm.run(100)
    assert ended.code == 75
    assert "submit it again" in ended.log
    assert slurm.requeued == ["100"]


def test_alike_steps_are_one_array_and_the_next_waits_for_it(
    slurm, cluster, tmp_path, monkeypatch, capfd
) -> None:
    body = """
starts = FOLDER / 'starts'
number = len(starts.read_text()) if starts.exists() else 0
starts.write_text('x' * (number + 1))
if number == 0 and FOLDER.name == 'b': return 75"""
    steps = []
    for name in "abc":
        (tmp_path / name).mkdir()
        step = stub_step(tmp_path / name, monkeypatch, body, name=name, launch="single")
        steps.append(replace(step, kind="stage1", after=("shards",)))
    path = ":".join(str(tmp_path / name / "packages") for name in "abc")
    monkeypatch.setenv("PYTHONPATH", path)
    last = replace(stub_step(tmp_path, monkeypatch, "", name="last"), after=("a", "b", "c"))
    monkeypatch.setenv("PYTHONPATH", path)
    # What is done takes no task.
    (tmp_path / "a" / "a.marker").touch()
    steps[0].write_record()
    site = cluster.model_copy(update={"array_parallelism": 1})
    assert submit((*steps, last), site) == 0
    out = capfd.readouterr().out
    assert "a: skipped, committed before" in out
    assert "stage1: job 100; an array of 2: b, c;" in out
    assert "last: job 101 after 100" in out
    assert slurm.num_jobs == 2
    assert directives(slurm.script(100))["array"] == "0-1%1"
    assert directives(slurm.script(101))["dependency"] == "afterok:100"

    # Its plain number would requeue the whole array.
    first = slurm.run(100, task=0)
    assert (first.code, first.num_runs) == (0, 2), first.log
    assert slurm.requeued == ["100_0"]
    assert slurm.run(100, task=1).code == 0
    starts = [(tmp_path / n / "starts") for n in "abc"]
    assert [s.read_text() if s.exists() else "" for s in starts] == ["", "xx", "x"]


def test_what_sbatch_refuses_is_told_with_what_was_submitted(
    slurm, cluster, tmp_path, monkeypatch, capfd
) -> None:
    first = stub_step(tmp_path, monkeypatch, "", name="first")
    second = replace(stub_step(tmp_path, monkeypatch, "", name="second"), after=("first",))
    slurm.refuse("Invalid account")
    with pytest.raises(LaunchError, match=r"first: sbatch refuses the job: .*Invalid account"):
        submit((first, second), cluster)
    (slurm.folder / "refuse").unlink()
    slurm.add(
        "sbatch", (slurm.folder / "bin/sbatch").read_text().replace("-e refuse", "-e job-100")
    )
    (slurm.folder / "refuse").write_text("no more")
    with pytest.raises(LaunchError, match=r"second: .*submitted before it: 100 .*scancel 100"):
        submit((first, second), cluster)
