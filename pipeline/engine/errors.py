"""What stops a run, told so that a user can act."""


class RunError(RuntimeError):
    """A run cannot start or go on; says why and what to do."""


class CheckpointError(RunError):
    """A checkpoint cannot be written or read; says which file and what to do."""


class OtherFormatError(CheckpointError):
    """A checkpoint of another version of this project: whole, and not readable here."""


class DivergedError(RunError):
    """Training produced nothing but non-finite numbers; starting it again would not help."""
