"""What the machine can do: the disk, the page cache, the memory and the codec, each on its own."""

import functools
import importlib
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _ours
from benchmarks._workload import BATCH_SIZE, NAMES, Batch, Workload, fill
from configs.registry import modality
from shards.files import raw

_BUFFER_BYTES = 8 << 20
_RAW = "raw.bin"


def write_disk(direct: bool, workload: Workload, out: Path) -> None:
    """As many bytes as the arrays have, from one buffer to one file, with fsync."""
    total = workload.num_samples * workload.sample_bytes
    flags = os.O_WRONLY | os.O_CREAT | (os.O_DIRECT if direct else 0)
    view = memoryview(_buffer())
    fd = os.open(out / "limit.bin", flags, 0o644)
    try:
        # O_DIRECT wants whole blocks: the last one is at most 4 KiB too long.
        todo = total + -total % mmap.PAGESIZE
        while todo:
            todo -= os.write(fd, view[: min(todo, _BUFFER_BYTES)])
        os.fsync(fd)
    finally:
        os.close(fd)


def can_write_direct(folder: Path) -> bool:
    """Whether the file system takes O_DIRECT; a memory file system does not."""
    probe = folder / ".direct"
    try:
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o644)
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    os.close(fd)
    return True


def make_raw(workload: Workload, out: Path) -> None:
    """One file with nothing but the samples' arrays, one after the other."""
    with (out / _RAW).open("wb") as file:
        for i in range(workload.num_samples):
            for array in workload.arrays(i).values():
                file.write(raw(array))


def read_page_cache(workload: Workload, folder: Path, batch: Batch) -> Iterator[list[int]]:
    """`preadv` of each sample straight into the batch; modalities side by side in one call."""
    fd = _open(folder / _RAW)
    rows = _row_views(batch)
    runs = _runs(workload, batch)
    for start in range(0, workload.num_samples, BATCH_SIZE):
        numbers = list(range(start, min(start + BATCH_SIZE, workload.num_samples)))
        for b, number in enumerate(numbers):
            base = number * workload.sample_bytes
            for offset, num_bytes, names in runs:
                done = os.preadv(fd, [rows[name][b] for name in names], base + offset)
                assert done == num_bytes
        yield numbers


def copy_memory(workload: Workload, _: Path, batch: Batch) -> Iterator[list[int]]:
    """Arrays that lie in memory, copied into the batch."""
    return fill(batch, ((i, workload.arrays(i)) for i in range(workload.num_samples)))


def encode_only(threads: int, workload: Workload, _: Path) -> None:
    """The registry's codecs, nothing written; 0 threads are one a core."""
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for _done in pool.map(
            functools.partial(_encode_sample, workload), range(workload.num_samples)
        ):
            pass


def decode_only(workload: Workload, _: Path, batch: Batch) -> Iterator[list[int]]:
    """Chunks that lie in memory, decoded on one thread straight into the batch."""
    blosc2 = _blosc2()
    chunks = _chunks(workload)
    for start in range(0, workload.num_samples, BATCH_SIZE):
        numbers = list(range(start, min(start + BATCH_SIZE, workload.num_samples)))
        for b, number in enumerate(numbers):
            for name, rows in batch.arrays.items():
                chunk = chunks[number % workload.num_distinct][name]
                blosc2.decompress2(chunk, dst=rows[b], nthreads=1)
                if modality(name).codec.delta:
                    np.cumsum(rows[b], axis=-1, dtype=rows.dtype, out=rows[b])
        yield numbers


def _encode_sample(workload: Workload, i: int) -> None:
    for name, array in workload.arrays(i).items():
        _ours.encode(name, array)


@functools.cache
def _blosc2() -> Any:
    return importlib.import_module("blosc2")


def _compress(name: str, array: np.ndarray) -> Any:
    blosc2 = _blosc2()
    codec = modality(name).codec
    filters = {"bitshuffle": "BITSHUFFLE", "shuffle": "SHUFFLE", "none": "NOFILTER"}
    if codec.delta:
        array = np.diff(array, axis=-1, prepend=array.dtype.type(0))
    return blosc2.compress2(
        array,
        codec=blosc2.Codec.ZSTD,
        clevel=codec.level,
        typesize=array.dtype.itemsize,
        filters=[blosc2.Filter[filters[codec.filter]]],
        filters_meta=[0],
        nthreads=1,
    )


@functools.cache
def _chunks(workload: Workload) -> list[dict[str, Any]]:
    return [
        {name: _compress(name, array) for name, array in workload.arrays(i).items()}
        for i in range(workload.num_distinct)
    ]


@functools.cache
def _buffer() -> mmap.mmap:
    # Mapped memory starts on a page, as O_DIRECT wants it; random, as some disks compress.
    buffer = mmap.mmap(-1, _BUFFER_BYTES)
    buffer.write(np.random.default_rng(0).bytes(_BUFFER_BYTES))
    return buffer


@functools.cache
def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY)


def _row_views(batch: Batch) -> dict[str, list[memoryview]]:
    return {name: [raw(row) for row in rows] for name, rows in batch.arrays.items()}


def _runs(workload: Workload, batch: Batch) -> list[tuple[int, int, list[str]]]:
    """(offset in the sample, bytes, names) of wanted modalities that lie side by side."""
    runs: list[tuple[int, int, list[str]]] = []
    offset, end = 0, -1
    for name in NAMES:
        dtype, shape = workload.layout[name]
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        if name in batch.arrays:
            if end == offset:
                start, so_far, names = runs.pop()
                runs.append((start, so_far + num_bytes, [*names, name]))
            else:
                runs.append((offset, num_bytes, [name]))
            end = offset + num_bytes
        offset += num_bytes
    return runs
