"""Ranks as threads of one process, for what ranks agree on over the CPU."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.engine.distributed import World


@dataclass
class Team:
    """What the ranks meet at. A rank that does not come within ten seconds breaks it for all."""

    size: int
    boxes: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.boxes = [None] * self.size
        self.meeting = threading.Barrier(self.size, timeout=10)


@dataclass(frozen=True)
class Member(World):
    """A rank of a team."""

    team: Team

    def barrier(self) -> None:
        self.team.meeting.wait()

    def gather(self, value: Any) -> list[Any]:
        self.team.boxes[self.rank] = value
        self.barrier()
        found = list(self.team.boxes)
        self.barrier()
        return found

    def broadcast(self, value: Any) -> Any:
        return self.gather(value)[0]

    def add(self, *values: float) -> list[float]:
        return [float(sum(column)) for column in zip(*self.gather(values), strict=True)]


def alone() -> World:
    """The only rank."""
    return Member(0, 1, 0, torch.device("cpu"), Team(1))


def together(size: int, action: Callable[[World], Any]) -> list[Any]:
    """Each rank's result of an action, or the error that it raised."""
    team = Team(size)
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = action(Member(rank, size, rank, torch.device("cpu"), team))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
