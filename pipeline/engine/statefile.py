"""One rank's part of a commit in one file, in the safetensors format.

    rank-0000.safetensors   8 bytes: length of the header
                            header: per tensor dtype, shape [n], offsets; in `__metadata__` where the
                            piece starts in its whole, and the whole's shape
                            the pieces, one after another

Written from a copy in host memory in one pass that also makes the digest; read piece by piece
through the page cache, whatever number of ranks wrote it. Any reader of safetensors can open it.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import safe_open
from torch import Tensor

from pipeline.engine.base import Piece
from pipeline.engine.errors import CheckpointError
from pipeline.engine.mapped import MappedMemory
from shards.files import write_all

_BLOCK = 1 << 24
_DTYPES = {
    torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.float16: "F16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def file_name(rank: int) -> str:
    return f"rank-{rank:04d}.safetensors"


@dataclass(frozen=True)
class Written:
    """A file as it was meant to be."""

    name: str
    num_bytes: int
    digest: str


class Snapshot:
    """A copy of a rank's pieces in host memory, taken in one go; the memory is used again.

    With `disk` it lies there, as the state itself does.
    """

    def __init__(self, disk: MappedMemory | None = None) -> None:
        self._disk = disk
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._header = b""
        self._length = 0

    def take(self, pieces: Iterable[Piece]) -> int:
        """Copy the pieces; returns the size of the file they will make. All of it is copied on return."""
        live = list(pieces)
        header, places, end = _layout(live)
        if len(self._memory) < end:
            pin = torch.cuda.is_available()
            self._memory = torch.empty(0, dtype=torch.uint8)  # lets go of the old before the new
            self._memory = (
                self._disk.zeros(end, torch.uint8)
                if self._disk
                else torch.empty(end, dtype=torch.uint8, pin_memory=pin)
            )
        for piece, (start, stop) in zip(live, places, strict=True):
            held = self._memory[start:stop].view(piece.tensor.dtype)
            held.copy_(piece.tensor, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.current_stream().synchronize()
        self._header, self._length = header, end
        return len(header) + end

    def write(self, path: Path) -> Written:
        """Write and flush the file. Raises OSError."""
        state = xxhash.xxh3_128()
        content = memoryview(self._memory[: self._length].numpy())  # pyright: ignore[reportArgumentType]
        with path.open("wb", buffering=0) as file:
            for block in (memoryview(self._header), *_blocks(content)):
                state.update(block)
                write_all(file.fileno(), block)
            os.fsync(file.fileno())
        return Written(path.name, len(self._header) + self._length, state.hexdigest())


def _layout(pieces: list[Piece]) -> tuple[bytes, list[tuple[int, int]], int]:
    entries: dict[str, Any] = {}
    about, places, end = {}, [], 0
    for piece in pieces:
        # Each starts at a multiple of 8 bytes, so that its memory can be viewed in its own type.
        size = piece.tensor.numel() * piece.tensor.element_size()
        places.append((end, end + size))
        entries[piece.name] = {
            "dtype": _DTYPES[piece.tensor.dtype],
            "shape": [piece.tensor.numel()],
            "data_offsets": [end, end + size],
        }
        about[piece.name] = [piece.start, list(piece.shape)]
        end += size
        if end % 8:
            entries[f"padding/{len(places)}"] = {
                "dtype": "U8",
                "shape": [-end % 8],
                "data_offsets": [end, end + -end % 8],
            }
            end += -end % 8
    entries["__metadata__"] = {"pieces": json.dumps(about)}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, places, end


def _blocks(content: memoryview) -> Iterable[memoryview]:
    return (content[i : i + _BLOCK] for i in range(0, len(content), _BLOCK))


class StateReader:
    """The pieces of all ranks' files of one commit, put together on demand."""

    def __init__(self, folder: Path, num_ranks: int):
        self._folder = folder
        # By name: where each piece begins, how long it is, and which file has it.
        self._index: dict[str, list[tuple[int, int, int]]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for rank in range(num_ranks):
            # Opened again where it is read: a handle per rank would be too many for thousands of them.
            with safe_open(folder / file_name(rank), framework="pt") as file:
                for name, (start, shape) in json.loads(file.metadata()["pieces"]).items():
                    length = file.get_slice(name).get_shape()[0]
                    self._index.setdefault(name, []).append((start, length, rank))
                    self.shapes[name] = tuple(shape)
        for parts in self._index.values():
            parts.sort()

    def kinds(self) -> dict[str, set[str]]:
        """Parameter -> the optimizer's tensors of it, such as `exp_avg`."""
        found: dict[str, set[str]] = {}
        for name in self._index:
            kind, parameter = name.split("/", 1)
            if kind not in ("weights", "buffers", "rng"):
                found.setdefault(parameter, set()).add(kind)
        return found

    def fill(self, pieces: Iterable[Piece]) -> None:
        """Write what was saved into the live memory of these pieces.

        Raises CheckpointError when the commit lacks any part of them, or has another shape.
        """
        wanted: dict[int, list[tuple[Piece, int, int]]] = {}
        for piece in pieces:
            if self.shapes.get(piece.name) != piece.shape:
                raise CheckpointError(
                    f"{self._folder}: {piece.name} was saved with shape "
                    f"{self.shapes.get(piece.name)} and is {piece.shape} now"
                )
            reached = piece.start
            for start, length, rank in self._index[piece.name]:
                if start <= reached < min(start + length, piece.stop):
                    wanted.setdefault(rank, []).append((piece, start, reached))
                    reached = min(start + length, piece.stop)
            if reached < piece.stop:
                raise CheckpointError(
                    f"{self._folder}: elements {reached} to {piece.stop} of {piece.name} are in none "
                    "of its files"
                )
        for rank, parts in wanted.items():
            with safe_open(self._folder / file_name(rank), framework="pt") as file:
                for piece, start, begin in parts:
                    _copy(file.get_slice(piece.name), piece, start, begin)

    def whole(self, name: str) -> Tensor:
        """One named tensor, put together."""
        shape = self.shapes[name]
        rank = self._index[name][0][2]
        with safe_open(self._folder / file_name(rank), framework="pt") as file:
            dtype = file.get_tensor(name).dtype
        tensor = torch.zeros(shape, dtype=dtype)
        self.fill([Piece(name, shape, 0, tensor.view(-1))])
        return tensor

    @property
    def names(self) -> list[str]:
        return sorted(self._index)


@torch.no_grad()
def _copy(source: Any, piece: Piece, start: int, begin: int) -> None:
    end = min(start + source.get_shape()[0], piece.stop)
    target = piece.tensor[begin - piece.start : end - piece.start]
    target.copy_(source[begin - start : end - start])


def write_part(folder: Path, rank: int, pieces: Iterable[Piece]) -> Written:
    """Write the file of one rank, for tools that are no rank themselves."""
    snapshot = Snapshot()
    snapshot.take(pieces)
    return snapshot.write(folder / file_name(rank))
