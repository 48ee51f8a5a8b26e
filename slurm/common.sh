# shellcheck shell=bash
# What all job scripts share: those here, and those that `python -m launch.submit` writes. Sourced,
# never run. By hand, without `launch`:
#
#   sbatch [SBATCH OPTIONS] slurm/STAGE.sbatch [CONFIG] [a.b=c ...]
#
# from the root of the checkout. Options given to sbatch win over the #SBATCH lines of a script.
#
#   PYTHON        the interpreter            (default: .venv/bin/python, else python3)
#   SETUP         a file sourced first       (module load ..., export NCCL_..., and the two arrays:
#                 CONTAINER=(apptainer exec IMAGE)    SRUN_ARGS=(--container-image=IMAGE))
#   MAX_RESTARTS  limit of restarts by crash (default: 30)
#   LOG_DIR       where ranks leave a note   (default: the folder the job starts in)
#
# How a job ends is decided here and nowhere else, in `finish`:
#
#   0             done
#   75            the ranks committed and want to go on: requeued, always
#   65, 2         the ranks gave up, or the configuration is wrong: never requeued; nor is a run that
#                 somebody has called off by a file KILL in its folder
#   all others    a crash: requeued if something was committed since the start and the restarts are
#                 not used up; a bad node deserves another try, a loop of crashes does not

set -e
# Before `set -u`: a site's modules may look at variables that are not set.
# shellcheck source=/dev/null
if [[ -n "${SETUP:-}" ]]; then . "$SETUP"; fi
CONTAINER=("${CONTAINER[@]}")
SRUN_ARGS=("${SRUN_ARGS[@]}")
set -uo pipefail

if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=$PWD/.venv/bin/python; fi
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Signals meant for the ranks reach the ranks through Slurm; this shell has to survive them, to see
# how the ranks left. A trap, not '': what is ignored here would be ignored in the ranks too.
trap : USR1 USR2
# TERM is Slurm ending the job: by scancel, which must not be undone, or by a preemption, after which
# Slurm itself requeues.
ended_by_slurm=
trap 'ended_by_slurm=yes' TERM

REQUEUE=75
GAVE_UP=65
USER_ERROR=2

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

# leave_if_done FOLDER CONFIG [a.b=c ...]: nothing to do for a run that has finished with this very
# configuration. Requeued jobs and long arrays go through here in a second.
leave_if_done() {
    if [[ -e "$1/DONE" && -e "$1/config.yaml" ]] && "$PYTHON" -c '
import sys
from configs import load_config
from pipeline.console import training_finished
config, *changes = sys.argv[1:]
sys.exit(not training_finished(load_config(config, changes)))' "${@:2}"; then
        say "$1/DONE exists, nothing to do"
        exit 0
    fi
}

# begin FOLDER [CONFIG RECORD]: from here on this script ends through `finish`, however it ends.
# FOLDER is what the job commits to. Once the job is done, CONFIG is kept as RECORD.
begin() {
    job_folder=$1 job_config=${2:-} job_record=${3:-}
    # Not 0: what waits for this job must not start.
    if [[ -e "$job_folder/KILL" ]]; then
        say "$job_folder/KILL exists: this run was called off; remove it to go on"
        exit "$GAVE_UP"
    fi
    if [[ -e "$here/../CODE_VERSION" ]]; then
        say "code $(cd "$here/.." && pwd): $(<"$here/../CODE_VERSION")"
    fi
    # sbatch wrote these down at submission; a job that was made smaller since has fewer.
    if [[ -n "${SLURM_NTASKS_PER_NODE:-}" ]]; then
        SLURM_NTASKS=$((SLURM_NNODES * SLURM_NTASKS_PER_NODE))
        SLURM_NPROCS=$SLURM_NTASKS
        export SLURM_NTASKS SLURM_NPROCS
    fi
    before=$(committed)
    note=${LOG_DIR:-$PWD}/.exit-$SLURM_JOB_ID
    rm -f "$note"
    as_rank=(bash "$here/rank.sh" "$note" "${CONTAINER[@]}" "$PYTHON")
    trap 'finish $?' EXIT
}

# committed: a number that grows whenever a checkpoint or a shard is committed.
committed() {
    { find "$job_folder" \( -path '*/step-*/MANIFEST.json' -o -name '*.tar' \) 2>/dev/null || true; } |
        awk -F/ '/\.tar$/ { shards++; next }
                 { step = substr($(NF - 1), 6) + 0; if (step > last) last = step }
                 END { print last + shards }'
}

# rendezvous: what ranks need to find each other, and to be debugged when they do not.
rendezvous() {
    local hosts
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
    export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
    export TORCH_NCCL_ASYNC_ERROR_HANDLING=${TORCH_NCCL_ASYNC_ERROR_HANDLING:-3}
}

