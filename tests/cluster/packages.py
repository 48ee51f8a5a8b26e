"""What a Slurm cluster on this machine needs, whether it can be had, and getting it.

    python -m tests.cluster.packages             install with apt-get what is missing
    python -m tests.cluster.packages --check     say in one line why the cluster cannot be, if so

Standard library only: a machine runs it before anything is installed.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# A command of each Debian package. Daemons are in sbin, which need not be on PATH.
COMMANDS = {
    "slurm-wlm": ("slurmctld", "slurmd", "sbatch", "srun"),
    "slurmdbd": ("slurmdbd",),
    "munge": ("munged",),
    "mariadb-server": ("mariadbd", "mariadb-install-db"),
    "iproute2": ("ip",),
}
_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin"
_POLICY = Path("/usr/sbin/policy-rc.d")
_NAMESPACES = Path("/run/netns")


def find(command: str) -> str | None:
    return shutil.which(command, path=_PATH)


def missing() -> list[str]:
    """Debian packages of which a command is not here."""
    return [name for name, commands in COMMANDS.items() if not all(map(find, commands))]


def obstacle() -> str | None:
    """Why no cluster can be brought up here even with all packages; None when it can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if (ip := find("ip")) is None:
        return None  # told once iproute2 is here
    probe = f"eoprobe{os.getpid()}"
    made = subprocess.run([ip, "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"this kernel or container refuses network namespaces: {made.stderr.strip()}"
    subprocess.run([ip, "netns", "delete", probe], check=True)
    unmount_namespaces()
    return None


def unmount_namespaces() -> None:
    """Take away the mount that `ip` makes for the first namespace, if no namespace is left."""
    if _NAMESPACES.is_dir() and not any(_NAMESPACES.iterdir()):
        subprocess.run(["umount", _NAMESPACES], capture_output=True, check=False)


def why_not() -> str | None:
    """Why no cluster can be brought up here as things are; None when it can."""
    if (reason := obstacle()) is not None:
        return reason
    if names := missing():
        return f"Debian packages are missing: {' '.join(names)}"
    return None


def install() -> str | None:
    """Install what is missing; the reason why that failed, or None."""
    if not (names := missing()):
        return None
    if os.geteuid() != 0:
        return f"only root can install {' '.join(names)}"
    if shutil.which("apt-get") is None:
        return f"no apt-get here to install {' '.join(names)} with"
    print(f"apt-get install {' '.join(names)}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with _no_services():
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *names]):
            result = subprocess.run(
                ["apt-get", "-qq", *command],
                env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if result.returncode != 0:
                return f"apt-get {command[0]} failed: {result.stderr.strip()[-500:]}"
    return f"still missing: {' '.join(missing())}" if missing() else None


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Debian starts what it installs, unless this file says no: the machine keeps its services."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def main(argv: list[str]) -> int:
    failed = None if argv == ["--check"] else install()
    reason = failed or why_not()
    if reason is None:
        return 0
    print(f"no Slurm cluster on this machine: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
