"""`python -m tests.cluster.up`: a Slurm of two nodes to try things on, until Ctrl-C.

--fail NODE      from another terminal: the node loses power
--revive NODE    and gets it back
--sweep          take away what a killed one left
"""

import signal
import sys
import threading

from tests.cluster import packages
from tests.cluster.network import NODE_ENVIRONMENT, NODES
from tests.cluster.services import ServiceError
from tests.cluster.slurm_cluster import FOLDER, SlurmCluster, sweep
from tests.cluster.templates import CPUS_PER_NODE

SETUP = FOLDER / "setup.sh"
USAGE = f"""\
Slurm is up: {" and ".join(NODES)}, {CPUS_PER_NODE} CPUs each; its logs are in {FOLDER}.
In another terminal, from the root of the checkout:

  . {SETUP}
  sinfo
  sbatch --nodes=2 --ntasks-per-node=1 --gpus-per-node=0 --cpus-per-task=1 slurm/stage2.sbatch CONFIG
  squeue; sacct --duplicates

A node fails and comes back:

  python -m tests.cluster.up --fail {NODES[1]}
  python -m tests.cluster.up --revive {NODES[1]}

Ctrl-C here ends it all.
"""


def main(argv: list[str]) -> int:
    if (reason := packages.why_not()) is not None:
        print(f"no Slurm cluster on this machine: {reason}", file=sys.stderr)
        return 1
    try:
        match argv:
            case []:
                up()
            case ["--sweep"]:
                sweep()
            case ["--fail", node] if node in NODES:
                SlurmCluster().fail(node)
            case ["--revive", node] if node in NODES:
                SlurmCluster().revive(node)
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def up() -> None:
    """Until Ctrl-C, or until this process is ended otherwise."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    with SlurmCluster() as cluster:
        settings = {"SLURM_CONF": cluster.conf, "SETUP": SETUP, **NODE_ENVIRONMENT}
        SETUP.write_text("".join(f"export {k}={v}\n" for k, v in settings.items()))
        print(USAGE, flush=True)
        ended.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
