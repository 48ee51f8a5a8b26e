"""Sample keys, millions of them, as one run of bytes and where each ends."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


class Keys(Sequence[str]):
    """The keys of N samples, cut from one run of bytes when they are asked for."""

    def __init__(self, ends: np.ndarray, text: bytes | memoryview) -> None:
        self._ends, self._text = ends, text

    @property
    def ends(self) -> np.ndarray:
        return self._ends

    @property
    def text(self) -> bytes | memoryview:
        return self._text

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"key {i} of {len(self)}")
        i %= len(self)
        start = int(self._ends[i - 1]) if i else 0
        return str(bytes(self._text[start : int(self._ends[i])]), "utf-8")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends.tolist():
            yield str(bytes(self._text[start:end]), "utf-8")
            start = end

    def index(self, value: str, start: int = 0, stop: int | None = None) -> int:
        """The number of a key. Raises ValueError when there is none; reads all keys' bytes once."""
        wanted, text, at = value.encode(), bytes(self._text), 0
        while (at := text.find(wanted, at)) >= 0:
            i = int(np.searchsorted(self._ends, at, side="right"))
            if i < len(self) and self[i] == value and start <= i < (stop or len(self)):
                return i
            at += 1
        raise ValueError(f"no key {value!r}")

    def __contains__(self, value: object) -> bool:
        try:
            return isinstance(value, str) and self.index(value) >= 0
        except ValueError:
            return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def make_keys(keys: Sequence[str]) -> Keys:
    """Keys from a list of them."""
    encoded = [key.encode() for key in keys]
    return Keys(np.cumsum([len(k) for k in encoded], dtype="<u8"), b"".join(encoded))
