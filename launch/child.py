"""Run a command that dies with the process that started it, even if that one is killed by SIGKILL.

    python launch/child.py PARENT_PID COMMAND...        PARENT_PID 0: whoever the parent is now

On Linux the kernel does it: a parent-death signal survives exec, so this process becomes COMMAND.
Elsewhere this process stays beside COMMAND, watches its own parent and forwards signals. It is a
program of its own, not a `preexec_fn`: code between fork and exec may deadlock once the parent has
threads. It imports the standard library only, to cost milliseconds.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
_POLL_S = 0.2


def main(argv: list[str]) -> int:
    parent, command = int(argv[0]) or os.getppid(), argv[1:]
    if sys.platform != "linux":
        return watch(parent, command)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the signal was armed
        return 128 + signal.SIGKILL
    os.execvp(command[0], command)


def watch(parent: int, command: list[str]) -> int:
    """The same without help from the kernel: poll the parent, kill the command once it is gone."""
    process = subprocess.Popen(command)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda received, _: process.send_signal(received))
    while (code := process.poll()) is None:
        if os.getppid() != parent:
            process.kill()
        time.sleep(_POLL_S)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
