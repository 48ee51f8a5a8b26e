"""When a run may go on, and with which random numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.engine import generators
from pipeline.engine.checkpoint import Commit
from pipeline.engine.distributed import World
from pipeline.engine.errors import RunError
from pipeline.engine.resume import check_identity, differences, plain
from pipeline.engine.statefile import Snapshot, StateReader, file_name
from tests.engine.team import Member, Team

IDENTITY = {"model": {"width": 32, "levels": (4, 4)}, "seed": 0, "data": Path("shards")}


def committed(identity: dict[str, Any]) -> Commit:
    return Commit(1, 0, 1, identity, {})


def test_an_identity_equals_itself_after_a_commit():
    once = plain(IDENTITY)
    assert once == plain(once) == {
        "data": "shards", "model": {"levels": [4, 4], "width": 32}, "seed": 0,
    }  # fmt: skip
    assert differences(once, plain(IDENTITY)) == []


def test_differences_are_named_by_their_place_and_both_values():
    before = {"model": {"width": 32, "heads": 2}, "seed": 0, "gone": 1}
    now = {"model": {"width": 48, "heads": 2}, "seed": 0, "new": "x"}
    assert differences(before, now) == [
        "gone was 1 and is None",
        "model.width was 32 and is 48",
        "new was None and is 'x'",
    ]


def test_a_section_that_became_a_value_is_a_difference():
    assert differences({"model": {"width": 1}}, {"model": None}) == [
        "model was {'width': 1} and is None"
    ]


def test_another_model_or_order_is_refused_with_the_ways_out():
    with pytest.raises(RunError, match=r"seed was 0 and is 1.*out=ANOTHER_FOLDER.*allow_changes"):
        check_identity(Path("c"), committed({"seed": 0}), {"seed": 1}, allow=False)


def test_changes_that_are_allowed_are_told():
    found = check_identity(Path("c"), committed({"seed": 0}), {"seed": 1}, allow=True)
    assert found == ["seed was 0 and is 1"]
    assert check_identity(Path("c"), committed({"seed": 1}), {"seed": 1}, allow=False) == []


def rank(number: int, size: int = 2) -> World:
    return Member(number, size, number, torch.device("cpu"), Team(size))


def draws() -> list[float]:
    return torch.rand(5).tolist()


@pytest.fixture(autouse=True)
def _own_random_numbers():
    with torch.random.fork_rng([]):
        yield


def test_ranks_steps_and_seeds_have_random_numbers_of_their_own():
    found = []
    for number, seed, step in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        generators.start(rank(number), seed, step)
        found.append(tuple(draws()))
    assert len(set(found)) == 4
    generators.start(rank(0), 0)
    assert tuple(draws()) == found[0]


@pytest.fixture
def reader(tmp_path: Path) -> StateReader:
    """A commit by two ranks, in the middle of their random numbers."""
    for number in range(2):
        generators.start(rank(number), seed=3)
        torch.rand(7 + number)
        snapshot = Snapshot()
        snapshot.take(list(generators.pieces(rank(number))))
        snapshot.write(tmp_path / file_name(number))
    return StateReader(tmp_path, 2)


@pytest.mark.parametrize("number", [0, 1])
def test_as_many_ranks_go_on_with_their_random_numbers(reader: StateReader, number: int):
    generators.start(rank(number), seed=3)
    torch.rand(7 + number)
    expected = draws()
    torch.manual_seed(np.random.default_rng().integers(1 << 30))
    generators.restore(reader, rank(number), seed=3, step=5, saved_ranks=2)
    assert draws() == expected


def test_another_number_of_ranks_gets_fresh_ones_for_the_step(reader: StateReader):
    found = []
    for number in range(3):
        generators.restore(reader, rank(number, 3), seed=3, step=5, saved_ranks=2)
        found.append(draws())
    generators.start(rank(2, 3), seed=3, step=5)
    assert draws() == found[2]
    assert found[0] != found[1]
