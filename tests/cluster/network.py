"""Nodes as network namespaces, each with an `eth0` on a bridge of this machine.

      this machine ── bridge eo1br 10.213.71.1 ──┬── eo1v1 ═ eth0 10.213.71.11   namespace eo1n1
      (slurmctld, slurmdbd, sbatch)              └── eo1v2 ═ eth0 10.213.71.12   namespace eo1n2

With EO_CLUSTER=2 in the environment, the same with a 2 in every name: several clusters can be up.
Addresses are found through /etc/hosts, between two marker lines: namespaces have no name server, and
a look-up that waits for one delays a rendezvous by a minute. Nothing is routed beyond the bridge.
"""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from tests.cluster.packages import find, unmount_namespaces

CLUSTER = int(os.environ.get("EO_CLUSTER", "1"))
NAME = f"eo{CLUSTER}"
NODES = (f"{NAME}n1", f"{NAME}n2")
CONTROLLER = f"{NAME}ctl"
BRIDGE = f"{NAME}br"
SUBNET = f"10.213.{70 + CLUSTER}"
# For ranks inside the nodes.
NODE_ENVIRONMENT = {"GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1"}

_HOSTS = Path("/etc/hosts")
_BEGIN, _END = f"# begin: test cluster {NAME}", f"# end: test cluster {NAME}"
_NAMESPACES = Path("/run/netns")


def address(name: str) -> str:
    """The address of a node or of the controller."""
    return f"{SUBNET}.1" if name == CONTROLLER else f"{SUBNET}.{11 + NODES.index(name)}"


def make() -> None:
    """Bridge, namespaces and names. Raises RuntimeError where the subnet is taken."""
    if taken := _ip("route", "show", "root", f"{SUBNET}.0/24"):
        raise RuntimeError(f"{SUBNET}.0/24 is in use on this machine: {taken}")
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("address", "add", f"{address(CONTROLLER)}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    for node in NODES:
        _ip("netns", "add", node)
        _ip("link", "add", _veth(node), "type", "veth", "peer", "name", "eth0", "netns", node)
        _ip("link", "set", _veth(node), "master", BRIDGE)
        _ip("-n", node, "address", "add", f"{address(node)}/24", "dev", "eth0")
        _ip("-n", node, "link", "set", "lo", "up")
        _ip("-n", node, "link", "set", "eth0", "up")
        plug(node)
    lines = [f"{address(name)} {name}" for name in (CONTROLLER, *NODES)]
    _write_hosts([_BEGIN, *lines, _END])


def remove() -> None:
    """Take away everything `make` made, whatever of it is there."""
    if not any((_NAMESPACES / node).exists() for node in NODES) and not _own_links():
        _write_hosts([])
        return
    for node in NODES:
        if (_NAMESPACES / node).exists():
            _ip("netns", "delete", node)
    for link in _own_links():
        with contextlib.suppress(RuntimeError):  # a veth goes with its peer, in its own time
            _ip("link", "delete", link)
    unmount_namespaces()
    _write_hosts([])


def plug(node: str) -> None:
    _ip("link", "set", _veth(node), "up")


def unplug(node: str) -> None:
    """Cut the cable: what others send gets no answer, not even a refusal."""
    _ip("link", "set", _veth(node), "down")


def inside(node: str) -> list[str]:
    """The start of a command that runs in the node's network.

    Not `ip netns exec`: it mounts another /sys, in which slurmd finds no control groups.
    """
    return ["nsenter", f"--net={_NAMESPACES / node}"]


def processes(node: str) -> list[int]:
    """Everything that runs in the node's network, started there by its slurmd or by us."""
    with contextlib.suppress(FileNotFoundError):
        here = (_NAMESPACES / node).stat()
        return [pid for pid in _pids() if _network(pid) == (here.st_dev, here.st_ino)]
    return []


def kill_processes(node: str) -> None:
    """SIGKILL until nothing is left: a process may fork while the list is read."""
    while found := processes(node):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _network(pid: int) -> tuple[int, int] | None:
    try:
        found = Path(f"/proc/{pid}/ns/net").stat()
    except OSError:  # it ended, or it is a zombie
        return None
    return found.st_dev, found.st_ino


def _veth(node: str) -> str:
    return f"{NAME}v{1 + NODES.index(node)}"


def _own_links() -> list[str]:
    return [n for n in (BRIDGE, *map(_veth, NODES)) if Path(f"/sys/class/net/{n}").exists()]


def _write_hosts(lines: list[str]) -> None:
    """Our part of /etc/hosts. In place: containers mount the file, so it cannot be replaced."""
    kept, ours = [], False
    for line in _HOSTS.read_text().splitlines():
        ours = ours or line == _BEGIN
        if not ours:
            kept.append(line)
        ours = ours and line != _END
    text = "\n".join([*kept, *lines]) + "\n"
    if text != _HOSTS.read_text():
        _HOSTS.write_text(text)


def _ip(*argv: str) -> str:
    command = [find("ip") or "ip", *argv]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {result.stderr.strip()}")
    return result.stdout.strip()
