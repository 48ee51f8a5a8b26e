"""The trivial guess of tokens: how often each code occurs in the training samples.

Shapes: V codes of one stream, P places that are counted apart.
"""

from collections.abc import Iterable

import numpy as np

from pipeline.stage2.layout import Layout
from pipeline.stage2.samples import Content


def prior_scores(
    layout: Layout, train: Iterable[Content], held_out: Iterable[Content]
) -> dict[str, dict[str, float]]:
    """{target: {ce, accuracy}} of guessing by frequency alone, each code counted once more than seen.

    Tokens of a set (a date, a place) have meanings of their own and are counted place by place.
    """
    counts = {}
    for i in layout.targets:
        stream = layout.streams[i]
        places = stream.num_positions if stream.kind == "set" else 1
        counts[i] = np.ones((places, stream.vocab_size))
    for content in train:
        for i, table in counts.items():
            if i in content.streams:
                np.add.at(table, _rows(table, content.streams[i]), 1)
    # Sums of cross-entropy, of right guesses, and of tokens.
    totals = {i: np.zeros(3) for i in counts}
    logs = {i: np.log(table / table.sum(1, keepdims=True)) for i, table in counts.items()}
    for content in held_out:
        for i, table in counts.items():
            if i in content.streams:
                places, codes = _rows(table, content.streams[i])
                right = table.argmax(1)[places] == codes
                totals[i] += [-logs[i][places, codes].sum(), right.sum(), len(codes)]
    return {
        layout.streams[i].part: {"ce": ce / n, "accuracy": right / n}
        for i, (ce, right, n) in totals.items()
        if n
    }


def _rows(table: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    places = np.arange(len(codes)) if len(table) > 1 else np.zeros(len(codes), dtype=np.int64)
    return places, codes
