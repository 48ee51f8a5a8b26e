"""Streams: a modality in one form, and their ranges in the tables that all streams share."""

from dataclasses import dataclass, replace
from typing import Literal

from configs.schema.modality import dated

Kind = Literal["pixels", "map", "sequence", "set"]


@dataclass(frozen=True)
class Stream:
    """One modality in one form.

    `map` tokens lie on a grid, `set` tokens have fixed meanings and are predicted like map tokens,
    `sequence` tokens are predicted one after another. The last `num_sentinels` codes of a vocabulary
    stand for spans of tokens that were taken out. `runs` are lengths of stretches of codes that count
    something, one after the other: the months, the days. `date` is the number of the date among those of
    the modality; None where the model is not told the day.
    """

    name: str
    modality: str
    kind: Kind
    num_positions: int
    is_input: bool
    is_target: bool
    patch_m: float = 0.0
    grid: tuple[int, int] | None = None
    patch_px: int = 0
    num_bands: int = 0
    vocab_size: int = 0
    position_offset: int = 0
    vocab_offset: int = 0
    num_sentinels: int = 0
    runs: tuple[int, ...] = ()
    date: int | None = None

    @property
    def part(self) -> str:
        """The modality on this date, as shards name it."""
        return dated(self.modality, self.date or 0)

    @property
    def places(self) -> slice:
        """Its rows of the table of positions."""
        return slice(self.position_offset, self.position_offset + self.num_positions)

    @property
    def codes(self) -> slice:
        """Its rows of tables of codes."""
        return slice(self.vocab_offset, self.vocab_offset + self.vocab_size)

    @property
    def first_sentinel(self) -> int:
        """Code of sentinel 0; all codes below it are tokens."""
        return self.vocab_size - self.num_sentinels

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened pixel patch."""
        return self.patch_px**2 * self.num_bands


def on_dates(stream: Stream, count: int) -> list[Stream]:
    """A stream on each of `count` dates; 0: as it is, on a day that the model is not told."""
    form = stream.name.removeprefix(stream.modality)
    dates = [replace(stream, name=dated(stream.modality, k) + form, date=k) for k in range(count)]
    return dates or [stream]


def form_key(stream: Stream) -> tuple[str, bool]:
    """What streams of several dates of a modality have in common."""
    return stream.modality, stream.kind == "pixels"


def with_offsets(streams: list[Stream]) -> list[Stream]:
    """The streams with their ranges in the tables of positions and codes, in the order given."""
    offsets: dict[tuple[str, bool], tuple[int, int]] = {}
    positions, codes = 0, 0
    for s in streams:
        if form_key(s) not in offsets:
            offsets[form_key(s)] = positions, codes
            positions, codes = positions + s.num_positions, codes + s.vocab_size
    placed = [(s, *offsets[form_key(s)]) for s in streams]
    return [replace(s, position_offset=at, vocab_offset=code) for s, at, code in placed]
