#!/bin/bash
# bash rank.sh NOTE COMMAND...: one task of srun as one rank. COMMAND finds its place in the world in
# its environment, and gets the signals that Slurm sends to its tasks.
#
# The first rank that fails writes its exit code into NOTE, a path all nodes see. srun would not tell:
# it ends the other ranks at once and reports the highest code, so that a 75 after a commit, or a 65,
# would often look like the 137 of a rank that was killed a moment before it had left too.
set -u

note=$1
shift
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
export LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_NNODES))

# What srun started has to hear the signals, so it cannot wait for COMMAND in the foreground; and
# `wait` loses the exit code where COMMAND ends at the moment of a signal (it answers -1). So a shell
# between the two waits in the foreground, and tells the process id and then the exit code by a pipe.
command='' received=''
# shellcheck disable=SC2329 # the traps call it
pass_on() {
    received=$1
    if [[ -n $command ]]; then kill -s "$1" "$command" 2>/dev/null; fi
}
trap 'pass_on USR1' USR1
trap 'pass_on USR2' USR2
trap 'pass_on TERM' TERM

# Numbers that are free: PMI may have passed a socket by its number.
exec {stdout}>&1
exec {told}< <(
    # A trap, not '': what is ignored here would be ignored in COMMAND too.
    trap : USR1 USR2 TERM
    # shellcheck disable=SC2016 # for the inner shell
    bash -c 'stdout=$1; shift; echo "pid $$"; exec "$@" >&"$stdout" {stdout}>&-' rank.sh "$stdout" "$@"
    echo "code $?"
)
read -r -u "$told" what value
# No pid comes where the signal found the inner shell before it was COMMAND.
if [[ $what == pid ]]; then
    command=$value
    if [[ -n $received ]]; then kill -s "$received" "$command" 2>/dev/null; fi
    read -r -u "$told" what value
fi
# And nothing at all where it found the shell between before its trap.
rc=${value:-$((128 + $(kill -l "${received:-KILL}")))}

if ((rc != 0)); then
    # noclobber: the first one wins.
    (set -o noclobber && echo "$rc" >"$note") 2>/dev/null
fi
exit "$rc"
