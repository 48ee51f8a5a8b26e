"""Samples in, targets made of them; and what training samples teach before that."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from configs.registry import modality
from configs.schema import DataConfig, GenerateConfig, Modality
from pipeline.data.selection import readable, select
from pipeline.engine.evaluation import spread
from pipeline.generate.calibration import Calibration
from pipeline.generate.chain import generate_targets
from pipeline.generate.decode import Value
from pipeline.generate.trained import Trained, sampling
from pipeline.stage2.samples import Content, SampleReader
from shards import SampleSet


class Sample(NamedTuple):
    """What a model is given of a sample, and what the sample really has of the targets."""

    index: int
    content: Content
    values: dict[str, Value | None]


def batches(
    reader: SampleReader,
    indices: np.ndarray,
    sources: Sequence[int],
    targets: Collection[str],
    size: int,
) -> Iterator[list[Sample]]:
    """Samples, `size` at a time; damaged ones are left out."""
    view = reader.layout.views.centre

    def read(i: int) -> Sample:
        content = reader.content(i, view, only=sources)
        return Sample(i, content, {name: truth_of(reader, name, i, view) for name in targets})

    for start in range(0, len(indices), size):
        if found := list(readable(indices[start : start + size].tolist(), read)):
            yield found


def row_of(dataset: SampleSet, name: str) -> Modality:
    """A modality as the data set has it, or as the registry does where the data set lacks it."""
    return dataset.modalities.get(name) or modality(name)


def truth_of(reader: SampleReader, name: str, index: int, view: int) -> Value | None:
    """What a sample really has of a modality, of a map the window that is generated."""
    if name not in reader.dataset.modalities:
        return None
    value = reader.dataset.read(index, [name]).get(name)
    if value is None or isinstance(value, str) or not reader.dataset.modalities[name].is_map:
        return value
    return reader.window(name, value, view)


def make(
    config: GenerateConfig, trained: Trained, dataset: SampleSet, samples: Sequence[Sample]
) -> dict[str, tuple[list[Value], list[Value]]]:
    """By target, what is made of each sample, and how far draws are apart."""
    targets, how = trained.targets(config.target), sampling(config, trained)
    contents, ids = [s.content for s in samples], [s.index for s in samples]
    drawn = generate_targets(
        trained.model, contents, ids, list(targets.values()), how,
        chained=config.chain, expected=config.estimate == "expected",
    )  # fmt: skip
    return {
        name: trained.values(name, drawn[stream], row_of(dataset, name))
        for name, stream in targets.items()
    }


def learn(config: GenerateConfig, trained: Trained, reader: SampleReader, data: DataConfig) -> None:
    """What expected maps need to know of training samples: readouts, and calibrations of images."""
    dataset = reader.dataset
    trained.learn_readouts(reader, config.target, data)
    trained.calibrate({})
    rows = {name: row_of(dataset, name) for name in trained.targets(config.target)}
    found = {
        name: Calibration(row, np.asarray(dataset.statistics[name].mean))
        for name, row in rows.items()
        if row.kind == "image" and name in dataset.statistics
    }
    if not found or not config.num_calibration:
        return
    complete = select(dataset, data, data.split, config.sources)
    indices = spread(complete, config.num_calibration)
    sources = trained.sources(config.sources)
    for samples in batches(reader, indices, sources, found, config.batch):
        made = make(config, trained, dataset, samples)
        for name, calibration in found.items():
            for value, sample in zip(made[name][0], samples, strict=True):
                truth = sample.values[name]
                if truth is not None:
                    calibration.add(np.asarray(value), np.asarray(truth))
    trained.calibrate(found)
