"""Which samples a step consumed, by key and shard: for every step if asked, for skipped ones always.

RUN/samples/rank-000.jsonl              {"step", "positions": [first, last + 1], "keys"}
RUN/skipped/step-00000123-rank-000.json {"step", "samples": [{"position", "key", "shard"}]}
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.loader import Slice
from pipeline.data.order import Stream
from pipeline.engine.metrics import keep_until
from shards import SampleSet


class SampleLog:
    """One rank's record. Lines beyond the step of a resume or a rollback are dropped."""

    def __init__(self, out: Path, dataset: SampleSet, order: Stream, part: Slice):
        self._skipped, self._rank = out / "skipped", part.rank
        self._folder = out / "samples"
        self._dataset, self._order, self._part = dataset, order, part
        self._file: Any = None

    def open(self, step: int) -> None:
        """Start writing every step, behind `step`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # An earlier start may have had more ranks: their files are shared out over those of now.
        for path in self._folder.glob("rank-*.jsonl"):
            if int(path.stem[5:]) % self._part.world == self._rank:
                keep_until(path, step)
        self._file = (self._folder / f"rank-{self._rank:03d}.jsonl").open("a")

    def consumed(self, step: int, start: int) -> None:
        """The step that began at position `start` has been taken."""
        if self._file is None:
            return
        positions = np.concatenate(self._part.positions(start))
        keys = [self._dataset.locate(int(i))[0] for i in self._order.samples(positions)]
        line = {
            "step": step,
            "positions": [int(positions[0]), int(positions[-1]) + 1],
            "keys": keys,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def write_skipped(self, step: int, start: int) -> Path:
        """Keep this rank's samples of a step that was skipped; returns the file."""
        positions = np.concatenate(self._part.positions(start))
        indices = self._order.samples(positions)
        found = []
        for position, index in zip(positions.tolist(), indices.tolist(), strict=True):
            key, shard = self._dataset.locate(index)
            found.append({"position": position, "key": key, "shard": shard})
        self._skipped.mkdir(parents=True, exist_ok=True)
        # An earlier start may have had more ranks, and skipped this step as well.
        for old in self._skipped.glob(f"step-{step:08d}-rank-*.json"):
            if int(old.stem[-3:]) % self._part.world == self._rank:
                old.unlink()
        path = self._skipped / f"step-{step:08d}-rank-{self._rank:03d}.json"
        path.write_text(json.dumps({"step": step, "samples": found}, indent=1))
        return path

    def rewind(self, step: int) -> None:
        if self._file is not None:
            self._file.close()
            self.open(step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