# run_ranks ARGUMENTS...: one task per rank, each directly under srun. Not torchrun: Slurm signals the
# processes it started itself, and torchrun would keep USR2 for itself.
run_ranks() {
    rendezvous
    say "$PYTHON -m $* on ${SLURM_NTASKS} ranks of ${SLURM_JOB_NODELIST}"
    srun --kill-on-bad-exit=1 --label "${SRUN_ARGS[@]}" "${as_rank[@]}" -m "$@"
}

# run_mpi ARGUMENTS...: under MPI ranks, as the variable MPI says; see shards.sbatch.
run_mpi() {
    local start=()
    case ${MPI:=pmix} in
    none) start=("${CONTAINER[@]}" "$PYTHON") ;;
    mpiexec) start=(mpiexec -n "$SLURM_NTASKS" "${CONTAINER[@]}" "$PYTHON") ;;
    *) start=(srun "--mpi=$MPI" --kill-on-bad-exit=1 --label "${SRUN_ARGS[@]}" "${as_rank[@]}") ;;
    esac
    say "$PYTHON -m $* ($MPI, ${SLURM_NTASKS} tasks)"
    "${start[@]}" -m "$@"
}

# finish EXIT_CODE: end this job, requeued or not.
finish() {
    local rc=$1 now first=
    trap - EXIT
    # What the first rank that failed left with. srun knows less: it ends the others at once, and
    # reports the highest code of all, that of a killed one.
    if [[ -r "$note" ]]; then
        first=$(<"$note")
        rm -f "$note"
    fi
    rc=${first:-$rc}
    # Ranks that find it commit and leave, with 0 or 75.
    if [[ -e "$job_folder/KILL" && ! -e "$job_folder/DONE" ]]; then
        leave "$GAVE_UP" over "called off by $job_folder/KILL"
    fi
    case $rc in
    0)
        if [[ -n "$job_record" ]]; then
            mkdir -p "$(dirname "$job_record")"
            cp "$job_config" "$job_record.partial"
            mv "$job_record.partial" "$job_record"
        fi
        leave 0 over "done"
        ;;
    "$REQUEUE") leave "$rc" again "committed and preempted" ;;
    "$GAVE_UP" | "$USER_ERROR") leave "$rc" over "gave up with exit code $rc; not started again" ;;
    esac
    if ((${SLURM_RESTART_COUNT:-0} >= ${MAX_RESTARTS:-30})); then
        leave "$rc" over "crashed with exit code $rc after ${SLURM_RESTART_COUNT:-0} restarts; not started again"
    fi
    # USR1 or USR2 found a rank that had not begun to listen. Only a preemption comes that early.
    if [[ $rc == 138 || $rc == 140 ]] && ((SECONDS < 600)); then
        leave "$rc" again "preempted while starting"
    fi
    now=$(committed)
    if ((now <= before)); then
        leave "$rc" over "crashed with exit code $rc and committed nothing since the start; not started again"
    fi
    leave "$rc" again "crashed with exit code $rc, but got further than the last time"
}

# leave EXIT_CODE again|over WHY
leave() {
    local rc=$1 id=$SLURM_JOB_ID
    say "$3"
    if [[ $2 == over ]]; then
        tell "$rc" false
        exit "$rc"
    fi
    if [[ -n "$ended_by_slurm" ]]; then
        tell "$rc" false
        say "cancelled or preempted by Slurm; whether it starts again is up to Slurm"
        exit "$REQUEUE"
    fi
    # By its plain number the last task of an array would be taken for the whole array.
    if [[ -n "${SLURM_ARRAY_JOB_ID:-}" ]]; then id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
    tell "$rc" true
    say "requeued"
    if ! scontrol requeue "$id"; then
        tell "$rc" false
        say "Slurm does not requeue this job; submit it again and it goes on"
        exit "$rc"
    fi
    # Slurm ends this shell now, with TERM. Without the wait its exit could come first and finish the
    # job.
    for _ in {1..60}; do
        if [[ -n "$ended_by_slurm" ]]; then break; fi
        sleep 1
    done
    exit "$rc"
}

# tell EXIT_CODE STARTS_AGAIN: for `python -m launch.status`, beside what a training run leaves.
tell() {
    if [[ -f "$job_folder/config.yaml" ]]; then
        printf '{"time": %s, "code": %s, "again": %s, "job": "%s"}\n' \
            "$(date +%s)" "$1" "$2" "$SLURM_JOB_ID" >>"$job_folder/exits.jsonl" || true
    fi
}
