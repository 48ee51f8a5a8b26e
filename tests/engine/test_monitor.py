"""When a monitor looks, and that training cannot tell whether it did."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from configs.schema import WatchConfig
from pipeline.engine.distributed import World
from pipeline.engine.heartbeat import Heartbeat
from pipeline.engine.metrics import read_metrics
from pipeline.engine.monitor import Monitoring
from pipeline.engine.reporter import Reporter
from tests.engine.team import alone, together
from tests.engine.tiny import differing, make_batches, make_config, make_engine, state, take


class Looker:
    """Remembers what it saw, draws random numbers, and fails where it is told to."""

    def __init__(self, every_steps: int, fails: str = ""):
        self.every_steps, self.fails = every_steps, fails
        self.weights: list[dict[str, Tensor]] = []
        self.steps: list[int] = []

    def take(self, model: nn.Module) -> None:
        if self.fails == "take":
            raise MemoryError("no room for a copy")
        self.weights.append({k: v.detach().clone() for k, v in model.state_dict().items()})

    def look(
        self, step: int, device: torch.device, progress: Callable[[], None]
    ) -> dict[str, float]:
        progress()
        torch.rand(3)
        if self.fails == "look":
            raise ZeroDivisionError("no sample")
        self.steps.append(step)
        return {"linear/LULC": 0.5}


def train(folder: Path, world: World, monitor: Looker | None, **changes: Any) -> dict[str, Tensor]:
    """Five steps and their final state."""
    engine = make_engine(world, **changes)
    config: Any = SimpleNamespace(out=folder, engine=make_config(wandb=""))
    reporter = Reporter(config, "run", cast(Any, None), world, 5)
    heartbeat = Heartbeat(folder, world.rank, world.size, WatchConfig())
    if world.is_main:
        reporter.open(0)
    monitoring = Monitoring(monitor, engine, world, heartbeat, reporter)
    for step, batch in enumerate(make_batches(5), 1):
        take(engine, batch)
        monitoring.at(step, last=step == 5)
    reporter.close()
    heartbeat.close()
    return state(engine)


def test_it_looks_every_few_steps_and_after_the_last(tmp_path: Path):
    looker = Looker(2)
    train(tmp_path, alone(), looker)
    assert looker.steps == [2, 4, 5]
    lines = [line for line in read_metrics(tmp_path) if "monitor" in line]
    assert [line["step"] for line in lines] == looker.steps
    assert lines[0]["monitor"]["linear/LULC"] == 0.5
    assert lines[0]["monitor"]["seconds"] > 0


@pytest.mark.parametrize("fails", ["", "take", "look"])
def test_weights_optimizer_and_random_numbers_are_as_without_it(tmp_path: Path, fails: str):
    ends = []
    for monitor in (None, Looker(1, fails)):
        torch.manual_seed(3)
        end = train(tmp_path, alone(), monitor, ema_decay=0.5)
        ends.append((end, torch.rand(1)))
    assert not differing(ends[0][0], ends[1][0])
    assert torch.equal(ends[0][1], ends[1][1])


def test_what_goes_wrong_is_told_with_its_step(tmp_path: Path):
    train(tmp_path, alone(), Looker(3, "look"))
    events = [line for line in read_metrics(tmp_path) if "event" in line]
    assert [line["step"] for line in events] == [3, 5]
    assert "nothing was seen at step 3: ZeroDivisionError('no sample')" in events[0]["text"]


def test_it_sees_averaged_weights_where_an_average_is_kept(tmp_path: Path):
    looker = Looker(5)
    end = train(tmp_path, alone(), looker, ema_decay=0.5)
    assert torch.equal(looker.weights[0]["fc1.weight"], end["average/fc1.weight"].view(6, 4))
    assert not torch.equal(end["average/fc1.weight"], end["weights/fc1.weight"])


def test_the_first_rank_looks_and_the_others_wait(tmp_path: Path):
    lookers = [Looker(2), Looker(2)]
    reached: list[tuple[int, int]] = []

    def run(world: World) -> None:
        looker = lookers[world.rank]
        config: Any = SimpleNamespace(out=tmp_path, engine=make_config())
        monitoring = Monitoring(
            looker, make_engine(alone()), world, Heartbeat(tmp_path, world.rank, 2, WatchConfig()),
            Reporter(config, "run", cast(Any, None), world, 2),
        )  # fmt: skip
        monitoring.at(2, last=False)
        reached.append((world.rank, len(lookers[0].steps)))

    together(2, run)
    assert lookers[0].steps == [2]
    assert not lookers[1].weights
    assert sorted(reached) == [(0, 1), (1, 1)]
