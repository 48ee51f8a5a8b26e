"""The whole command, `python -m shards build`, in one process and with two MPI ranks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from shards.errors import ShardError

NUM_SAMPLES = 2048
_ROOT = Path(__file__).resolve().parents[1]
_SETTINGS = (
    *("--quiet", "--json", "--config", str(_ROOT / "configs/shards/synthetic.yaml")),
    f"source.num_samples={NUM_SAMPLES}",
)


def build(num_ranks: int, out: Path) -> tuple[int, float]:
    """One build, one thread a rank; its samples and the seconds it says it took.

    The start-up of Python and MPI is left out: in the builds that need ranks it is nothing.
    """
    return NUM_SAMPLES, _seconds(_start(num_ranks, out / "one"))


def build_alone(out: Path) -> tuple[int, float]:
    """One process that takes all cores for its threads, as without a launcher."""
    return NUM_SAMPLES, _seconds(_start(1, out / "one", alone=True))


def build_two_at_once(out: Path) -> tuple[int, float]:
    """Two single processes side by side that know nothing of each other: what two cores can do."""
    running = [_start(1, out / name) for name in ("one", "two")]
    return 2 * NUM_SAMPLES, max(map(_seconds, running))


def mpiexec() -> str | None:
    """The launcher beside this Python, as `pip install .[mpi]` puts it there, or the system's."""
    own = Path(sys.executable).with_name("mpiexec")
    return str(own) if own.exists() else shutil.which("mpiexec")


def _start(num_ranks: int, out: Path, *, alone: bool = False) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shards", "build", *_SETTINGS, f"out={out}"]
    if num_ranks > 1:
        launcher = mpiexec()
        assert launcher is not None
        ranks = ["-n", str(num_ranks)]
        # Containers run as root and may count fewer slots than cores.
        command = [launcher, "--allow-run-as-root", "--oversubscribe", *ranks, *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if not alone:
        # Ranks are compared, not threads: as on a machine with as many ranks as cores.
        environment["MPI_LOCALNRANKS"] = str(os.cpu_count())
    return subprocess.Popen(command, cwd=_ROOT, env=environment, text=True, stdout=subprocess.PIPE)


def _seconds(running: subprocess.Popen[str]) -> float:
    text, _ = running.communicate()
    if running.returncode:
        raise ShardError(f"the build ended with exit status {running.returncode}")
    return float(json.loads(text)["seconds"])
