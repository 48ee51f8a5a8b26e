# shellcheck shell=bash
# What all job scripts here share. Sourced, never run. They work without `launch`:
#
#   sbatch [SBATCH OPTIONS] slurm/STAGE.sbatch [CONFIG] [a.b=c ...]
#
# from the root of the checkout. Options given to sbatch win over the #SBATCH lines of a script.
#
#   PYTHON        the interpreter            (default: .venv/bin/python, else python3)
#   SETUP         a file sourced first       (module load ..., export NCCL_...)
#   MAX_RESTARTS  limit of restarts by crash (default: 30)

set -euo pipefail

# Signals meant for the ranks reach the ranks through Slurm; this shell has to survive them, to see
# how the ranks left. A trap, not '': what is ignored here would be ignored in the ranks too.
trap : USR1 USR2
# TERM is Slurm ending the job: by scancel, which must not be undone, or by a preemption, after which
# Slurm itself requeues.
ended_by_slurm=
trap 'ended_by_slurm=yes' TERM

REQUEUE=75     # the ranks committed their state and want to be started again
GAVE_UP=65     # the ranks left on purpose; the same command would end the same way
USER_ERROR=2   # a wrong configuration

# shellcheck source=/dev/null
if [[ -n "${SETUP:-}" ]]; then . "$SETUP"; fi
if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=$PWD/.venv/bin/python; fi
fi

say() { echo "[$(date +%FT%T)] job ${SLURM_JOB_ID} (restart ${SLURM_RESTART_COUNT:-0}): $*"; }

# config_value KEY CONFIG [a.b=c ...]: one value of the resolved configuration. Also the first check
# of the configuration: with a wrong one the job ends here, before any rank starts.
config_value() {
    "$PYTHON" -c '
import sys
from configs import ConfigError, load_config
try:
    value = load_config(sys.argv[2], sys.argv[3:])
except ConfigError as error:
    sys.exit(f"error: {error}")
for name in sys.argv[1].split("."):
    value = getattr(value, name)
print(value)' "$@"
}

# leave_if_over FOLDER: nothing to do for a run that has finished or that somebody has called off.
# Requeued jobs and long arrays go through here in a second.
leave_if_over() {
    local mark
    for mark in DONE KILL; do
        if [[ -e "$1/$mark" ]]; then
            say "$1/$mark exists, nothing to do"
            exit 0
        fi
    done
}

# committed FOLDER: a word that changes whenever a checkpoint or a shard is committed there.
committed() {
    { find "$1" \( -path '*/step-*/MANIFEST.json' -o -name '*.tar' \) 2>/dev/null || true; } |
        sort | cksum
}

# run_ranks FOLDER ARGUMENTS...: one task per rank, python directly under srun, then requeue or not.
# Not torchrun: Slurm signals the processes it started itself, and torchrun would keep USR2 for itself.
run_ranks() {
    local folder=$1 hosts before rc=0
    shift
    # Not through `head`: it closes the pipe early, and under pipefail that would end the job.
    hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    MASTER_ADDR=${hosts%%$'\n'*}
    # From the job id, so that jobs that share a node do not meet; below the ephemeral ports.
    MASTER_PORT=$((20000 + SLURM_JOB_ID % 12000))
    # srun has not taken over the cores per task of the allocation since 22.05.
    SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
    export MASTER_ADDR MASTER_PORT SRUN_CPUS_PER_TASK
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}
    export PYTHONFAULTHANDLER=1 PYTHONUNBUFFERED=1
    export NCCL_DEBUG=${NCCL_DEBUG:-WARN} TORCH_NCCL_ASYNC_ERROR_HANDLING=3

    before=$(committed "$folder")
    say "$PYTHON -m $* on ${SLURM_NTASKS} ranks of ${SLURM_JOB_NODELIST}"
    # `exec`, so that python is the process Slurm signals. The single quotes are meant: the variables
    # are those of each task, not of this shell.
    # shellcheck disable=SC2016
    srun --kill-on-bad-exit=1 --label bash -c '
        export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
        export LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_NNODES))
        exec "$0" -m "$@"' "$PYTHON" "$@" || rc=$?
    finish "$folder" "$before" "$rc"
}

# finish FOLDER COMMITTED_BEFORE EXIT_CODE: end this job, requeued or not.
finish() {
    local folder=$1 before=$2 rc=$3
    case $rc in
    0)
        say "done"
        exit 0
        ;;
    "$REQUEUE")
        say "committed and preempted"
        requeue
        ;;
    "$GAVE_UP" | "$USER_ERROR")
        say "gave up with exit code $rc; not started again"
        exit "$rc"
        ;;
    esac
    # A crash: a bad node deserves another try, a loop of crashes does not.
    if ((${SLURM_RESTART_COUNT:-0} >= ${MAX_RESTARTS:-30})); then
        say "crashed with exit code $rc after ${SLURM_RESTART_COUNT} restarts; not started again"
        exit "$rc"
    fi
    if [[ "$(committed "$folder")" == "$before" ]]; then
        say "crashed with exit code $rc and committed nothing since the start; not started again"
        exit "$rc"
    fi
    say "crashed with exit code $rc, but got further than the last time"
    requeue
}

requeue() {
    if [[ -n "$ended_by_slurm" ]]; then
        say "cancelled or preempted by Slurm; whether it starts again is up to Slurm"
        exit "$REQUEUE"
    fi
    say "requeued"
    scontrol requeue "$SLURM_JOB_ID"
    # Slurm ends this shell now. Without the wait its exit could come first and finish the job.
    sleep 60
}
