"""A model of 49 weights, its batches and its configuration."""

from typing import Any

import torch
from torch import Tensor, nn

from configs.schema import EngineConfig
from pipeline.data.loader import Batch
from pipeline.engine.base import Engine, StepInfo
from pipeline.engine.build import build_engine
from pipeline.engine.distributed import World
from pipeline.engine.objective import StepOutput

BATCH = 4
ENGINES: dict[str, dict[str, Any]] = {
    "plain": {"kind": "plain"},
    **{f"zero-{n}": {"kind": "deepspeed", "zero_stage": n} for n in range(4)},
}


class Line(nn.Module):
    """Squared error of a small network; `embed` and the biases are not decayed."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.ones(1, 4))
        self.fc1 = nn.Linear(4, 6)
        self.fc2 = nn.Linear(6, 1)
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, batch: Batch, evaluate: bool = False) -> StepOutput:
        x = batch["x"].to(self.fc1.weight.dtype) + self.embed
        y = self.fc2(torch.tanh(self.fc1(x))).squeeze(-1)
        loss = (y.float() - batch["y"]) ** 2
        return StepOutput(loss, {"count": torch.tensor(float(len(loss)))})


def make_model() -> Line:
    torch.manual_seed(0)
    return Line()


def make_batches(num: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "x": torch.randn(BATCH, 4, generator=generator),
            "y": torch.randn(BATCH, generator=generator),
        }
        for _ in range(num)
    ]


def spoilt(batch: Batch) -> Batch:
    return {**batch, "y": batch["y"] * torch.nan}


def make_config(**changes: Any) -> EngineConfig:
    given = {"kind": "plain", "num_steps": 10, "global_batch": BATCH, **changes}
    return EngineConfig.model_validate(given)


def make_engine(world: World, num_micro: int = 1, **changes: Any) -> Engine:
    return build_engine(make_model(), make_config(**changes), world, num_micro)


def take(engine: Engine, batch: Batch, num_micro: int = 1, **how: Any) -> StepInfo:
    """One step on a batch in as many equal parts as are asked for."""
    for part in range(num_micro):
        rows = slice(part * BATCH // num_micro, (part + 1) * BATCH // num_micro)
        engine.forward_backward({name: value[rows] for name, value in batch.items()})
    return engine.step(1.0, **how)


def state(engine: Engine) -> dict[str, Tensor]:
    """A copy of all that a commit would hold."""
    return {p.name: p.tensor.detach().clone() for p in engine.pieces(owned=False)}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names whose bits are not the same."""
    return sorted(
        n for n in a.keys() | b.keys() if n not in a or n not in b or not torch.equal(a[n], b[n])
    )
