"""A copy of a commit, cut for another number of ranks."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from pipeline.engine.base import Piece
from pipeline.engine.checkpoint import verify, write_manifest
from pipeline.engine.errors import CheckpointError
from pipeline.engine.statefile import StateReader, Written, write_part


def reshard(commit: Path, num_ranks: int, out: Path) -> Iterator[str]:
    """Write it, one rank's file after another, and compare; yields what to tell a person.

    The random generators of the former ranks are left out: other ranks start fresh ones.
    Raises CheckpointError for a commit that is not whole, or an `out` that exists.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists; give the name of a new folder")
    manifest = verify(commit)
    reader = StateReader(commit, manifest.world_size)
    names = [n for n in reader.names if not n.startswith("rng/")]
    total = sum(_numel(reader, n) for n in names)
    partial = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    written: list[Written] = []
    for rank in range(num_ranks):
        bounds = (total * rank // num_ranks, total * (rank + 1) // num_ranks)
        part = write_part(partial, rank, _cut(reader, names, *bounds))
        written.append(part)
        yield f"{part.name}: {part.num_bytes / 1e6:.1f} MB"
    files = {w.name: {"bytes": w.num_bytes, "xxh3_128": w.digest} for w in written}
    write_manifest(partial, replace(manifest, world_size=num_ranks, files=files))
    copy = StateReader(partial, num_ranks)
    for name in names:
        if not torch.equal(_bytes(reader.whole(name)), _bytes(copy.whole(name))):
            raise CheckpointError(f"{name} is not the same in {partial}: look at the disk's health")
    partial.rename(out)
    yield f"{out}: step {manifest.step}, {len(names)} tensors, compared with {commit}"


def _cut(reader: StateReader, names: list[str], start: int, stop: int) -> Iterator[Piece]:
    """The pieces of elements [start, stop) of all tensors laid end to end."""
    at = 0
    for name in names:
        length = _numel(reader, name)
        first, last = max(start - at, 0), min(stop - at, length)
        if first < last:
            flat = reader.whole(name).view(-1)
            yield Piece(name, reader.shapes[name], first, flat[first:last])
        at += length


def _numel(reader: StateReader, name: str) -> int:
    return torch.Size(reader.shapes[name]).numel()


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Bits, since NaN is not equal to itself."""
    return tensor.contiguous().view(-1).view(torch.uint8)
