"""MMEarth's `NAME_tile_info.json`, {tile id: {...}}, read an entry at a time.

Of the 1.2 million tiles the file says more than a gigabyte, several of them as Python objects, and every
rank would hold its own. So it is mapped into memory, which ranks of a node share, and searched for
the tiles that are asked for. Tiles lie there in the order of the rows, so a search goes on where the
last one ended.
"""

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shards.errors import SampleError, SourceError

_FIRST_BYTES = 4096
_COLON = re.compile(rb"\s*:\s*(?=\{)")
_GAP = re.compile(rb"[\s,]*")
_DECODER = json.JSONDecoder()


class TileInfo:
    """The entries of one file. Raises SourceError when there is none, or it is no JSON object."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cursor = 0
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise SourceError(
                f"{path}: no such file, and nothing else says where and when the tiles were seen"
            ) from error
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: not readable: {error}") from error

    def find(self, tile_id: str) -> dict[str, Any]:
        """The entry of one tile. Raises SampleError when there is none."""
        quoted = json.dumps(tile_id).encode()
        for start in (self._cursor, 0):
            while (place := self._map.find(quoted, start)) >= 0:
                colon = _COLON.match(self._map, place + len(quoted))
                if colon:
                    entry, self._cursor = self._value(colon.end())
                    return entry
                start = place + len(quoted)
        raise SampleError(f"{self._path} has no tile {tile_id!r}")

    def items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All entries in the file's order. Raises SourceError where it is no JSON object of them."""
        begin = re.match(rb"\s*\{", self._map)
        if begin is None:
            raise SourceError(f"{self._path}: not a JSON object of tiles")
        place = self._skip(begin.end())
        while self._map[place : place + 1] != b"}":
            tile_id, place = self._value(place)
            colon = _COLON.match(self._map, place)
            if colon is None:
                raise SourceError(f"{self._path}: no tile at byte {place}")
            entry, place = self._value(colon.end())
            yield tile_id, entry
            place = self._skip(place)

    def _skip(self, place: int) -> int:
        gap = _GAP.match(self._map, place)
        assert gap is not None
        return gap.end()

    def _value(self, place: int) -> tuple[Any, int]:
        """The JSON value that begins at `place`, and where it ends."""
        num_bytes = _FIRST_BYTES
        while True:
            text = self._map[place : place + num_bytes].decode(errors="replace")
            try:
                value, end = _DECODER.raw_decode(text)
            except ValueError as error:
                # The value may go on behind the piece that was looked at.
                if place + num_bytes >= len(self._map):
                    raise SourceError(
                        f"{self._path}: damaged or cut at byte {place}: {error}"
                    ) from error
                num_bytes *= 4
            else:
                return value, place + len(text[:end].encode())
