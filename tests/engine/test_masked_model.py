"""A model as 4M has it, two tables of codes and own positions, and one of dates, under every engine."""

import pytest
import torch

from pipeline.engine.build import build_engine
from pipeline.engine.distributed import World
from pipeline.stage2.model import MaskedTransformer
from tests.engine.tiny import make_config
from tests.pipeline import dated
from tests.pipeline.test_encoder import LAYOUT
from tests.pipeline.test_stage2_model import CONFIG, STYLES
from tests.pipeline.test_warm_start import batch_of

TARGETS = ("LULC@tok", "captions@tok", "LULC@tok")


def losses(world: World, **settings: object) -> list[float]:
    torch.manual_seed(0)
    model = MaskedTransformer(LAYOUT, CONFIG.model_copy(update=STYLES["terramind"]))
    engine = build_engine(model, make_config(global_batch=3, **settings), world, 1)
    found = []
    for target in TARGETS:
        found.append(engine.forward_backward(batch_of(LAYOUT, target)).loss.get())
        assert engine.step(1.0).applied
    assert {p.name for p in engine.pieces(owned=False)} >= {"buffers/positions.table"}
    return found


@pytest.mark.parametrize("stage", [2, 3])
def test_partitioned_it_learns_the_same(world: World, stage: int):
    plain = losses(world, kind="plain")
    assert plain[2] < plain[0]
    assert losses(world, kind="deepspeed", zero_stage=stage) == pytest.approx(plain, rel=1e-5)


def losses_of_dates(world: World, **settings: object) -> list[float]:
    """Steps in which projection, codes and heads serve other dates than in the step before."""
    torch.manual_seed(0)
    model = MaskedTransformer(dated.LAYOUT, dated.CONFIG)
    engine = build_engine(model, make_config(global_batch=3, **settings), world, 1)
    found = []
    for sample in dated.MIXED:
        found.append(engine.forward_backward(dated.batch_of([sample] * 3)).loss.get())
        assert engine.step(1.0).applied
    return found


@pytest.mark.parametrize("stage", [2, 3])
def test_dates_that_share_what_is_learned_learn_it_partitioned_too(world: World, stage: int):
    plain = losses_of_dates(world, kind="plain")
    assert losses_of_dates(world, kind="deepspeed", zero_stage=stage) == pytest.approx(
        plain, rel=1e-5
    )
