"""Plain USTAR by hand: the same members give the same bytes, on any machine, at any time.

Python's `tarfile` would do, but two things here need the layout itself: the index points at member
offsets while they are written, and `verify` walks damaged files that `tarfile` refuses.
"""

from typing import NamedTuple

from shards.errors import DamagedError, SampleError

BLOCK_BYTES = 512
END = bytes(2 * BLOCK_BYTES)
_ZEROS = bytes(BLOCK_BYTES)
_NAME_BYTES = 100


class Header(NamedTuple):
    """What a member's header says: its name and the size of its data."""

    name: str
    num_bytes: int


def check_key(key: str) -> None:
    """Raise SampleError unless `key` can name a sample.

    A dot would end the key early for every WebDataset reader; a slash makes folders.
    """
    if not key or any(c in "./\\" or c.isspace() or not c.isprintable() for c in key):
        raise SampleError(
            f"{key!r} cannot be a sample's key: it must not be empty nor hold dots, slashes or "
            "white space; write a dot as %2E"
        )


def escape_key(text: str) -> str:
    """A valid key from any text, different for different texts, as in URLs: `a.b` -> `a%2Eb`."""
    return "".join(
        "".join(f"%{byte:02X}" for byte in c.encode())
        if c in "%./\\" or c.isspace() or not c.isprintable()
        else c
        for c in text
    )


def header(name: str, num_bytes: int) -> bytes:
    """The 512 bytes before a member's data. Raises SampleError for a name USTAR cannot hold."""
    encoded = name.encode()
    if len(encoded) > _NAME_BYTES:
        raise SampleError(
            f"the member name {name!r} is longer than the {_NAME_BYTES} bytes a tar header holds; "
            "give the sample a shorter key"
        )
    return _header(encoded, num_bytes)


def padding(num_bytes: int) -> bytes:
    """What fills the last block of a member's data."""
    return _ZEROS[: -num_bytes % BLOCK_BYTES]


def parse_header(block: bytes, errors: str = "strict") -> Header | None:
    """Read one 512-byte header; None for a zero block. Raises DamagedError for anything else.

    `errors` says what becomes of a name that is not UTF-8, as for `bytes.decode`.
    """
    if len(block) != BLOCK_BYTES:
        raise DamagedError(f"the file ends after {len(block)} bytes of a tar header")
    if not any(block):
        return None
    try:
        stored = int(block[148:156].rstrip(b" \0"), 8)
        size = int(block[124:136].rstrip(b" \0"), 8)
        name = block[:_NAME_BYTES].rstrip(b"\0").decode(errors=errors)
    except ValueError as error:
        raise DamagedError(f"not a tar header: {error}") from error
    if stored != _checksum(block):
        raise DamagedError("a tar header whose checksum does not fit")
    return Header(name, size)


def _header(name: bytes, num_bytes: int) -> bytes:
    block = bytearray(BLOCK_BYTES)
    block[: len(name)] = name
    block[100:124] = b"0000644\x000000000\x000000000\x00"  # mode, uid, gid
    block[124:148] = b"%011o\x0000000000000\x00" % num_bytes  # size, mtime
    block[156:157] = b"0"  # a regular file
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\x00 " % _checksum(bytes(block))
    return bytes(block)


def _checksum(block: bytes) -> int:
    return sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
