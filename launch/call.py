"""Call the floor below in this process instead of starting its command."""

import importlib
import sys

from launch.step import Step


def call(step: Step) -> int:
    """The exit code of `python -m PACKAGE ARGS`, without a process of its own.

    A floor may return its code or leave with SystemExit, as command-line libraries do.
    """
    try:
        code = importlib.import_module(f"{step.package}.__main__").main(list(step.args))
    except SystemExit as leave:
        code = leave.code
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        return 1
    return code or 0
