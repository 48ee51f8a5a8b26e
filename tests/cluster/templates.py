"""Configuration files of the cluster, all paths below one folder. Daemons log to their terminal.

Two times decide how long tests wait: `cred_expire`, after which Slurm starts a requeued job again
(120 s otherwise), and `SlurmdTimeout`, after which a node that does not answer is down (300 s).
"""

from pathlib import Path

from tests.cluster.network import CLUSTER, CONTROLLER, NAME, NODES, address

CPUS_PER_NODE = 4
REQUEUE_DELAY_S = 5  # Slurm refuses less

# Not Slurm's own, which a cluster this machine belongs to would use. slurmd has a network of its own.
_CTLD_PORT, _DBD_PORT = 36817 + 10 * CLUSTER, 36819 + 10 * CLUSTER

_SLURM = """\
ClusterName={cluster}
SlurmctldHost={controller}({controller_address})
SlurmctldPort={ctld_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={requeue_delay_s}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=7200
SlurmdTimeout=10
UnkillableStepTimeout=60
MessageTimeout=30
SchedulerParameters=sched_interval=2,bf_interval=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={controller_address}
AccountingStoragePort={dbd_port}
AccountingStoragePass=socket={folder}/munge.socket
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
"""

_SLURMDBD = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost={controller}
DbdAddr={controller_address}
DbdPort={dbd_port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
PidFile={folder}/slurmdbd.pid
"""

# Version 1 needs no control group of slurmd's own; nothing here is confined to one.
_CGROUP = """\
CgroupPlugin=cgroup/v1
CgroupAutomount=yes
"""


def write(folder: Path) -> None:
    """slurm.conf, slurmdbd.conf and cgroup.conf."""
    nodes = [
        f"NodeName={name} NodeAddr={address(name)} CPUs={CPUS_PER_NODE} RealMemory=2000"
        for name in NODES
    ]
    values = {
        "folder": folder,
        "cluster": NAME,
        "controller": CONTROLLER,
        "controller_address": address(CONTROLLER),
        "ctld_port": _CTLD_PORT,
        "dbd_port": _DBD_PORT,
        "requeue_delay_s": REQUEUE_DELAY_S,
        "nodes": "\n".join(nodes),
    }
    (folder / "slurm.conf").write_text(_SLURM.format(**values))
    (folder / "cgroup.conf").write_text(_CGROUP)
    database = folder / "slurmdbd.conf"
    database.touch(0o600)  # slurmdbd refuses one that others may read
    database.write_text(_SLURMDBD.format(**values))
