"""Ranks, votes and reductions. Started by environment variables; without them, one rank.

Votes and bookkeeping always travel over gloo on the CPU, so that they never touch a GPU stream.
"""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from configs import ConfigError
from pipeline.engine.errors import RunError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        dist.barrier(group=_votes())

    def in_turn(self, action: Callable[[], T]) -> T:
        """The action's result; rank 0 acts first, the others once it has finished."""
        if not self.is_main:
            self.barrier()
        result = action()
        if self.is_main:
            self.barrier()
        self.barrier()
        return result

    def add(self, *values: float) -> list[float]:
        """Each value summed over the ranks, in float64: one small exchange."""
        votes = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(votes, group=_votes())
        return votes.tolist()

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=_votes())
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank."""
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value, group=_votes())
        return box

    def sum(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sum over ranks, name by name, in float64. Every rank must bring the same names and shapes."""
        names = sorted(values)
        if not names:
            return {}
        parts = [values[n].detach().double().cpu().reshape(-1) for n in names]
        flat = torch.cat(parts)
        dist.all_reduce(flat, group=_votes())
        pieces = flat.split([p.numel() for p in parts])
        return {n: p.reshape(values[n].shape) for n, p in zip(names, pieces, strict=True)}

    def sum_on_device(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sum over ranks, name by name, in float32 and where the tensors are: for large ones."""
        if self.size == 1 or not values:
            return values
        names = sorted(values)
        flat = torch.cat([values[n].detach().float().reshape(-1) for n in names])
        dist.all_reduce(flat)
        pieces = flat.split([values[n].numel() for n in names])
        return {n: p.reshape(values[n].shape) for n, p in zip(names, pieces, strict=True)}

    def concatenate(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows of all ranks, one rank after another; each may bring another number of them."""
        if self.size == 1:
            return rows
        counts: list[int] = self.gather(len(rows))
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        found = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(found, padded)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])


_vote_group: dist.ProcessGroup | None = None


def _votes() -> dist.ProcessGroup | None:
    return _vote_group


def env_rank() -> int:
    """This process's rank before any group exists."""
    return int(os.environ.get("RANK", "0"))


def pick_device(wish: str, local_rank: int = 0) -> torch.device:
    """`auto` takes a GPU when there is one. Raises ConfigError for `cuda` without one."""
    if wish == "cuda" and not torch.cuda.is_available():
        raise ConfigError("engine.device=cuda, but torch sees no GPU; write engine.device=auto")
    if wish == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """All tensors of a batch on the device."""

    def move(value: torch.Tensor) -> torch.Tensor:
        return value.to(device, non_blocking=True)

    return {k: move(v) for k, v in batch.items()}


def start(device_wish: str = "auto", timeout_s: float = 1800) -> World:
    """Join the other ranks. RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT say how; without them
    there is one rank, and no port.

    Raises RunError when only some of them are set, or peers do not come within the time-out.
    """
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    found = [n for n in names if n in os.environ]
    if found and len(found) < len(names):
        missing = ", ".join(sorted(set(names) - set(found)))
        raise RunError(f"{', '.join(found)} set but {missing} not; set all of them or none")
    # One rank alone must not leave a port in the environment: a process that it starts would meet it there.
    store = None if found else dist.HashStore()  # type: ignore[attr-defined]
    os.environ.setdefault("LOCAL_RANK", "0")
    rank, size = env_rank(), int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ["LOCAL_RANK"])
    device = pick_device(device_wish, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(
                backend,
                store=store,
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=timeout_s),
            )
        except (dist.DistStoreError, RuntimeError, ValueError) as error:
            where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
            raise RunError(
                f"rank {rank} of {size} could not join the others at {where}: {error}"
            ) from error
        # DeepSpeed remembers its groups for as long as the process lives, and so several runs in one
        # process share what the first one joined.
        atexit.register(_leave)
        global _vote_group
        group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        assert isinstance(group, dist.ProcessGroup)
        _vote_group = group
    return World(rank, size, local_rank, device)


def _leave() -> None:
    global _vote_group
    _vote_group = None
    if dist.is_initialized():
        dist.destroy_process_group()
