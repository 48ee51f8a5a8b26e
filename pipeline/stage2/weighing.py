"""How much each target token counts in the loss of its sample."""

from collections.abc import Callable

from configs.schema import MaskedConfig
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking import Selection


def by_modality(selection: Selection) -> dict[int, float]:
    """Weights of the target tokens per stream: their mean in each, and of these the mean."""
    share = 1 / max(1, len(selection.targets))
    return {i: share / len(places) for i, places in selection.targets.items()}


def weighing(config: MaskedConfig, layout: Layout) -> Callable[[Selection], dict[int, float]]:
    """How a configuration weighs target tokens: by modality or all alike, times its `loss_weights`."""
    factors = [config.loss_weights.get(s.modality, 1.0) for s in layout.streams]

    def weigh(selection: Selection) -> dict[int, float]:
        if config.loss == "token":
            total = sum(map(len, selection.targets.values()))
            weights = dict.fromkeys(selection.targets, 1 / max(1, total))
        else:
            weights = by_modality(selection)
        return {i: w * factors[i] for i, w in weights.items()}

    return weigh
