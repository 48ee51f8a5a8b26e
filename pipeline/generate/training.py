"""One look through training samples for all who learn something simple from them before generation."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from pipeline.data.selection import readable
from pipeline.engine.evaluation import spread
from pipeline.stage2.samples import SampleReader

NUM_TRAINING = 512


class Student(Protocol):
    """Who learns from windows of one modality."""

    def add(self, index: int, window: np.ndarray) -> None:
        """The window [C, H, W] of a sample, in physical units."""
        ...


def look_through(
    reader: SampleReader, name: str, view: int, students: Sequence[Student], split: str = "train"
) -> None:
    """Show each student the same `NUM_TRAINING` samples, evenly spread; damaged ones are left out.

    Without students nothing is read.
    """
    if not students:
        return
    dataset = reader.dataset

    def read(index: int) -> tuple[int, np.ndarray]:
        return index, np.asarray(dataset.read(index, [name])[name])

    indices = spread(dataset.select(split=split, require=[name]), NUM_TRAINING)
    for index, value in readable(indices.tolist(), read):
        window = reader.window(name, value, view)
        for student in students:
            student.add(index, window)
