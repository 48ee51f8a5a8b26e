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
        self._num, self._drawing = num, drawing
        self._first, self._any = _streams(config.of, layout), layout.inputs
        self._modality = [s.modality for s in layout.streams]
        self._targets = target_shares(config, layout)

    def __call__(self, rng: np.random.Generator, present: Present) -> Selection:
        readable = present.readable
        seen = [0] * len(readable)
        choices = [i for i in self._first if readable[i]] or [i for i in self._any if readable[i]]
        for _ in range(self._num):
            if not choices:
                break
            chosen = choices[int(rng.random() * len(choices))]
            seen[chosen] = readable[chosen]
            # Not the pixels of what is seen as tokens.
            known = {self._modality[i] for i, n in enumerate(seen) if n}
            choices = [i for i in self._any if readable[i] and self._modality[i] not in known]
        return self._drawing(rng, Present(present.available, seen), proportional, self._targets)


def _streams(of: str | Collection[str], layout: Layout) -> tuple[int, ...]:
    if of == "pixels":
        return layout.pixels
    if of == "any":
        return layout.inputs
    streams = {i: layout.streams[i] for i in layout.inputs}
    if of == "metadata":
        return tuple(i for i, s in streams.items() if s.kind == "set")
    return tuple(i for i, s in streams.items() if {s.modality, s.part, s.name} & {*of})
