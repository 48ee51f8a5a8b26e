"""What goes into a strategy and what comes out."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np


@dataclass(frozen=True)
class Selection:
    """Chosen places, per stream index: int64 arrays of positions within the stream.

    In sequences with sentinels place -1 - j is sentinel j, and `starts` has the sentinel that the
    decoder is given before the first target; other sequences start from `[BOS]`.
    """

    inputs: dict[int, np.ndarray]
    targets: dict[int, np.ndarray]
    starts: dict[int, int] = field(default_factory=dict)


class Present(NamedTuple):
    """How many tokens each stream of a sample has, and how many of them may be inputs.

    Maps and sets are there whole or not at all; sequences have any length.
    """

    available: list[int]
    readable: list[int]


class Strategy(Protocol):
    """Chooses inputs and targets of one sample. All randomness comes from `rng`."""

    def __call__(self, rng: np.random.Generator, present: Present) -> Selection: ...
