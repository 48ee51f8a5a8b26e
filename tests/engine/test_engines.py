"""What a step does under every engine, in one process: to the last bit where nothing may differ."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.data.loader import Batch
from pipeline.engine import generators
from pipeline.engine.base import Engine
from pipeline.engine.build import build_engine
from pipeline.engine.checkpoint import CheckpointStore, Commit
from pipeline.engine.distributed import World
from pipeline.engine.errors import CheckpointError
from pipeline.engine.objective import StepOutput
from pipeline.engine.resume import restore
from tests.engine.tiny import (
    BATCH,
    ENGINES,
    Line,
    differing,
    make_batches,
    make_config,
    make_engine,
    make_model,
    spoilt,
    state,
    take,
)

NVME = {"optimizer": "nvme", "nvme_path": "/tmp"}
EXACT: dict[str, dict[str, Any]] = {
    **ENGINES,
    "offload-2": {"kind": "deepspeed", "zero_stage": 2, "offload": {"optimizer": "cpu"}},
    "offload-3": {"kind": "deepspeed", "zero_stage": 3, "offload": {"optimizer": "cpu"}},
    "nvme-2": {"kind": "deepspeed", "zero_stage": 2, "offload": NVME},
    "nvme-3": {"kind": "deepspeed", "zero_stage": 3, "offload": NVME},
}
BF16: dict[str, dict[str, Any]] = {
    f"bf16-{name}": settings | {"precision": "bf16"}
    for name, settings in EXACT.items()
    if name != "zero-0"
}
ALL = EXACT | BF16


@pytest.fixture(params=ALL)
def settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return ALL[request.param]


def reference(num: int, factor: float, clip: float) -> nn.Module:
    """The tiny model after steps of torch's own AdamW, written out."""
    model, config = make_model(), make_config().optimizer
    decayed = [model.fc1.weight, model.fc2.weight]
    others = [model.embed, model.fc1.bias, model.fc2.bias]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.lr * factor,
        betas=config.betas,
        eps=config.eps,
    )
    for batch in make_batches(num):
        optimizer.zero_grad()
        model(batch).loss.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return model


