"""What codes look like on average, for estimates of least error.

A decoder makes a sharp map of codes that are certain. Of codes that are merely likely it makes a map of
something in between, which is nobody's mean: the network is not linear. The mean of what each code stood
for in training samples is linear in probabilities: a guess that knows nothing becomes the training mean, of
classes the most frequent one. The two are mixed token by token, by how likely two draws of a token are both
the likeliest code.
"""

from functools import cached_property

import numpy as np
import torch

from configs.schema import DataConfig
from pipeline.data.selection import readable, select
from pipeline.data.transforms import measured_pixels
from pipeline.engine.evaluation import spread
from pipeline.stage2.samples import SampleReader

NUM_TRAINING = 512


class Readout:
    """Of one token stream of a map modality, from training samples."""

    def __init__(self, reader: SampleReader, stream: int, view: int):
        self._reader, self._stream, self._view = reader, stream, view
        self._token = reader.layout.streams[stream]
        self._row = reader.dataset.modalities[self._token.part]
        self._sums = self._counts = np.zeros(0, np.float32)

    @classmethod
    def of_training(
        cls, reader: SampleReader, stream: int, view: int, data: DataConfig
    ) -> "Readout":
        """Of `NUM_TRAINING` training samples, evenly spread; damaged ones are left out."""
        found, name = cls(reader, stream, view), reader.layout.streams[stream].part
        indices = spread(select(reader.dataset, data, data.split, [name]), NUM_TRAINING)
        for _ in readable(indices.tolist(), found.add):
            pass
        return found

    def add(self, index: int) -> None:
        """A training sample: its window and its codes are read."""
        part = self._reader.dataset.read(index, [self._token.part])[self._token.part]
        window = self._reader.window(self._token.part, np.asarray(part), self._view)
        content = self._reader.content(index, self._view, only=[self._stream])
        codes = content.streams.get(self._stream)
        if codes is None:
            return
        shape = self._channels, *window.shape[1:]
        measured = np.broadcast_to(measured_pixels(window, self._row), shape)
        values = self._cut(np.where(measured, self._linear(window), 0.0))
        if not len(self._sums):
            size = 2, self._token.vocab_size, values.shape[1]
            self._sums, self._counts = np.zeros(size, np.float32)
        np.add.at(self._sums, codes, values)
        np.add.at(self._counts, codes, self._cut(measured))

    @property
    def is_empty(self) -> bool:
        """Whether no sample had codes: then there is nothing to mix in."""
        return not len(self._sums)

    @cached_property
    def table(self) -> torch.Tensor:
        """[V, C p p] for V codes, C bands or classes, p pixels per token; asked for when all were shown."""
        # Each code was also seen once as the mean of all: rare ones are not trusted far.
        mean = self._sums.sum(0) / self._counts.sum(0).clip(min=1)
        return torch.from_numpy((self._sums + mean) / (self._counts + 1))

    def mix(self, decoded: np.ndarray, probabilities: torch.Tensor) -> np.ndarray:
        """The decoder's map [C, H, W] and the codes' probabilities [N, V] -> the estimate, of its type."""
        probabilities = probabilities.float()
        mean = self._joined(probabilities @ self.table)
        sure = probabilities.amax(1).square().numpy().reshape(self._grid)
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

    @property
    def _grid(self) -> tuple[int, int]:
        assert self._token.grid is not None
        return self._token.grid

    def _cut(self, x: np.ndarray) -> np.ndarray:
        """[C, H, W] -> [N, C p p] float32, row by row."""
        (rows, columns), (c, h, w) = self._grid, x.shape
        p, q = h // rows, w // columns
        parts = x.reshape(c, rows, p, columns, q).transpose(1, 3, 0, 2, 4)
        return np.ascontiguousarray(parts, np.float32).reshape(rows * columns, c * p * q)

    def _joined(self, parts: torch.Tensor) -> np.ndarray:
        """[N, C p p] -> [C, H, W]."""
        rows, columns = self._grid
        p = round((parts.shape[1] / self._channels) ** 0.5)
        x = parts.numpy().reshape(rows, columns, self._channels, p, p).transpose(2, 0, 3, 1, 4)
        return x.reshape(self._channels, rows * p, columns * p)
