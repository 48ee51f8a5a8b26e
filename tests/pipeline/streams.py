"""What all ranks of a run see of a stream."""

import itertools
from typing import Any

from pipeline.data.loader import Loader, Slice
from pipeline.data.order import Stream


def take(
    stream: Stream,
    world: int,
    batch: int,
    steps: int,
    *,
    cursor: int = 0,
    readers: int = 1,
    left_out: tuple[tuple[int, int], ...] = (),
) -> list[tuple[int, Any]]:
    """Step by step, through real loaders: (sample, its random number) in stream order."""
    loaders = [
        Loader(
            stream,
            sample=lambda index, rng, _: (index, rng.random()),
            collate=lambda samples: samples,  # type: ignore[arg-type, return-value]
            part=Slice(batch, 0, rank, world),
            cursor=cursor,
            left_out=left_out,
            readers=readers,
        )
        for rank in range(world)
    ]
    try:
        return [
            sample
            for step in itertools.islice(zip(*loaders, strict=True), steps)
            for micro_batches in step
            for batch_ in micro_batches
            for sample in batch_
        ]
    finally:
        for loader in loaders:
            loader.close()
