"""Cross-entropy and accuracy of every token of a target, given a set of inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pipeline.engine.distributed import to_device
from pipeline.evaluate.inputs import InputSet, give
from pipeline.evaluate.subject import Subject
from pipeline.stage2.samples import Content, collate

Scores = dict[str, dict[str, dict[str, float]]]


@torch.no_grad()
def score_tokens(
    subject: Subject,
    contents: Sequence[tuple[int, Content]],
    sets: list[InputSet],
    num_tokens: int,
    batch_size: int,
    seed: int,
    progress: Callable[[str], Any],
) -> Scores:
    """{input set: {target: {ce, accuracy, num_samples, num_tokens}}}.

    `contents` are sample numbers and what they have. A sample counts where it has the target and at
    least one token of the set; a target for which no sample does has no entry.
    """
    layout, device = subject.layout, subject.device
    found: Scores = {}
    for given in sets:
        found[given.name] = {}
        progress(given.name)
        for target in layout.targets:
            stream = layout.streams[target]
            streams = given.streams(layout, stream.part)
            usable = [
                (i, c) for i, c in contents if target in c.streams and c.streams.keys() & {*streams}
            ]
            if not usable:
                continue
            totals = np.zeros(3)
            for start in range(0, len(usable), batch_size):
                samples = [
                    # The same for every model that takes the same streams.
                    give(c, layout, streams, num_tokens, np.random.default_rng([seed, i]), target)
                    for i, c in usable[start : start + batch_size]
                ]
                batch = collate(samples, layout, num_tokens, stream.num_positions)
                sums = subject.model(to_device(batch, device), evaluate=True).sums
                totals += [float(sums[f"{k}/{stream.name}"]) for k in ("ce", "right", "tokens")]
            ce, right, count = totals
            found[given.name][stream.part] = {
                "ce": ce / count,
                "accuracy": right / count,
                "num_samples": len(usable),
                "num_tokens": int(count),
            }
    return found
