"""Configuration -> strategies."""

from functools import partial

from configs.schema import (
    BlockMasking,
    DirichletMasking,
    MaskedConfig,
    MaskingConfig,
    NothingMasking,
    RandomMasking,
    SingleMasking,
    WholeMasking,
)
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking.block import draw_blocks
from pipeline.stage2.masking.dirichlet import Dirichlet
from pipeline.stage2.masking.drawing import Drawing
from pipeline.stage2.masking.dropout import ModalityDropout
from pipeline.stage2.masking.hiding import Hiding
from pipeline.stage2.masking.mixture import Mixture
from pipeline.stage2.masking.nothing import Nothing
from pipeline.stage2.masking.selection import Strategy
from pipeline.stage2.masking.tube import draw_places
from pipeline.stage2.masking.uniform import Random
from pipeline.stage2.masking.whole import Whole


def build_masking(config: MaskedConfig, layout: Layout) -> Mixture:
    """The strategies of `masked.masking`, with the budgets of `masked`.

    Raises ConfigError for strategies that need maps where there are none.
    """
    drawing = Drawing(layout, config.num_input_tokens, config.num_target_tokens)
    strategies = [_build(entry, layout, drawing) for entry in config.masking]
    return Mixture(layout, strategies, [entry.weight for entry in config.masking])


def _build(config: MaskingConfig, layout: Layout, drawing: Drawing) -> Strategy:
    strategy: Strategy
    if isinstance(config, DirichletMasking):
        strategy = Dirichlet(config, layout, drawing)
    elif isinstance(config, RandomMasking):
        strategy = Random(drawing)
    elif isinstance(config, BlockMasking):
        blocks = partial(draw_blocks, share=config.share, num_blocks=config.num_blocks)
        strategy = Hiding(config, layout, drawing, blocks)
    elif isinstance(config, SingleMasking):
        strategy = Whole(config, 1, layout, drawing)
    elif isinstance(config, WholeMasking):
        strategy = Whole(config, config.num, layout, drawing)
    elif isinstance(config, NothingMasking):
        strategy = Nothing(config, layout, drawing)
    else:
        strategy = Hiding(config, layout, drawing, partial(draw_places, share=config.share))
    if config.modality_dropout:
        strategy = ModalityDropout(strategy, layout, config.modality_dropout)
    return strategy
