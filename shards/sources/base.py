"""What the builder asks of a source: a cheap listing, and one sample at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shards.sample import Sample


@dataclass(frozen=True)
class SampleRef:
    """A sample before its pixels are read.

    `block` groups samples that lie in one unit of the source (a file, a chunk), so that the plan
    keeps them together and each unit is decoded once. `num_bytes` is an estimate for scheduling.
    """

    key: str
    block: int
    lon: float | None
    lat: float | None
    num_bytes: int


class Source(Protocol):
    """A reader of one layout. Opening lists nothing and reads no pixels; it is safe per process."""

    @property
    def name(self) -> str:
        """Short name kept in each sample's meta data."""
        ...

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names this source can yield, in registry order."""
        ...

    def fingerprint(self) -> str:
        """Hex digest of everything that decides the samples' content (files, sizes, options)."""
        ...

    def refs(self) -> Sequence[SampleRef]:
        """All samples in the source's own stable order. Cheap: no pixels are read."""
        ...

    def read(self, ref: SampleRef) -> Sample:
        """The whole sample. Raises SampleError when it is unusable. A missing part is left out."""
        ...
