"""A model as 4M has it, two tables of codes and positions of its own, under every engine."""

import pytest
import torch

from pipeline.engine.build import build_engine
from pipeline.engine.distributed import World
from pipeline.stage2.model import MaskedTransformer
from tests.engine.tiny import make_config
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
