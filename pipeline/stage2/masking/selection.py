"""What goes into a strategy and what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from pipeline.stage2.streams import Stream


@dataclass(frozen=True)
class Selection:
    """Chosen places, per stream index: int64 arrays of positions within the stream.

    In sequences with sentinels place -1 - j is sentinel j, and `starts` has the sentinel that the
    decoder is given before the first target; other sequences start from `[BOS]`.
    """

    inputs: dict[int, np.ndarray]
    targets: dict[int, np.ndarray]
    starts: dict[int, int] = field(default_factory=dict)


def ask(
    streams: Sequence[Stream], given: dict[int, np.ndarray], target: int, places: np.ndarray
) -> Selection:
    """Given places are seen and places of one target are asked for, as a model knows it from training.

    A sequence that knows lost spans is asked for whole: a sentinel stands in its place.
    """
    if not streams[target].num_sentinels:
        return Selection(given, {target: places})
    whole = given | {target: np.array([-1])}
    return Selection(dict(sorted(whole.items())), {target: places}, {target: 0})


class Present(NamedTuple):
    """How many tokens each stream of a sample has, and how many of them may be inputs.

    Maps and sets are there whole or not at all; sequences have any length.
    """

    available: list[int]
    readable: list[int]


class Strategy(Protocol):
    """Chooses inputs and targets of one sample. All randomness comes from `rng`."""

    def __call__(self, rng: np.random.Generator, present: Present) -> Selection: ...
