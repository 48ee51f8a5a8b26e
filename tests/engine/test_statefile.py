"""One rank's file: any cut is read back under any other, bit for bit."""

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pipeline.engine.base import Piece
from pipeline.engine.errors import CheckpointError
from pipeline.engine.lifecycle import file_digest
from pipeline.engine.replicated import share, whole
from pipeline.engine.statefile import Snapshot, StateReader, file_name

DTYPES = [
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
]  # fmt: skip


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Any bits at all, NaN among them."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randint(0, 256, (torch.Size(shape).numel() * 8,), generator=generator)
    if dtype is torch.bool:
        return (flat[::8] % 2).bool().reshape(shape)
    size = torch.empty(0, dtype=dtype).element_size()
    return flat[: torch.Size(shape).numel() * size].to(torch.uint8).view(dtype).reshape(shape)


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def cut(tensors: dict[str, Tensor], draw: st.DataObject, num_ranks: int) -> list[list[Piece]]:
    """Each tensor cut anywhere, one stretch to a rank; some ranks get nothing of it."""
    ranks: list[list[Piece]] = [[] for _ in range(num_ranks)]
    for name, tensor in tensors.items():
        ends = st.lists(
            st.integers(0, tensor.numel()), min_size=num_ranks - 1, max_size=num_ranks - 1
        )
        borders = [0, *sorted(draw.draw(ends)), tensor.numel()]
        for rank, (start, stop) in enumerate(itertools.pairwise(borders)):
            if stop > start or not tensor.numel():
                stretch = tensor.view(-1)[start:stop]
                ranks[rank].append(Piece(name, tuple(tensor.shape), start, stretch))
    return ranks


def write(folder: Path, ranks: list[list[Piece]]) -> None:
    for rank, pieces in enumerate(ranks):
        snapshot = Snapshot()
        size = snapshot.take(pieces)
        written = snapshot.write(folder / file_name(rank))
        path = folder / file_name(rank)
        assert written.num_bytes == size == path.stat().st_size
        assert written.digest == file_digest(path)


shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
contents = st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1, max_size=6)


@settings(max_examples=60)
@given(content=contents, saved=st.integers(1, 5), now=st.integers(1, 5), draw=st.data())
def test_any_number_of_ranks_reads_what_any_other_wrote(content, saved, now, draw):
    tensors = {
        f"weights/{i}": random_tensor(shape, dtype, i) for i, (shape, dtype) in enumerate(content)
    }
    empty = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, cut(tensors, draw, saved))
        reader = StateReader(folder, saved)
        assert reader.shapes == {n: tuple(t.shape) for n, t in tensors.items()}
        for pieces in cut(empty, draw, now):
            reader.fill(pieces)
        for key, tensor in tensors.items():
            assert bits(empty[key]) == bits(tensor)
            assert bits(reader.whole(key)) == bits(tensor)
            assert reader.whole(key).shape == tensor.shape


def test_safetensors_itself_opens_the_file(tmp_path: Path):
    odd, even = torch.arange(3, dtype=torch.int8), torch.arange(6.0).view(2, 3)
    write(tmp_path, [[whole("buffers/odd", odd), whole("weights/even", even)]])
    found = load_file(tmp_path / file_name(0))
    torch.testing.assert_close(found["buffers/odd"], odd)
    torch.testing.assert_close(found["weights/even"], even.view(-1))
    with safe_open(tmp_path / file_name(0), framework="pt") as file:
        pieces = json.loads(file.metadata()["pieces"])
    assert pieces == {"buffers/odd": [0, [3]], "weights/even": [0, [2, 3]]}


def test_a_part_that_no_file_has_is_named(tmp_path: Path):
    values = torch.arange(10.0)
    write(
        tmp_path,
        [[Piece("weights/w", (10,), 0, values[:4])], [Piece("weights/w", (10,), 7, values[7:])]],
    )
    with pytest.raises(CheckpointError, match=r"elements 4 to 10 of weights/w are in none"):
        StateReader(tmp_path, 2).fill([whole("weights/w", torch.zeros(10))])
    StateReader(tmp_path, 2).fill([Piece("weights/w", (10,), 7, torch.zeros(3))])


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("weights/w", (3, 2), r"weights/w was saved with shape \(2, 3\) and is \(3, 2\) now"),
        ("weights/v", (2, 3), r"weights/v was saved with shape None"),
    ],
)
def test_another_shape_or_name_is_refused_by_name(tmp_path: Path, name: str, shape: Any, said: str):
    write(tmp_path, [[whole("weights/w", torch.zeros(2, 3))]])
    with pytest.raises(CheckpointError, match=said):
        StateReader(tmp_path, 1).fill([whole(name, torch.zeros(shape))])


def test_a_snapshot_is_of_the_moment_it_was_taken(tmp_path: Path):
    live = torch.arange(5.0)
    snapshot = Snapshot()
    snapshot.take([whole("weights/w", live)])
    live.fill_(-1)
    snapshot.write(tmp_path / file_name(0))
    torch.testing.assert_close(StateReader(tmp_path, 1).whole("weights/w"), torch.arange(5.0))


def test_the_memory_of_a_snapshot_is_used_again_for_what_fits(tmp_path: Path):
    snapshot = Snapshot()
    snapshot.take([whole("weights/w", torch.arange(8.0))])
    memory = snapshot._memory.data_ptr()
    snapshot.take([whole("weights/w", torch.arange(3.0))])
    assert snapshot._memory.data_ptr() == memory
    snapshot.write(tmp_path / file_name(0))
    torch.testing.assert_close(StateReader(tmp_path, 1).whole("weights/w"), torch.arange(3.0))
    snapshot.take([whole("weights/w", torch.arange(99.0))])
    assert len(snapshot._memory) >= 99 * 4


def test_the_optimizers_tensors_are_listed_by_parameter(tmp_path: Path):
    names = ["weights/a.w", "exp_avg/a.w", "exp_avg_sq/a.w", "buffers/b", "rng/0000.cpu"]
    write(tmp_path, [[whole(name, torch.zeros(1)) for name in names]])
    assert StateReader(tmp_path, 1).kinds() == {"a.w": {"exp_avg", "exp_avg_sq"}}


@example(lengths=[3, 0], size=2)
@given(lengths=st.lists(st.integers(0, 50), max_size=12), size=st.integers(1, 6))
def test_ranks_share_what_all_of_them_hold_and_none_writes_it_twice(lengths, size):
    pieces = [whole(str(i), torch.zeros(n)) for i, n in enumerate(lengths)]
    shares = [share(pieces, rank, size) for rank in range(size)]
    assert [p.name for part in shares for p in part] == [p.name for p in pieces]
    if pieces:
        largest = max(sum(p.tensor.numel() for p in part) for part in shares)
        assert largest <= sum(lengths) / size + max(lengths)
