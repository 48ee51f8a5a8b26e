"""A tokenizer with a critic and a codebook: two engines that step, learn and commit as one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.registry import BandStatistics, modality
from configs.schema import TokenizerConfig
from pipeline.data.loader import Batch
from pipeline.engine import generators
from pipeline.engine.absorb import learn
from pipeline.engine.base import Engine, StepInfo
from pipeline.engine.build import build_engine, build_engines
from pipeline.engine.checkpoint import CheckpointStore, Commit
from pipeline.engine.distributed import World
from pipeline.engine.objective import Critic
from pipeline.engine.resume import restore
from pipeline.stage1.tokenizer import Teaching, Tokenizer
from tests.engine.tiny import BATCH, ENGINES, differing, make_config, state

SIZE = 8
KINDS: dict[str, dict[str, Any]] = {
    **ENGINES,
    "bf16-2": {"kind": "deepspeed", "zero_stage": 2, "precision": "bf16"},
}


class Objective:
    """As much of one as engines are built from."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        config = TokenizerConfig.model_validate(
            {
                "patch_px": 4, "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1,
                "quantizer": "vq", "vq": {"num_codes": 16, "latent_width": 4},
                "decoder": "gan", "gan": {"width": 8, "depth": 1, "start_step": 1, "lecam": 0.1, "r1": 0.1},
            }
        )  # fmt: skip
        row, statistics = modality("S1RTC"), BandStatistics((0.0, 0.0), (1.0, 1.0))
        self.model: Any = Tokenizer(row, config, SIZE, Teaching(statistics, BATCH))
        self.critic = Critic(self.model.critic, 0.5)


def make(world: World, num_micro: int = 1, **settings: Any) -> Engine:
    objective: Any = Objective()
    return build_engines(objective, make_config(**settings), world, num_micro)


def make_batches(num: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "x": torch.randn(BATCH, 2, SIZE, SIZE, generator=generator),
            "valid": torch.rand(BATCH, SIZE, SIZE, generator=generator) > 0.1,
            "seed": torch.randint(1 << 40, (BATCH,), generator=generator),
        }
        for _ in range(num)
    ]


def take(engine: Engine, batch: Batch, world: World, num_micro: int = 1, **how: Any) -> StepInfo:
    outputs = []
    for part in range(num_micro):
        rows = slice(part * BATCH // num_micro, (part + 1) * BATCH // num_micro)
        outputs.append(engine.forward_backward({name: v[rows] for name, v in batch.items()}))
    info = engine.step(1.0, **how)
    if info.applied:
        learn(engine, outputs, world)
    return info


@pytest.mark.parametrize("name", KINDS)
def test_both_go_on_from_a_commit_as_if_never_stopped(world: World, tmp_path: Path, name: str):
    batches, engine = make_batches(5), make(world, **KINDS[name])
    for batch in batches[:3]:
        take(engine, batch, world)
    store = CheckpointStore(tmp_path, world, keep_last=2)
    pieces = [*engine.pieces(owned=True), *generators.pieces(world)]
    store.begin(Commit(3, 0, 1, {}, {}, scalars=engine.scalars()), pieces)
    store.finish()
    found = store.latest()
    assert found is not None
    started = make(world, **KINDS[name])
    restore(started, *found, world, seed=0)
    assert not differing(state(engine), state(started))
    for batch in batches[3:]:
        take(engine, batch, world)
        take(started, batch, world)
    assert not differing(state(engine), state(started))
    names = state(engine).keys()
    assert {"weights/critic.net.first.weight", "exp_avg/critic.net.first.weight"} <= names
    assert {"buffers/quantizer.codebook", "buffers/critic.means"} <= names


@pytest.mark.parametrize("name", KINDS)
def test_a_step_that_is_not_applied_changes_neither(world: World, name: str):
    first, bad, last = make_batches(3)
    calm, disturbed = make(world, **KINDS[name]), make(world, **KINDS[name])
    for engine in (calm, disturbed):
        take(engine, first, world)
    before = state(disturbed)
    spoilt = {**bad, "x": bad["x"] * torch.nan}
    assert not take(disturbed, spoilt, world).applied
    assert not take(disturbed, bad, world, skip=True).applied
    assert not differing(before, state(disturbed))
    for engine in (calm, disturbed):
        assert take(engine, last, world).applied
    assert not differing(state(calm), state(disturbed))


@pytest.mark.parametrize("name", [k for k in KINDS if k != "bf16-2"])
def test_engines_agree_and_so_do_micro_batches(world: World, name: str):
    reference, found = make(world, kind="plain"), make(world, num_micro=2, **KINDS[name])
    for batch in make_batches(4):
        take(reference, batch, world)
        take(found, batch, world, num_micro=2)
    ours = state(found)
    for key, expected in state(reference).items():
        torch.testing.assert_close(ours[key], expected, atol=2e-6, rtol=1e-4, msg=key)


def test_the_critic_has_no_gradient_from_the_model_and_a_rate_of_its_own(world: World):
    objective: Any = Objective()
    before = [p.detach().clone() for p in objective.critic.model.parameters()]
    alone = build_engine(objective.model, make_config(), world, 1)
    output = alone.forward_backward(make_batches(1)[0])
    alone.step(1.0)
    assert all(p.grad is None for p in objective.critic.model.parameters())
    pair = make(world)
    take(pair, make_batches(1)[0], world)
    weights = state(pair)
    moved = [
        float((weights[f"weights/critic.{n}"].view_as(b) - b).abs().max())
        for (n, _), b in zip(objective.critic.model.named_parameters(), before, strict=True)
    ]
    # AdamW's first step is as long as its rate.
    assert max(moved) == pytest.approx(0.5e-3, rel=0.1)
    assert set(output.judged) == {"shown", "made"}
    assert not any(isinstance(v, Tensor) and v.requires_grad for v in output.judged.values())
