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

command='' early='' signalled=''
# shellcheck disable=SC2329 # the traps call it
pass_on() {
    signalled=yes
    if [[ -n $command ]]; then kill -s "$1" "$command" 2>/dev/null; else early=$1; fi
}
trap 'pass_on USR1' USR1
trap 'pass_on USR2' USR2
trap 'pass_on TERM' TERM

"$@" &
command=$!
if [[ -n $early ]]; then kill -s "$early" "$command" 2>/dev/null; fi

# A signal ends `wait` before COMMAND has ended; asked again, it tells the code even afterwards.
while :; do
    signalled=''
    wait "$command"
    rc=$?
    if [[ -z $signalled ]]; then break; fi
done

if ((rc != 0)); then
    # noclobber: the first one wins.
    (set -o noclobber && echo "$rc" >"$note") 2>/dev/null
fi
exit "$rc"
