"""Daemons started in the foreground, known by their pid files, ended by their process ids.

A pid file holds the process id and when that process started, so that a stale file never names
somebody else's process.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.cluster import network
from tests.cluster.packages import find

_GRACE_S = 10


class ServiceError(RuntimeError):
    """A daemon did not come up; says what it logged."""


class Services:
    """The daemons of one cluster, whose files lie in `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.pids = folder / "pids"
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "MYSQL_UNIX_PORT": str(folder / "mariadb.socket"),
        }

    def start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        names = ("key-file", "pid-file", "seed-file", "socket")
        paths = [f"--{name}={self.folder / ('munge.' + name.split('-')[0])}" for name in names]
        self._start("munged", ["munged", "--foreground", "--num-threads=2", *paths])
        self._wait("munged", (self.folder / "munge.socket").exists)

    def start_database(self) -> None:
        data, socket = self.folder / "mariadb", self.folder / "mariadb.socket"
        small = ["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"]
        install = ["--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db", *small]
        self._run(["mariadb-install-db", *install, "--auth-root-authentication-method=normal"])
        options = [f"--datadir={data}", "--user=root", f"--socket={socket}", "--skip-networking"]
        # What is in it lives for minutes: no need to wait for the disk.
        quick = [*small, "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin"]
        self._start("mariadbd", ["mariadbd", "--no-defaults", *options, *quick])
        self._wait("mariadbd", socket.exists)

    def start_slurmdbd(self, cluster: str) -> None:
        self._start("slurmdbd", ["slurmdbd", "-D"], hostname=network.CONTROLLER)
        self._wait("slurmdbd", lambda: self._answers("sacctmgr", "-i", "list", "cluster"))
        self._run(["sacctmgr", "-i", "add", "cluster", cluster])

    def start_slurmctld(self) -> None:
        (self.folder / "state").mkdir()
        self._start("slurmctld", ["slurmctld", "-D"], hostname=network.CONTROLLER)
        self._wait("slurmctld", lambda: self._answers("sinfo"))

    def start_slurmd(self, node: str) -> None:
        (self.folder / f"spool-{node}").mkdir(exist_ok=True)
        inside = network.inside(node)
        self._start(f"slurmd-{node}", ["slurmd", "-D"], hostname=node, before=inside)

    def kill_slurmd(self, node: str) -> None:
        """As when a machine loses power."""
        self._end(self.pids / f"slurmd-{node}", signal.SIGKILL)

    def stop(self) -> None:
        """End every daemon a pid file names, the newest first. Also those of an earlier process."""
        files = sorted(self.pids.glob("*"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in files:
            self._end(path, signal.SIGTERM)

    def running(self, name: str) -> bool:
        return _alive(self.pids / name)

    def log(self, name: str, num_lines: int = 20) -> str:
        """The last lines a daemon wrote."""
        path = self.folder / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join([f"--- {name}", *lines[-num_lines:]])

    def _start(
        self,
        name: str,
        command: Sequence[str],
        *,
        hostname: str | None = None,
        before: Sequence[str] = (),
    ) -> None:
        """One daemon, in a session of its own so that Ctrl-C does not reach it before we do."""
        command = [find(command[0]) or command[0], *command[1:]]
        if hostname is not None:
            script = f'hostname {hostname}; exec "$@"'
            command = [*before, "unshare", "--uts", "sh", "-c", script, "sh", *command]
        self.pids.mkdir(exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._started[name] = process
        (self.pids / name).write_text(f"{process.pid} {_start_time(process.pid)}")

    def _wait(self, name: str, ready: Callable[[], bool], timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > deadline or not self.running(name):
                raise ServiceError(f"{name} did not come up\n{self.log(name)}")
            time.sleep(0.2)

    def _run(self, command: Sequence[str]) -> str:
        command = [find(command[0]) or command[0], *command[1:]]
        result = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        if result.returncode != 0:
            raise ServiceError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
        return result.stdout

    def _answers(self, *command: str) -> bool:
        with contextlib.suppress(ServiceError):
            self._run(command)
            return True
        return False

    def _end(self, path: Path, number: signal.Signals) -> None:
        deadline = time.monotonic() + _GRACE_S
        while _alive(path):
            pid = int(path.read_text().split()[0])
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            if time.monotonic() > deadline:
                number = signal.SIGKILL
            time.sleep(0.05)
        if (process := self._started.pop(path.name, None)) is not None:
            process.wait()
        path.unlink(missing_ok=True)


def _alive(path: Path) -> bool:
    """Whether the very process that a pid file was written for still runs."""
    try:
        pid, started = path.read_text().split()
    except (FileNotFoundError, ValueError):
        return False
    return _start_time(int(pid)) == started


def _start_time(pid: int) -> str | None:
    """When a process started, in ticks since boot; None when it is gone or waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]
