"""What codes look like on average, for estimates of least error.

A decoder makes a sharp map of codes that are certain. Of codes that are merely likely it makes a map of
something in between, which is nobody's mean: the network is not linear. The mean of what each code stood
for in training samples is linear in probabilities: a guess that knows nothing becomes the training mean, of
classes the most frequent one. The two are mixed token by token, by how likely the likeliest code is.
"""

from typing import Self

import numpy as np
import torch

from configs.schema import Modality
from pipeline.data.transforms import measured_pixels
from pipeline.engine.evaluation import spread
from pipeline.stage2.samples import SampleReader

NUM_TRAINING = 512


class Readout:
    """Of one token stream of a map modality: `table` [V, C p p] for V codes, C bands or classes, p pixels."""

    def __init__(self, row: Modality, grid: tuple[int, int], table: torch.Tensor):
        self._row, self._grid, self.table = row, grid, table

    @classmethod
    def of(cls, reader: SampleReader, stream: int, view: int, split: str = "train") -> Self | None:
        """From training samples; None where none has the modality and its tokens."""
        token = reader.layout.streams[stream]
        assert token.grid is not None
        row = reader.dataset.modalities[token.part]
        found = cls(row, token.grid, torch.zeros(0))
        sums = counts = found.table
        indices = reader.dataset.select(split=split, require=[token.part])
        for index in spread(indices, NUM_TRAINING).tolist():
            codes = reader.content(index, view, only=[stream]).streams.get(stream)
            value = reader.dataset.read(index, [token.part]).get(token.part)
            if codes is None or not isinstance(value, np.ndarray):
                continue
            window = reader.window(token.part, value, view)
            shape = found._channels, *window.shape[1:]
            measured = np.broadcast_to(measured_pixels(window, row), shape)
            values = found._cut(np.where(measured, found._linear(window), 0.0))
            if not len(sums):
                sums, counts = torch.zeros(2, token.vocab_size, values.shape[1])
            where = torch.from_numpy(codes)
            sums.index_add_(0, where, values)
            counts.index_add_(0, where, found._cut(measured))
        if not len(sums):
            return None
        # Each code was also seen once as the mean of all: rare ones are not trusted far.
        mean = sums.sum(0) / counts.sum(0).clamp(min=1)
        found.table = (sums + mean) / (counts + 1)
        return found

    def mix(self, decoded: np.ndarray, probabilities: torch.Tensor) -> np.ndarray:
        """The decoder's map [C, H, W] and the codes' probabilities [N, V] -> the estimate, of its type."""
        probabilities = probabilities.float()
        mean = self._joined(probabilities @ self.table)
        sure = probabilities.amax(1).numpy().reshape(self._grid)
        p = mean.shape[-1] // self._grid[1]
        sure = sure.repeat(p, 0).repeat(p, 1)
        mixed = sure * self._linear(decoded) + (1 - sure) * mean
        if self._row.kind == "classes":
            return mixed.argmax(0)[None].astype(np.uint8)
        return mixed.astype(np.float32)

    @property
    def _channels(self) -> int:
        return self._row.num_classes if self._row.kind == "classes" else self._row.num_bands

    def _linear(self, window: np.ndarray) -> np.ndarray:
        """What can be averaged: values, or a plane per class."""
        if self._row.kind == "classes":
            return np.arange(self._row.num_classes)[:, None, None] == window
        return window

    def _cut(self, x: np.ndarray) -> torch.Tensor:
        """[C, H, W] -> [N, C p p] float32, row by row."""
        (rows, columns), (c, h, w) = self._grid, x.shape
        p, q = h // rows, w // columns
        parts = x.reshape(c, rows, p, columns, q).transpose(1, 3, 0, 2, 4)
        return torch.from_numpy(np.ascontiguousarray(parts, np.float32)).flatten(2).flatten(0, 1)

    def _joined(self, parts: torch.Tensor) -> np.ndarray:
        """[N, C p p] -> [C, H, W]."""
        rows, columns = self._grid
        p = round((parts.shape[1] / self._channels) ** 0.5)
        x = parts.numpy().reshape(rows, columns, self._channels, p, p).transpose(2, 0, 3, 1, 4)
        return x.reshape(self._channels, rows * p, columns * p)
