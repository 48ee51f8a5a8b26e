"""What goes wrong with samples and shards, told so that a user can act."""


class ShardError(RuntimeError):
    """A source, a sample or a shard cannot be used; says what, where, and what to do."""


class SourceError(ShardError):
    """A source cannot be read as its configuration says."""


class SampleError(ShardError):
    """One sample of a source is unusable; the build quarantines it and goes on."""


class DamagedError(ShardError):
    """Bytes on disk are not what the index says they are."""
