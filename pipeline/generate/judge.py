"""Scores of one target over samples, of the model and of those that it is compared with."""

from collections.abc import Sequence

import numpy as np

from pipeline.generate.climatology import BOTH, Climatology, Whereabouts
from pipeline.generate.decode import Value
from pipeline.generate.scores import MapScore, constant_guess
from pipeline.generate.trained import Trained
from pipeline.stage2.samples import SampleReader

WAYS = ("model", "baseline", "climatology", "tokens")


class Judge:
    """Scores of one target, of the model and of those that it is compared with: in some of the `WAYS`."""

    def __init__(
        self,
        trained: Trained,
        reader: SampleReader,
        whereabouts: Whereabouts,
        name: str,
        stream: int,
        view: int,
        ways: Sequence[str] = WAYS,
    ):
        dataset = reader.dataset
        self._reader, self._decoder, self._name = reader, trained.decoder(name), name
        self._stream, self._view, self._ways = stream, view, ways
        self._reads = trained.reads(dataset, name)
        self._row = row = dataset.modalities[name]
        self._guess, self.baseline = constant_guess(
            row, dataset.statistics.get(name), dataset.class_counts.get(name)
        )
        self._climatology = Climatology(reader, whereabouts, name, view)
        self.ways: dict[str, MapScore] = {}
        self.reset()

    def reset(self) -> None:
        """Forget what was added, and keep what was learned of places and seasons."""
        self.ways = {w: MapScore(self._row) for w in self._ways}

    def add(
        self,
        ids: list[int],
        made: list[Value],
        truths: list[Value | None],
        by: slice | None = BOTH,
    ) -> None:
        """Count generated maps of these samples where their truth is there.

        Climatology goes `by` place and season, or by one of them; by nothing it is the baseline.
        """
        held = [n for n, truth in enumerate(truths) if truth is not None]
        if not held:
            return
        best: Sequence[Value | None] = [None] * len(held)
        if "tokens" in self._ways:
            best = self._decoder([self._tokens(ids[n], truths[n]) for n in held])
        for n, restored in zip(held, best, strict=True):
            truth = np.asarray(truths[n])
            usual = None if by is None else self._climatology.guess(ids[n], by)
            guesses = {
                "model": made[n],
                "baseline": self._guess,
                "climatology": self._guess if usual is None else usual,
                "tokens": restored,
            }
            for way, score in self.ways.items():
                score.add(np.broadcast_to(np.asarray(guesses[way]), truth.shape), truth)

    def _tokens(self, index: int, truth: Value | None) -> np.ndarray:
        """The codes of a truth, as the data set has them, or made now where it has none of the model's."""
        if self._reads:
            only = self._reader.content(index, self._view, only=[self._stream])
            return only.streams[self._stream]
        assert truth is not None
        return self._decoder.encode(truth)
