"""The members of tars that other people's tools wrote, found by walking their headers.

Beyond plain USTAR: long names (GNU `L`, USTAR's prefix, PAX `path`), PAX headers before each member
(webdataset writes them for the fraction of a second), folders and links, which are passed over.
"""

import os
from collections.abc import Iterator
from typing import NamedTuple

from shards.errors import DamagedError
from shards.tar import BLOCK_BYTES, parse_header

_FILES = (b"0", b"\0", b"7")
_PAX, _LONG_NAME = b"x", b"L"
# A header that claims more than this is not one.
_MAX_EXTENSION_BYTES = 1 << 20


class Member(NamedTuple):
    """Where the data of a file lie in the tar; they need not all lie inside it."""

    name: str
    offset: int
    num_bytes: int


def walk(fd: int) -> Iterator[Member]:
    """The files in an open tar (a descriptor), in its order; only headers are read.

    Raises DamagedError, after the members before it, where no header is and the tar does not end.
    """
    offset = 0
    told: dict[str, str] = {}
    while True:
        block = os.pread(fd, BLOCK_BYTES, offset)
        try:
            # The name of a header may be cut anywhere where another one tells it whole.
            header = parse_header(block, errors="replace")
        except DamagedError as error:
            raise DamagedError(f"at byte {offset}: {error}") from error
        if header is None:
            return
        kind, start = block[156:157], offset + BLOCK_BYTES
        num_bytes = header.num_bytes
        if kind in (_PAX, _LONG_NAME):
            told |= _extension(kind, os.pread(fd, min(num_bytes, _MAX_EXTENSION_BYTES), start))
        else:
            num_bytes = int(told.get("size", num_bytes))
            if num_bytes < 0:
                raise DamagedError(f"at byte {offset}: a member of {num_bytes} bytes")
            if kind in _FILES:
                yield Member(told.get("path") or _with_prefix(block, header.name), start, num_bytes)
            told = {}
        offset = start + num_bytes + -num_bytes % BLOCK_BYTES


def _extension(kind: bytes, data: bytes) -> dict[str, str]:
    """What an extra header says about the member after it."""
    try:
        if kind == _LONG_NAME:
            return {"path": data.rstrip(b"\0").decode()}
        found = {}
        while data.rstrip(b"\0"):
            length, _, _ = data.partition(b" ")
            record = data[len(length) + 1 : int(length)]
            name, _, value = record.removesuffix(b"\n").partition(b"=")
            if name in (b"path", b"size"):
                found[name.decode()] = value.decode()
            # A length of 0 would never end.
            data = data[max(int(length), 1) :]
        int(found.get("size", 0))
        return found
    except ValueError as error:
        raise DamagedError(f"not an extended tar header: {error}") from error


def _with_prefix(block: bytes, name: str) -> str:
    if block[257:263] != b"ustar\0":
        return name
    prefix = block[345:500].rstrip(b"\0").decode(errors="replace")
    return f"{prefix}/{name}" if prefix else name
