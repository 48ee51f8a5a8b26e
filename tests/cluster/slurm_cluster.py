"""A real Slurm of two nodes on this machine: up, down, a node that fails, a node that comes back.

    munged, mariadbd, slurmdbd, slurmctld      in this machine's network
    slurmd of eo1n1, of eo1n2                  each in a network namespace, see `network`

Everything it makes lies in /run/eo1-cluster, except the namespaces and links, which have names of
their own, and lines in /etc/hosts between markers. A Slurm or MariaDB that this machine runs anyway
is not touched: other files, other ports, other sockets.
"""

import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.cluster import network, templates
from tests.cluster.services import ServiceError, Services

FOLDER = Path(f"/run/{network.NAME}-cluster")
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld")


class SlurmCluster:
    """At most one of a name at a time. A context manager: down at the end, whatever happened."""

    def __init__(self) -> None:
        self.services = Services(FOLDER)
        self._claim: socket.socket | None = None

    def __enter__(self) -> "SlurmCluster":
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def conf(self) -> Path:
        """What SLURM_CONF has to be for this cluster's commands."""
        return FOLDER / "slurm.conf"

    def up(self) -> None:
        """Sweep what a killed predecessor left, then start everything and wait for both nodes."""
        self._claim = _claim()
        self._sweep()
        FOLDER.mkdir(mode=0o755)
        network.make()
        templates.write(FOLDER)
        self.services.start_munge()
        self.services.start_database()
        self.services.start_slurmdbd(network.NAME)
        self.services.start_slurmctld()
        for node in network.NODES:
            self.services.start_slurmd(node)
        for node in network.NODES:
            self.wait_for_node(node, "IDLE")

    def down(self) -> None:
        if self._claim is None:
            return
        self._sweep()
        self._claim.close()
        self._claim = None

    def fail(self, node: str) -> None:
        """As when a machine loses power: no answer any more, nothing of it goes on."""
        network.unplug(node)
        self.services.kill_slurmd(node)
        network.kill_processes(node)

    def revive(self, node: str) -> None:
        """The machine boots, its slurmd registers, Slurm takes it back."""
        network.plug(node)
        if not self.services.running(f"slurmd-{node}"):
            self.services.start_slurmd(node)
        self.wait_for_node(node, "IDLE")

    def node_state(self, node: str) -> str:
        """IDLE, ALLOCATED, MIXED, DOWN, ..., with + and * as `scontrol` shows them."""
        for word in self.command("scontrol", "--oneliner", "show", "node", node).split():
            if word.startswith("State="):
                return word.removeprefix("State=")
        raise ServiceError(f"scontrol shows no state of {node}")

    def wait_for_node(self, node: str, state: str, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while (found := self.node_state(node)) != state:
            if time.monotonic() > deadline:
                raise ServiceError(f"{node} is {found}, not {state}\n{self.logs()}")
            time.sleep(0.2)

    def command(self, *argv: str) -> str:
        """What a Slurm command prints. Raises ServiceError when it fails."""
        result = subprocess.run(
            argv, env=self.services.environment,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if result.returncode != 0:
            raise ServiceError(f"{' '.join(argv)}: {result.stdout}{result.stderr}")
        return result.stdout

    def logs(self) -> str:
        names = [*DAEMONS[2:], *(f"slurmd-{node}" for node in network.NODES)]
        return "\n".join(map(self.services.log, names))

    def _sweep(self) -> None:
        """Nodes first: a controller that is told of their end would go on to requeue jobs."""
        for node in network.NODES:
            network.kill_processes(node)
        self.services.stop()
        network.remove()
        shutil.rmtree(FOLDER, ignore_errors=True)


def sweep() -> None:
    """Take away what a killed process left. Raises ServiceError while a living one uses it."""
    cluster = SlurmCluster()
    cluster._claim = _claim(timeout_s=0)
    cluster.down()


def _claim(timeout_s: float = 600) -> socket.socket:
    """Hold the cluster's name; the kernel lets go of it however this process ends."""
    deadline = time.monotonic() + timeout_s
    while True:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0{network.NAME}-cluster")
        except OSError as error:
            claim.close()
            if time.monotonic() > deadline:
                raise ServiceError(
                    "another process has a test cluster up on this machine"
                ) from error
            time.sleep(1)
        else:
            return claim
