"""Bytes of parts from tars, with as few system calls and copies as the layout allows.

Wanted parts of a sample that lie side by side are read by one `preadv`; what lies between them goes
to a scratch buffer. Raw arrays land where the caller wants them, compressed ones are decompressed
there. Every part is checked against its digest.

Files are opened when they are first needed, once per thread. Of a file that is shorter than the index
says, only what lies behind its end is lost.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xxhash

from shards.codec import decode_part, fits, npy_header
from shards.errors import DamagedError
from shards.files import raw
from shards.sample import Part
from shards.storage import TarFile, open_tar

_MAX_OPEN_FILES = 64
# Reading over a gap this long costs less than a second call.
_MAX_GAP_BYTES = 64 << 10


class Wanted(NamedTuple):
    """One part to read: where it lies and what it must be."""

    name: str
    part: str
    offset: int
    size: int
    digest: int

    @property
    def extension(self) -> str:
        return self.part.partition(".")[2]


class TarFiles(threading.local):
    """Open tars of one thread, the least recently used closed first.

    Per thread, because a descriptor closed here could be another file by the time another thread
    reads from it. No position is kept, so descriptors inherited by a fork stay right.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, TarFile] = OrderedDict()
        self._scratch = np.empty(0, np.uint8)

    def read_into(self, path: str, tar_bytes: int, offset: int, buffers: list[memoryview]) -> None:
        """Fill the buffers, one after the other, from `offset` on.

        Raises DamagedError when the file has another size than `tar_bytes` and ends before.
        """
        file = self._open.pop(path, None) or open_tar(path)
        self._open[path] = file
        if len(self._open) > _MAX_OPEN_FILES:
            self._open.popitem(last=False)
        size = sum(map(len, buffers))
        if file.size != tar_bytes and offset + size > file.size:
            raise DamagedError(
                f"the file is {file.size} bytes long, {tar_bytes} expected: this part lies "
                "behind its end"
            )
        done = file.read_into(buffers, offset)
        while done < size:
            rest = _after(buffers, done)
            count = file.read_into(rest, offset + done)
            if count == 0:
                raise DamagedError(f"the file ends {size - done} bytes early")
            done += count

    def scratch(self, size: int) -> memoryview:
        """A buffer that is valid until the next call; growing, never given back."""
        if len(self._scratch) < size:
            self._scratch = np.empty(size + size // 4, np.uint8)
        return raw(self._scratch)[:size]


def read_parts(
    files: TarFiles,
    path: str,
    tar_bytes: int,
    wanted: Sequence[Wanted],
    into: Mapping[str, np.ndarray],
) -> dict[str, Part]:
    """Read, check and decode parts of one sample, by name; arrays in `into` are used where they fit.

    `wanted` is in the order of the tar. Raises DamagedError saying which part and why, or OSError.
    """
    parts: dict[str, Part] = {}
    for run in _runs(wanted):
        _read_run(files, path, tar_bytes, run, into, parts)
    return parts


def _runs(wanted: Sequence[Wanted]) -> list[list[Wanted]]:
    """Parts that one call reads together."""
    runs: list[list[Wanted]] = []
    end = -1 - _MAX_GAP_BYTES
    for part in wanted:
        if part.offset - end > _MAX_GAP_BYTES:
            runs.append([])
        runs[-1].append(part)
        end = part.offset + part.size
    return runs


def _read_run(
    files: TarFiles,
    path: str,
    tar_bytes: int,
    run: list[Wanted],
    into: Mapping[str, np.ndarray],
    parts: dict[str, Part],
) -> None:
    begin, end = run[0].offset, run[-1].offset + run[-1].size
    scratch = files.scratch(end - begin)
    buffers: list[memoryview] = []
    own: dict[str, memoryview] = {}
    at = begin
    for part in run:
        # Raw arrays bypass the scratch buffer: into the caller's array, or into memory of their own.
        target = _direct(part, into.get(part.name))
        if target is None:
            continue
        own[part.name] = target
        start = part.offset + part.size - len(target)
        buffers += [scratch[at - begin : start - begin], target]
        at = part.offset + part.size
    if at < end:
        buffers.append(scratch[at - begin :])
    files.read_into(path, tar_bytes, begin, [b for b in buffers if len(b)])
    for part in run:
        try:
            parts[part.name] = _decode(
                part, scratch[part.offset - begin :][: part.size], own.get(part.name), into
            )
        except DamagedError as error:
            raise DamagedError(f"offset {part.offset}, {part.part}: {error}") from error


def _direct(part: Wanted, out: np.ndarray | None) -> memoryview | None:
    """Where the end of a raw array's member is read to: all of it but a header known beforehand."""
    if part.extension != "npy":
        return None
    if out is not None and out.flags.c_contiguous:
        header = npy_header(out.dtype.str, out.shape)
        if part.size == len(header) + out.nbytes:
            return raw(out)
    return raw(np.empty(part.size, np.uint8))


def _decode(
    part: Wanted, data: memoryview, own: memoryview | None, into: Mapping[str, np.ndarray]
) -> Part:
    """One part from its bytes: all in `data`, or their end in `own`."""
    out = into.get(part.name)
    if own is None:
        _check(part, data)
        return decode_part(part.extension, data, out)
    head = data[: part.size - len(own)]
    _check(part, head, own)
    if out is not None and len(head):
        if bytes(head) == npy_header(out.dtype.str, out.shape):
            return out
        # The same number of bytes in another shape or type: as rare as it sounds.
        return decode_part("npy", bytearray(bytes(head) + bytes(own)))
    array = decode_part("npy", own)
    if isinstance(array, np.ndarray) and fits(out, array.dtype, array.shape):
        np.copyto(out, array)
        return out
    return array


def _check(part: Wanted, *pieces: memoryview) -> None:
    if len(pieces) == 1:
        digest = xxhash.xxh3_64_intdigest(pieces[0])
    else:
        state = xxhash.xxh3_64()
        for piece in pieces:
            state.update(piece)
        digest = state.intdigest()
    if digest != part.digest:
        raise DamagedError("the bytes differ from their digest")


def _after(buffers: list[memoryview], done: int) -> list[memoryview]:
    rest = []
    for buffer in buffers:
        if done < len(buffer):
            rest.append(buffer[done:])
        done = max(0, done - len(buffer))
    return rest
