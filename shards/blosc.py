"""Blosc2 chunks <-> arrays.

Decompression goes straight to the C library that the `blosc2` package brings: the package makes a
context for every call, and importing it takes longer than reading a thousand samples. Neither way
holds Python's lock while the library works, so threads compress and decompress side by side.
"""

import ctypes
import functools
import importlib.util
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema.modality import Codec

# A chunk counts its bytes in an int32 and keeps 32 of them for its header.
MAX_CHUNK_BYTES = 2**31 - 33
_HEADER_BYTES = 16
_SIZES = struct.Struct("<4xiii")
_FILTERS = {"bitshuffle": "BITSHUFFLE", "shuffle": "SHUFFLE", "none": "NOFILTER"}


def compress(array: np.ndarray, codec: Codec) -> bytes:
    """One chunk, always the same for the same array and library version: it runs on one thread."""
    blosc2 = _package()
    return blosc2.compress2(
        array,
        codec=blosc2.Codec.ZSTD,
        clevel=codec.level,
        typesize=array.dtype.itemsize,
        filters=[blosc2.Filter[_FILTERS[codec.filter]]],
        filters_meta=[0],
        nthreads=1,
    )


def decompress(chunk: memoryview, out: np.ndarray) -> None:
    """Fill the contiguous array `out` from a chunk. Raises ValueError for bytes that are not one."""
    if len(chunk) < _HEADER_BYTES:
        raise ValueError("shorter than a chunk's header")
    num_bytes, _, chunk_bytes = _SIZES.unpack_from(chunk)
    # Checked before the library sees them: damaged sizes must not lead outside the buffers.
    if num_bytes != out.nbytes or chunk_bytes != len(chunk):
        raise ValueError("the sizes in its header contradict each other")
    context = _context()
    if context is None:
        _package().decompress2(bytes(chunk), dst=out, nthreads=1)
        return
    source = np.frombuffer(chunk, np.uint8)
    library = _library()
    done = library.blosc2_decompress_ctx(
        context.pointer, source.ctypes.data, len(chunk), out.ctypes.data, out.nbytes
    )
    if done != out.nbytes:
        raise ValueError(f"the library gave up on it (code {done})")


class _Parameters(ctypes.Structure):
    """blosc2_dparams: only its first field is not zero; longer than any version's, for safety."""

    _fields_ = (("nthreads", ctypes.c_int), ("rest", ctypes.c_byte * 124))


class _Context:
    """A decompression context; the library wants one per thread."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.pointer = library.blosc2_create_dctx(_Parameters(nthreads=1))

    def __del__(self) -> None:
        self._library.blosc2_free_ctx(self.pointer)


_local = threading.local()


def _context() -> _Context | None:
    found = getattr(_local, "context", None)
    if found is None and (library := _library()) is not None:
        found = _local.context = _Context(library)
    return found


@functools.cache
def _library() -> Any:
    """The C library inside the package; None for a package that was built without a shared one."""
    spec = importlib.util.find_spec("blosc2")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).glob("lib/libblosc2.*")):
            if path.suffix not in (".so", ".dylib"):
                continue
            library = ctypes.CDLL(str(path))
            library.blosc2_init()
            library.blosc2_create_dctx.restype = ctypes.c_void_p
            library.blosc2_create_dctx.argtypes = [_Parameters]
            library.blosc2_free_ctx.argtypes = [ctypes.c_void_p]
            library.blosc2_decompress_ctx.argtypes = [
                *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32),
                *(ctypes.c_void_p, ctypes.c_int32),
            ]
            return library
    return None


@functools.cache
def _package() -> Any:
    import blosc2

    blosc2.set_releasegil(True)
    return blosc2
