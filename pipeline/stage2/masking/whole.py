"""Few modalities are seen, each as a whole; everything else may be asked for.

One is "rgb to all" of 4M. Two are what a model meets in generation: two sources, or a source and a map that
it has just made of it.
"""

from collections.abc import Collection

import numpy as np

from configs.schema import SingleMasking, WholeMasking
from pipeline.data.budget import proportional
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking.dirichlet import target_shares
from pipeline.stage2.masking.drawing import Drawing
from pipeline.stage2.masking.selection import Present, Selection


class Whole:
    """Streams of `num` modalities, drawn from those that are present: the first of some, others of any."""

    def __init__(
        self, config: SingleMasking | WholeMasking, num: int, layout: Layout, drawing: Drawing
    ):
        self._drawing, self._any = drawing, layout.inputs
        self._turns = (_streams(config.of, layout), *[layout.inputs] * (num - 1))
        self._modality = [s.modality for s in layout.streams]
        self._targets = target_shares(config, layout)

    def __call__(self, rng: np.random.Generator, present: Present) -> Selection:
        readable, modality = present.readable, self._modality
        seen = [0] * len(readable)
        # A modality in one form only: not the pixels of what is seen as tokens.
        known: list[str] = []
        for turn in self._turns:
            choices = [i for i in turn if readable[i] and modality[i] not in known]
            if not choices:
                choices = [i for i in self._any if readable[i] and modality[i] not in known]
            if not choices:
                break
            chosen = choices[int(rng.random() * len(choices))]
            seen[chosen] = readable[chosen]
            known.append(modality[chosen])
        selection = self._drawing(
            rng, Present(present.available, seen), proportional, self._targets
        )
        others = [0 if s else n for n, s in zip(readable, seen, strict=True)]
        if selection.inputs or not any(others):
            return selection
        # The only token or text that can be asked for was to be seen: another modality is seen instead.
        return self(rng, Present(present.available, others))


def _streams(of: str | Collection[str], layout: Layout) -> tuple[int, ...]:
    if of == "pixels":
        return layout.pixels
    if of == "any":
        return layout.inputs
    streams = {i: layout.streams[i] for i in layout.inputs}
    if of == "metadata":
        return tuple(i for i, s in streams.items() if s.kind == "set")
    return tuple(i for i, s in streams.items() if {s.modality, s.part, s.name} & {*of})
