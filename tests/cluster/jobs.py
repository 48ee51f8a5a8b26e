"""Jobs on the test cluster: submit them by either route, watch them, disturb them.

Every wait has a deadline, and fails with all there is to know: queue, accounting, logs.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.cluster import network
from tests.cluster.network import NODE_ENVIRONMENT
from tests.cluster.slurm_cluster import SlurmCluster
from tests.dist.ranks import ROOT

OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY")


@dataclass(frozen=True)
class Attempt:
    """One start of a job, as accounting remembers it."""

    state: str
    exit_code: str
    nodes: str


class Job:
    """A submitted job; `logs` is where it writes."""

    def __init__(self, cluster: SlurmCluster, number: str, logs: Path):
        self.cluster, self.number, self.logs = cluster, number, logs

    def attempts(self) -> list[Attempt]:
        """All starts in order, the requeued ones included."""
        columns = "--format=State,ExitCode,NodeList"
        options = ["--allocations", "--duplicates", "--parsable2", "--noheader", columns]
        lines = self.cluster.command("sacct", "--jobs", self.number, *options).splitlines()
        rows = (line.split("|") for line in lines)
        return [Attempt(state.split()[0], code, nodes) for state, code, nodes in rows]

    def states(self) -> list[str]:
        return [attempt.state for attempt in self.attempts()]

    def fields(self, name: str) -> list[str]:
        """A field of `scontrol show job`, such as JobState or Restarts, of every task of an array."""
        shown = self.cluster.command("scontrol", "--oneliner", "show", "job", self.number)
        found = re.findall(rf"\b{name}=(\S*)", shown)
        assert found, shown
        return found

    @property
    def is_over(self) -> bool:
        """Whether it has ended, as far as the controller knows."""
        return all(state in OVER for state in self.fields("JobState"))

    def wait(self, timeout_s: float = 120) -> list[str]:
        """The states of all starts, once the job is over for good and accounting knows it."""
        self.wait_for(lambda: self.is_over, "its end", timeout_s)
        self.wait_for(lambda: all(s in (*OVER, "REQUEUED") for s in self.states()), "sacct", 30)
        return self.states()

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout_s:.0f} s for {what}\n{self.explain()}")
            time.sleep(0.05)

    def wait_for_file(self, path: Path, timeout_s: float = 60) -> None:
        """Until a file is there; fails at once when the job ends without it."""
        started = looked = time.monotonic()
        while not path.exists():
            now = time.monotonic()
            if now - looked > 2:
                looked, over = now, self.is_over
                assert not over or path.exists(), f"ended without {path}\n{self.explain()}"
            assert now - started < timeout_s, f"{path} did not come\n{self.explain()}"
            time.sleep(0.02)

    def ranks(self) -> dict[int, int]:
        """Process id by rank: the processes that srun started, on whatever node."""
        found = {}
        for node in network.NODES:
            for pid in network.processes(node):
                variables = _environment(pid)
                # The batch script has no SLURM_STEP_ID; srun, which has, is no python.
                ours = variables.get("SLURM_JOB_ID") == self.number and "SLURM_STEP_ID" in variables
                if ours and _executable(pid).startswith("python"):
                    rank = int(variables["SLURM_PROCID"])
                    found[rank] = min(pid, found.get(rank, pid))  # not a child of it
        return dict(sorted(found.items()))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[dict[int, int]]:
        """Hold all ranks still, so that what a test does next meets a run in its middle."""
        ranks = self.ranks()
        assert ranks, f"no rank is running\n{self.explain()}"
        self._signal(ranks, signal.SIGSTOP)
        try:
            yield ranks
        finally:
            self._signal(ranks, signal.SIGCONT)

    def signalled(self, number: signal.Signals) -> bool:
        """Whether a signal waits for every (frozen) rank."""
        return all(_pending(pid) & (1 << (number - 1)) for pid in self.ranks().values())

    def update(self, *changes: str) -> None:
        """`scontrol update`, while the job is pending."""
        self.cluster.command("scontrol", "update", f"jobid={self.number}", *changes)

    def cancel(self, *options: str) -> None:
        self.cluster.command("scancel", *options, self.number)

    def log(self) -> str:
        """All the job has written so far."""
        files = sorted(path for path in self.logs.rglob("*") if path.suffix in (".log", ".out"))
        return "\n".join(path.read_text(errors="replace") for path in files)

    def explain(self) -> str:
        parts = []
        for command in (
            ["squeue"],
            ["scontrol", "--oneliner", "show", "job", self.number],
            ["sacct", "--allocations", "--duplicates"],
        ):
            with contextlib.suppress(RuntimeError):
                parts.append(self.cluster.command(*command))
        lines = [x for x in self.log().splitlines() if not re.search(r" step +\d+/\d+ ", x)]
        return "\n".join([*parts, "--- the job's log", *lines[-60:], self.cluster.logs()])

    @staticmethod
    def _signal(ranks: Mapping[int, int], number: signal.Signals) -> None:
        for pid in ranks.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@dataclass(frozen=True)
class Shape:
    """What a training job asks Slurm for."""

    nodes: int = 2
    ranks_per_node: int = 1
    time_min: int = 10
    signal_lead_s: int = 20


class Routes:
    """The two ways into the queue. `argv` is `pipeline train --config FILE a.b=c ...`."""

    def __init__(self, cluster: SlurmCluster, folder: Path):
        self.cluster, self.folder = cluster, folder
        self.logs = folder / "logs"
        self.logs.mkdir()

    def submit(self, route: str, argv: list[str], shape: Shape = Shape()) -> Job:
        """One stage-2 run as a job, submitted `by hand`, or by `launch` through its two executors."""
        if route == "by hand":
            return self._by_hand(argv, shape)
        output = self.launch("stage2", argv[3], self.site(route, shape), *argv[4:])
        return self.submitted(output)["stage2"]

    def launch(self, what: str, config: str, site: Path, *overrides: str) -> str:
        """What `python -m launch.submit` prints."""
        command = ["--config", config, "--cluster", str(site), *overrides]
        return self._run([sys.executable, "-m", "launch.submit", what, *command])

    def submitted(self, output: str) -> dict[str, Job]:
        """Jobs by name, from what `launch.submit` printed."""
        found = re.findall(r"^(\S+): job (\d+)", output, re.MULTILINE)
        return {name: Job(self.cluster, number, self.logs) for name, number in found}

    def site(self, route: str, shape: Shape) -> Path:
        """A cluster file for this cluster."""
        values = {
            "kind": "cluster",
            "executor": {"submitit": "slurm", "sbatch": "sbatch"}[route],
            "nodes": shape.nodes,
            "ranks_per_node": shape.ranks_per_node,
            "shard_ranks": 1,
            "mpi": "none",
            "time_min": shape.time_min,
            "signal_lead_s": shape.signal_lead_s,
            "env": NODE_ENVIRONMENT,
            "log_dir": str(self.logs),
        }
        path = self.folder / f"{route}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    def _by_hand(self, argv: list[str], shape: Shape) -> Job:
        """`sbatch OPTIONS slurm/stage2.sbatch CONFIG a.b=c ...`."""
        setup = self.folder / "setup.sh"
        setup.write_text("".join(f"export {k}={v}\n" for k, v in NODE_ENVIRONMENT.items()))
        options = [
            "--parsable", f"--nodes={shape.nodes}", f"--ntasks-per-node={shape.ranks_per_node}",
            "--gpus-per-node=0", "--cpus-per-task=1", f"--time={shape.time_min}",
            # Two jobs of a test may share the nodes.
            "--exclusive=user",
            f"--signal=USR2@{shape.signal_lead_s}", f"--output={self.logs}/%x-%j.log",
        ]  # fmt: skip
        variables = {"SETUP": str(setup), "PYTHON": sys.executable, "LOG_DIR": str(self.logs)}
        number = self._run(["sbatch", *options, "slurm/stage2.sbatch", *argv[3:]], variables)
        return Job(self.cluster, number.strip(), self.logs)

    def _run(self, command: list[str], variables: Mapping[str, str] | None = None) -> str:
        environment = self.cluster.services.environment | dict(variables or {})
        result = subprocess.run(
            command, cwd=ROOT, env=environment,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
        return result.stdout


def _environment(pid: int) -> dict[str, str]:
    with contextlib.suppress(OSError):
        pairs = Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
        split = (pair.partition("=") for pair in pairs)
        return {name: value for name, _, value in split}
    return {}


def _executable(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/exe").readlink().name
    return ""


def _pending(pid: int) -> int:
    """Bits of the signals that wait for a process."""
    with contextlib.suppress(OSError):
        shown = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"^ShdPnd:\s*(\w+)", shown, re.MULTILINE)
        return int(found[1], 16) if found else 0
    return 0
