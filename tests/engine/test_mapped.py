"""Host memory in files: what it holds, what it leaves behind, what a full disk does."""

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.engine.base import Piece
from pipeline.engine.distributed import World
from pipeline.engine.errors import RunError
from pipeline.engine.mapped import MappedMemory
from pipeline.engine.statefile import Snapshot
from tests.engine.tiny import make_batches, make_engine, make_model, take

NAMES = [name for name, _ in make_model().named_parameters()]


def test_tensors_hold_what_is_written_and_leave_no_file(tmp_path: Path):
    memory = MappedMemory(tmp_path)
    zeros, copy = memory.zeros(1000, torch.float32), memory.copy(torch.arange(6.0).view(2, 3))
    assert zeros.tolist() == [0.0] * 1000
    zeros[3:] = 2.0
    gc.collect()
    assert zeros.sum() == 2 * 997
    assert copy.tolist() == [0, 1, 2, 3, 4, 5]
    assert memory.zeros(0, torch.float32).shape == (0,)
    assert list(tmp_path.iterdir()) == []


def lies_in(folder: Path, tensor: Tensor) -> bool:
    """The kernel says which file an address belongs to."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= tensor.data_ptr() < last:
            return str(folder) in line
    return False


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masters_moments_and_average_stay_on_the_disk(
    world: World, tmp_path: Path, stage: int, precision: str
):
    engine = make_engine(
        world,
        kind="deepspeed",
        zero_stage=stage,
        precision=precision,
        ema_decay=0.9,
        offload={"optimizer": "nvme", "nvme_path": tmp_path},
    )
    for batch in make_batches(3):
        take(engine, batch)
    pieces = {piece.name: piece.tensor for piece in engine.pieces(owned=False)}
    found = {name.split("/")[0] for name, tensor in pieces.items() if lies_in(tmp_path, tensor)}
    assert found == {"weights", "exp_avg", "exp_avg_sq", "average"}
    rest = {name for name, tensor in pieces.items() if not lies_in(tmp_path, tensor)}
    assert rest == {"buffers/seen"}
    engine.allocate({name: {"exp_avg", "exp_avg_sq"} for name in NAMES}, engine.scalars())
    assert all(lies_in(tmp_path, p.tensor) for p in engine.pieces(owned=False) if "/fc" in p.name)
    engine.allocate({}, {})
    moments = [p for p in engine.pieces(owned=False) if p.name.startswith("exp_avg")]
    assert len(moments) == 2 * len(NAMES)
    assert all(lies_in(tmp_path, p.tensor) and not p.tensor.any() for p in moments)


def test_the_copy_for_a_commit_lies_on_the_disk_too(tmp_path: Path):
    snapshot = Snapshot(MappedMemory(tmp_path))
    snapshot.take([Piece("weights/a", (3,), 0, torch.arange(3.0))])
    assert lies_in(tmp_path, snapshot._memory)


def test_no_room_and_no_folder_are_told_with_what_to_do(tmp_path: Path):
    with pytest.raises(RunError, match=r"nvme_path=.*GB free\); name a folder with more room"):
        MappedMemory(tmp_path).zeros(1 << 58, torch.float32)
    with pytest.raises(RunError, match="No such file or directory"):
        MappedMemory(tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []
