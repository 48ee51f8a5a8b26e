import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from configs.schema import ClusterConfig
from launch.executors import count_gpus, local_commands, num_local_ranks, run_here
from launch.mpi import find_mpiexec, mpi_command
from launch.plan import plan_steps
from launch.step import What
from tests.launch.stubs import stub_step
from tests.launch.test_ranks import alive, wait_for

LOCAL = ClusterConfig(kind="cluster", executor="local", ranks_per_node=2)
DEBUG = ClusterConfig(kind="cluster", executor="debug")


def test_a_preempted_step_is_started_again(tmp_path: Path, monkeypatch, capfd) -> None:
    body = """
rank = os.environ['RANK']
path = FOLDER / f'starts{rank}'
starts = len(path.read_text()) if path.exists() else 0
path.write_text('x' * (starts + 1))
if starts < 2: return 75
(FOLDER / 'stub.marker').touch()"""
    step = stub_step(tmp_path, monkeypatch, body)
    assert run_here((step,), LOCAL) == 0
    assert (tmp_path / "starts0").read_text() == "xxx"
    assert (tmp_path / "starts1").read_text() == "xxx"
    assert "preempted after a commit, goes on (2)" in capfd.readouterr().out
    assert step.is_done()


COMMIT = """
if os.environ['RANK'] == '1': return 0
steps = len(list(FOLDER.glob('checkpoints/step-*')))
folder = FOLDER / f'checkpoints/step-{steps + 1:08d}'
"""


def test_a_crash_that_got_further_is_started_again(tmp_path: Path, monkeypatch, capfd) -> None:
    body = f"""{COMMIT}
if steps == 2: return 0
folder.mkdir(parents=True)
(folder / 'MANIFEST.json').touch()
import signal
os.kill(os.getpid(), signal.SIGKILL)"""
    step = stub_step(tmp_path, monkeypatch, body)
    assert run_here((step,), LOCAL) == 0
    said = capfd.readouterr()
    assert "goes on from its last commit (restart 2 of at most 30)" in said.out
    assert "rank 0 of 2 was killed by SIGKILL" in said.err


def test_a_crash_that_committed_nothing_is_not(tmp_path: Path, monkeypatch, capfd) -> None:
    body = f"{COMMIT}\nfolder.mkdir(parents=True)\nreturn 3"
    step = stub_step(tmp_path, monkeypatch, body)
    assert run_here((step,), LOCAL) == 3
    assert len(list(tmp_path.glob("checkpoints/step-*"))) == 1
    assert "restart" not in capfd.readouterr().out


def test_crashes_have_a_limit(tmp_path: Path, monkeypatch, capfd) -> None:
    body = f"{COMMIT}\nfolder.mkdir(parents=True)\n(folder / 'MANIFEST.json').touch()\nreturn 3"
    step = stub_step(tmp_path, monkeypatch, body)
    limited = LOCAL.model_copy(update={"max_restarts": 2})
    assert run_here((step,), limited) == 3
    assert len(list(tmp_path.glob("checkpoints/step-*"))) == 3
    assert "not started again after 2 crashes (max_restarts)" in capfd.readouterr().err


@pytest.mark.parametrize("code", [2, 65])
def test_what_gave_up_is_not_started_again(tmp_path: Path, monkeypatch, code: int) -> None:
    body = (
        f"{COMMIT}\nfolder.mkdir(parents=True)\n(folder / 'MANIFEST.json').touch()\nreturn {code}"
    )
    step = stub_step(tmp_path, monkeypatch, body)
    assert run_here((step,), LOCAL) == code
    assert len(list(tmp_path.glob("checkpoints/step-*"))) == 1


@pytest.mark.parametrize("code", [0, 75])
def test_a_run_that_is_called_off_ends_the_plan(tmp_path, monkeypatch, capfd, code: int) -> None:
    step = stub_step(tmp_path, monkeypatch, f"(FOLDER / 'KILL').touch()\nreturn {code}")
    never = stub_step(tmp_path, monkeypatch, "(FOLDER / 'never').touch()", name="never")
    assert run_here((step, never), LOCAL) == 65
    assert not (tmp_path / "never").exists()
    assert "KILL; remove it to go on" in capfd.readouterr().err


def test_how_each_start_of_a_training_run_ended_is_kept(tmp_path: Path, monkeypatch) -> None:
    body = """
(FOLDER / 'config.yaml').touch()
if os.environ['RANK'] == '1': return 0
starts = FOLDER / 'starts'
starts.open('a').write('x')
return 75 if starts.read_text() == 'x' else 65"""
    step = stub_step(tmp_path, monkeypatch, body)
    assert run_here((step,), LOCAL) == 65
    lines = [json.loads(line) for line in (tmp_path / "exits.jsonl").read_text().splitlines()]
    assert [(line["code"], line["again"]) for line in lines] == [(75, True), (65, False)]


def test_a_failing_step_ends_the_plan_with_its_exit_code(tmp_path, monkeypatch, capfd) -> None:
    bad = stub_step(tmp_path, monkeypatch, "return 65", name="bad")
    never = stub_step(tmp_path, monkeypatch, "(FOLDER / 'never').touch()", name="never")
    assert run_here((bad, never), LOCAL) == 65
    assert not (tmp_path / "never").exists()
    assert "error: step bad: rank" in capfd.readouterr().err