@pytest.mark.parametrize("name", EXACT)
def test_steps_are_those_of_torchs_adamw(world: World, name: str):
    engine = make_engine(world, optimizer={"clip_grad_norm": 0.3}, **EXACT[name])
    for batch in make_batches(4):
        engine.forward_backward(batch)
        assert engine.step(0.5).applied
    found = copied(engine)
    for key, expected in reference(4, 0.5, 0.3).named_parameters():
        torch.testing.assert_close(found[key], expected.detach(), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_the_norm_is_that_of_the_gradient_before_clipping(world: World, name: str):
    batch, model = make_batches(1)[0], make_model()
    model(batch).loss.mean().backward()
    expected = torch.cat(
        [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    ).norm()
    engine = make_engine(world, optimizer={"clip_grad_norm": 0.01}, **EXACT[name])
    assert take(engine, batch).grad_norm == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", EXACT)
def test_the_loss_is_the_sum_over_the_samples_of_the_micro_batch(world: World, name: str):
    batch = make_batches(1)[0]
    forward = make_engine(world, **EXACT[name]).forward_backward(batch)
    assert forward.loss.get() == pytest.approx(float(make_model()(batch).loss.sum().detach()))
    assert float(forward.sums["count"]) == BATCH


@pytest.mark.parametrize("name", EXACT)
def test_micro_batches_equal_one_batch(world: World, name: str):
    once = make_engine(world, **EXACT[name])
    parts = make_engine(world, num_micro=2, **EXACT[name])
    for batch in make_batches(3):
        take(once, batch)
        take(parts, batch, num_micro=2)
    for key, expected in state(once).items():
        torch.testing.assert_close(state(parts)[key], expected, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("num_micro", [1, 2])
def test_a_step_that_is_not_applied_leaves_nothing_behind(
    world: World, settings: dict[str, Any], num_micro: int
):
    first, bad, *rest = make_batches(5)
    harms: tuple[tuple[Any, dict[str, Any]], ...] = (
        (bad, {"skip": True}),
        (bad, {"max_norm": 1e-6}),
        (spoilt(bad), {}),
    )
    disturbed = make_engine(world, num_micro, ema_decay=0.9, **settings)
    calm = make_engine(world, num_micro, ema_decay=0.9, **settings)
    take(calm, first, num_micro)
    take(disturbed, first, num_micro)
    for batch, (harm, how) in zip(rest, harms, strict=True):
        before = state(disturbed)
        assert not take(disturbed, harm, num_micro, **how).applied
        assert not differing(before, state(disturbed))
        assert take(disturbed, batch, num_micro).applied
        take(calm, batch, num_micro)
        assert not differing(state(calm), state(disturbed))


def test_a_norm_within_the_limit_is_let_through(world: World, settings: dict[str, Any]):
    engine, batch = make_engine(world, **settings), make_batches(1)[0]
    norm = take(make_engine(world, **settings), batch).grad_norm
    assert take(engine, batch, max_norm=norm * 1.01).applied


def test_muons_momentum_does_not_learn_from_a_dropped_step(world: World):
    muon = {"kind": "deepspeed", "zero_stage": 3, "optimizer": {"name": "muon"}}
    first, bad = make_batches(2)
    with torch.compiler.set_stance("force_eager"):
        engine = make_engine(world, **muon)
        take(engine, first)
        before = state(engine)
        assert any(name.startswith("momentum_buffer/") for name in before)
        assert not take(engine, bad, skip=True).applied
        assert not take(engine, spoilt(bad)).applied
    assert not differing(before, state(engine))


@pytest.mark.parametrize("name", [*EXACT, "bf16-zero-1", "bf16-zero-2", "bf16-zero-3"])
def test_the_average_follows_its_formula_and_changes_places_and_back(world: World, name: str):
    engine, decay = make_engine(world, ema_decay=0.8, **ALL[name]), 0.8
    expected: dict[str, torch.Tensor] = {}
    for batch in make_batches(4):
        take(engine, batch)
        for key, value in state(engine).items():
            kind, parameter = key.split("/", 1)
            if kind == "weights":
                old = expected.get(parameter, value)
                expected[parameter] = decay * old + (1 - decay) * value
    before, weights = state(engine), copied(engine)
    for parameter, value in expected.items():
        torch.testing.assert_close(before[f"average/{parameter}"], value, atol=1e-7, rtol=1e-5)
    with engine.averaged():
        averaged = copied(engine)
    for parameter, value in averaged.items():
        wanted = expected[parameter].to(value.dtype).view_as(value)
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-2)
    assert len(differing(weights, averaged)) == len(weights)
    assert not differing(before, state(engine))
    assert not differing(weights, copied(engine))


def copied(engine: Engine) -> dict[str, torch.Tensor]:
    """The weights that the model computes with."""
    with engine.whole_model():
        return {n: p.detach().clone() for n, p in engine.model.named_parameters()}


def commit(engine: Engine, world: World, folder: Path, step: int = 0) -> tuple[Path, Commit]:
    store = CheckpointStore(folder, world, keep_last=9)
    pieces = [*engine.pieces(owned=True), *generators.pieces(world)]
    store.begin(Commit(step, 0, world.size, {}, {}, scalars=engine.scalars()), pieces)
    store.finish()
    found = store.latest()
    assert found is not None
    return found


def test_a_run_goes_on_from_a_commit_as_if_never_stopped(
    world: World, settings: dict[str, Any], tmp_path: Path
):
    batches = make_batches(6)
    engine = make_engine(world, ema_decay=0.9, **settings)
    for batch in batches[:3]:
        take(engine, batch)
    folder, held = commit(engine, world, tmp_path)
    started = make_engine(world, ema_decay=0.9, **settings)
    restore(started, folder, held, world, seed=0)
    assert not differing(state(engine), state(started))
    for batch in batches[3:]:
        take(engine, batch)
        take(started, batch)
    assert not differing(state(engine), state(started))


@pytest.mark.parametrize("after", ["plain", "zero-0", "zero-2", "zero-3"])
@pytest.mark.parametrize("before", ["plain", "zero-1", "zero-3"])
def test_any_engine_goes_on_from_the_commit_of_any_other(
    world: World, tmp_path: Path, before: str, after: str
):
    engine = make_engine(world, ema_decay=0.9, **EXACT[before])
    for batch in make_batches(2):
        take(engine, batch)
    folder, held = commit(engine, world, tmp_path)
    started = make_engine(world, ema_decay=0.9, **EXACT[after])
    restore(started, folder, held, world, seed=0)
    assert not differing(state(engine), state(started))
    last = make_batches(3)[2]
    take(engine, last)
    take(started, last)
    for key, expected in state(engine).items():
        torch.testing.assert_close(state(started)[key], expected, atol=1e-7, rtol=1e-5)


def test_a_run_goes_back_to_its_very_first_commit(
    world: World, settings: dict[str, Any], tmp_path: Path
):
    engine = make_engine(world, ema_decay=0.9, **settings)
    folder, held = commit(engine, world, tmp_path)
    ends = []
    for _ in range(2):
        for batch in make_batches(3):
            take(engine, batch)
        ends.append(state(engine))
        restore(engine, folder, held, world, seed=0)
    assert not differing(*ends)


def test_single_numbers_among_the_weights_keep_a_state_each(world: World, tmp_path: Path):
    class Shifted(Line):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(0.5))
            self.shift = nn.Parameter(torch.tensor(-3.0))

        def forward(self, batch: Batch, evaluate: bool = False) -> StepOutput:
            return super().forward({**batch, "x": batch["x"] * self.gain + self.shift})

    def make() -> Engine:
        torch.manual_seed(0)
        return build_engine(Shifted(), make_config(), world, 1)

    batches, engine, started = make_batches(4), make(), make()
    for batch in batches[:3]:
        take(engine, batch)
    restore(started, *commit(engine, world, tmp_path), world, seed=0)
    take(engine, batches[3])
    take(started, batches[3])
    assert not differing(state(engine), state(started))


def test_the_weights_of_another_model_are_refused(world: World, tmp_path: Path):
    engine = make_engine(world)
    folder, held = commit(engine, world, tmp_path)
    other = make_engine(world)
    other.model.register_buffer("more", torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"lacks buffers/more: it is of another model"):
        restore(other, folder, held, world, seed=0)
