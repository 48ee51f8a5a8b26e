"""What goes wrong between a plan and the machine it should run on."""

PREEMPTED = 75
"""Exit code of a process that committed its state and asks to be started again (EX_TEMPFAIL)."""


class LaunchError(RuntimeError):
    """A plan cannot be started here; says why and what to do."""