@pytest.mark.parametrize("cluster", [LOCAL, DEBUG], ids=["local", "debug"])
def test_committed_steps_are_skipped(tmp_path: Path, monkeypatch, capfd, cluster) -> None:
    body = "(FOLDER / 'one.marker').touch()"
    step = stub_step(tmp_path, monkeypatch, body, name="one", launch="single")
    assert run_here((step,), cluster) == 0
    assert re.search(r"\[1/1\] one  done +\d+\.\d s", capfd.readouterr().out)
    assert run_here((step,), cluster) == 0
    assert "skipped   committed before" in capfd.readouterr().out


def test_a_step_runs_again_when_one_it_waits_for_has_just_run(tmp_path, monkeypatch, capfd) -> None:
    first = stub_step(
        tmp_path, monkeypatch, "(FOLDER / 'first.marker').touch()", name="first", launch="single"
    )
    body = "(FOLDER / 'second.marker').touch()"
    second = stub_step(
        tmp_path, monkeypatch, body, name="second", launch="single", after=("first",)
    )
    assert run_here((first, second), DEBUG) == 0
    (tmp_path / "first.marker").unlink()
    capfd.readouterr()
    assert run_here((first, second), DEBUG) == 0
    assert "skipped" not in capfd.readouterr().out


def test_a_step_that_leaves_for_a_signal_takes_tolerant_ones_along(
    tmp_path, monkeypatch, capfd
) -> None:
    first = stub_step(tmp_path, monkeypatch, "return 75", name="left", launch="single")
    body = "(FOLDER / 'went').touch()"
    second = stub_step(tmp_path, monkeypatch, body, name="on", launch="single", after=("left",))
    assert run_here((first, replace(second, tolerant=True)), DEBUG) == 75
    assert not (tmp_path / "went").exists()
    assert "goes on from here" in capfd.readouterr().err


def test_ranks_share_the_cores_and_forget_an_outer_rank(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    ranks = stub_step(tmp_path, monkeypatch, "return 0", name="ranks")
    single = stub_step(tmp_path, monkeypatch, "return 0", name="single", launch="single")
    _, environments = local_commands(ranks, LOCAL)
    cores = len(os.sched_getaffinity(0))
    assert [e["RANK"] for e in environments()] == ["0", "1"]
    assert environments()[0]["OMP_NUM_THREADS"] == str(max(1, cores // 2))
    _, environments = local_commands(single, LOCAL)
    (alone,) = environments()
    assert "RANK" not in alone
    assert alone["OMP_NUM_THREADS"] == str(cores)


def test_the_cluster_environment_wins(tmp_path: Path, monkeypatch) -> None:
    site = LOCAL.model_copy(update={"env": {"OMP_NUM_THREADS": "7"}})
    step = stub_step(tmp_path, monkeypatch, "return 0")
    _, environments = local_commands(step, site)
    assert environments()[0]["OMP_NUM_THREADS"] == "7"


def test_gpus_are_counted_as_the_environment_shows_them(monkeypatch) -> None:
    assert count_gpus({"CUDA_VISIBLE_DEVICES": "0,2,3"}) == 3
    assert count_gpus({"CUDA_VISIBLE_DEVICES": ""}) == 0
    assert count_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == 0
    auto = LOCAL.model_copy(update={"gpus_per_node": "auto"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert num_local_ranks(auto) == 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert num_local_ranks(auto) == 2


def test_without_mpi_shards_are_built_in_one_process(monkeypatch, capsys) -> None:
    (step,) = plan_steps(What.shards, "configs/shards/synthetic.yaml")
    monkeypatch.setattr("launch.executors.find_mpiexec", lambda: None)
    command, environments = local_commands(step, LOCAL)
    assert command == step.command
    assert len(environments()) == 1
    assert "one process, as there is no mpi4py or no mpiexec" in capsys.readouterr().out


MPI_RANK = """
import os, sys, time
from mpi4py import MPI
path = f"{sys.argv[1]}/{MPI.COMM_WORLD.rank}of{MPI.COMM_WORLD.size}"
open(path + ".tmp", "w").write(str(os.getpid()))
os.rename(path + ".tmp", path)
time.sleep(float(sys.argv[2]))
"""


needs_mpi = pytest.mark.skipif(find_mpiexec() is None, reason="no mpi4py or no mpiexec here")


@needs_mpi
@pytest.mark.mpi
def test_mpi_ranks_start_also_beyond_the_cores_and_as_root(tmp_path: Path) -> None:
    mpiexec = find_mpiexec()
    assert mpiexec is not None
    command = [sys.executable, "-c", MPI_RANK, str(tmp_path), "0"]
    result = subprocess.run(
        mpi_command(mpiexec, 3, command), capture_output=True, text=True, check=True
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0of3", "1of3", "2of3"]
    assert result.stdout == result.stderr == ""


@needs_mpi
@pytest.mark.mpi
def test_mpi_ranks_die_with_a_killed_mpiexec(tmp_path: Path) -> None:
    mpiexec = find_mpiexec()
    assert mpiexec is not None
    command = [sys.executable, "-c", MPI_RANK, str(tmp_path), "60"]
    process = subprocess.Popen(mpi_command(mpiexec, 2, command), stderr=subprocess.DEVNULL)
    wait_for(lambda: {"0of2", "1of2"} <= {p.name for p in tmp_path.iterdir()}, 30)
    ranks = [int(p.read_text()) for p in tmp_path.iterdir()]
    process.send_signal(signal.SIGKILL)
    process.wait()
    begin = time.monotonic()
    wait_for(lambda: not any(alive(pid) for pid in ranks))
    assert time.monotonic() - begin < 10
