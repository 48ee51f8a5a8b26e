"""How a process learns where it stands among the ranks."""

import os

import pytest

from pipeline.engine import distributed
from pipeline.engine.errors import RunError


def test_one_rank_alone_leaves_no_port_to_the_processes_that_it_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in place:
        monkeypatch.delenv(name, raising=False)
    world = distributed.start("cpu")
    assert (world.rank, world.size) == (0, 1)
    assert not [name for name in place if name in os.environ]
    # A second run in the same process joins what the first one started.
    assert distributed.start("cpu").size == 1


def test_half_a_place_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(RunError, match=r"MASTER_PORT.* not; set all of them or none"):
        distributed.start("cpu")
