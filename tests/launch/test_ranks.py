import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launch import child
from launch.ranks import Outcome, free_port, rank_environment, run_ranks


def run(code: str, folder: Path, num_ranks: int = 2, grace_s: float = 0.5) -> Outcome:
    """`code` on real rank processes, in `folder`."""
    port = free_port()
    environments = [os.environ | rank_environment(r, num_ranks, port) for r in range(num_ranks)]
    prelude = (
        f"import os, sys, time, signal; os.chdir({str(folder)!r}); rank = int(os.environ['RANK'])\n"
    )
    command = [sys.executable, "-c", prelude + code]
    return run_ranks(command, environments, log_dir=folder / "logs", grace_s=grace_s)


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """True while the process runs; a zombie that nobody has collected yet does not."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_every_rank_gets_its_place_in_the_world(tmp_path: Path) -> None:
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"]
    code = f"open(f'rank{{rank}}', 'w').write(' '.join(os.environ[n] for n in {names}))"
    assert run(code, tmp_path) == Outcome(0)
    first, second = (tmp_path / "rank0").read_text(), (tmp_path / "rank1").read_text()
    assert first.startswith("0 2 0 2 127.0.0.1 ")
    assert second.startswith("1 2 1 2 127.0.0.1 ")
    assert first.split()[-1] == second.split()[-1]


def test_rank_0_speaks_and_the_others_write_into_files(tmp_path: Path, capfd) -> None:
    run("print('hello from', rank)", tmp_path)
    assert capfd.readouterr().out == "hello from 0\n"
    assert (tmp_path / "logs/rank1.log").read_text() == "hello from 1\n"


def test_a_failing_rank_ends_the_others_and_is_named_with_its_last_words(tmp_path: Path) -> None:
    begin = time.monotonic()
    code = "open(f'pid{rank}', 'w').write(str(os.getpid()))\n"
    code += "if rank == 1: print('no such shard'); sys.exit(7)\ntime.sleep(60)"
    outcome = run(code, tmp_path)
    assert time.monotonic() - begin < 20
    assert outcome.code == 7
    assert "rank 1 of 2 failed with exit code 7" in outcome.message
    assert "no such shard" in outcome.message
    assert not alive(int((tmp_path / "pid0").read_text()))


def test_a_killed_rank_is_named_with_its_signal(tmp_path: Path) -> None:
    outcome = run("if rank == 0: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)", tmp_path)
    assert outcome.code == 128 + signal.SIGKILL
    assert "rank 0 of 2 was killed by SIGKILL" in outcome.message


def test_a_rank_may_finish_long_before_another(tmp_path: Path) -> None:
    assert run("time.sleep(1.5 if rank == 0 else 0)", tmp_path, grace_s=0.1).code == 0


def test_preempted_ranks_ask_to_be_started_again(tmp_path: Path) -> None:
    assert run("sys.exit(75)", tmp_path) == Outcome(75)


def test_a_failure_counts_more_than_a_preemption(tmp_path: Path) -> None:
    assert run("sys.exit(75 if rank else 3)", tmp_path).code == 3


DRIVER = """
import os, sys
from pathlib import Path
from launch.ranks import rank_environment, run_ranks
folder, code = Path(sys.argv[1]), sys.argv[2]
outcome = run_ranks(
    [sys.executable, "-c", code, str(folder)],
    [os.environ | rank_environment(r, 2, 1) for r in range(2)],
    log_dir=folder,
)
print(outcome.message)
sys.exit(outcome.code)
"""
# Leaves with 75 on the signal named in argv, like training does after its commit.
RANK = """
import os, signal, sys, time
from pathlib import Path
for name in ("SIGTERM", "SIGUSR2"):
    signal.signal(getattr(signal, name), lambda *_: sys.exit(75))
path = Path(sys.argv[1]) / f"pid{os.environ['RANK']}"
path.with_suffix(".tmp").write_text(str(os.getpid()))
path.with_suffix(".tmp").rename(path)
time.sleep(60)
"""


def start_driver(folder: Path, root: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A launcher of its own with two ranks, and their process ids."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), RANK], cwd=root, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    paths = [folder / f"pid{rank}" for rank in range(2)]
    wait_for(lambda: all(path.exists() for path in paths))
    return driver, [int(path.read_text()) for path in paths]


def test_ranks_die_with_a_launcher_that_is_killed(tmp_path: Path, root: Path) -> None:
    driver, ranks = start_driver(tmp_path, root)
    driver.kill()
    driver.communicate()
    wait_for(lambda: not any(alive(pid) for pid in ranks))


def test_a_terminated_launcher_lets_the_ranks_commit_and_asks_for_more(
    tmp_path: Path, root: Path
) -> None:
    driver, _ = start_driver(tmp_path, root)
    driver.terminate()
    out, _ = driver.communicate(timeout=20)
    assert driver.returncode == 75
    assert "stopped by SIGTERM" in out


def test_an_interrupted_launcher_lets_the_ranks_commit_and_stays_down(
    tmp_path: Path, root: Path
) -> None:
    driver, ranks = start_driver(tmp_path, root)
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=20)
    assert driver.returncode == 128 + signal.SIGINT
    assert not any(alive(pid) for pid in ranks)


def test_usr2_is_passed_on(tmp_path: Path, root: Path) -> None:
    driver, _ = start_driver(tmp_path, root)
    driver.send_signal(signal.SIGUSR2)
    out, _ = driver.communicate(timeout=20)
    assert driver.returncode == 75
    assert "stopped" not in out


def test_the_portable_shim_also_ends_its_command_with_the_parent(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    command = f"import os, time; open({str(path)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    watch = (
        f"import sys; sys.path.insert(0, {str(Path(child.__file__).parents[1])!r});"
        "import os; from launch.child import watch;"
        f"watch(os.getppid(), [sys.executable, '-c', {command!r}])"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {watch!r}])"]
    )  # fmt: skip
    wait_for(lambda: path.exists() and path.read_text() != "")
    pid = int(path.read_text())
    assert alive(pid)
    parent.kill()
    parent.wait()
    wait_for(lambda: not alive(pid))


def test_the_shim_keeps_the_exit_code() -> None:
    command = [sys.executable, child.__file__, str(os.getpid()), sys.executable, "-c", "exit(65)"]
    assert subprocess.run(command, check=False).returncode == 65
    assert child.watch(os.getppid(), [sys.executable, "-c", "exit(65)"]) == 65
