"""Real rank processes on this machine, for tests."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Ranks:
    """`world` processes of one command, rank by environment, output kept per rank."""

    def __init__(self, argv: list[str], world: int, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.logs = [folder / f"rank-{r}.log" for r in range(world)]
        self.processes = []
        for rank, log in enumerate(self.logs):
            env = os.environ | {
                "RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
            }  # fmt: skip
            with log.open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *argv], cwd=ROOT, env=env, stdout=file, stderr=file
                    )
                )

    def wait(self, timeout_s: float = 240) -> list[int]:
        """Exit codes by rank; whatever outlives the time-out is killed."""
        deadline = time.monotonic() + timeout_s
        try:
            return [p.wait(max(0.1, deadline - time.monotonic())) for p in self.processes]
        finally:
            self.kill()

    def wait_for(self, path: Path, timeout_s: float = 120) -> None:
        """Until a file is there."""
        deadline = time.monotonic() + timeout_s
        while not path.exists():
            if time.monotonic() > deadline or any(p.poll() is not None for p in self.processes):
                raise AssertionError(f"{path} did not come:\n{self.output()}")
            time.sleep(0.02)

    def kill(self, *ranks: int) -> None:
        for rank in ranks or range(len(self.processes)):
            if self.processes[rank].poll() is None:
                self.processes[rank].send_signal(signal.SIGKILL)
                self.processes[rank].wait()

    def signal(self, number: signal.Signals, *ranks: int) -> None:
        for rank in ranks:
            self.processes[rank].send_signal(number)

    def output(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)


def run_ranks(argv: list[str], world: int, folder: Path) -> str:
    """Run to the end; returns the output and fails when any rank does."""
    ranks = Ranks(argv, world, folder)
    codes = ranks.wait()
    assert codes == [0] * world, f"exit codes {codes}\n{ranks.output()}"
    return ranks.output()
