"""Probes of one label: samples that carry it, and how well frozen features of what else they have tell it.

Shapes: N samples, D width.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from configs import ConfigError
from configs.registry import modality
from configs.schema import DataConfig, Modality, ProbeConfig
from pipeline.data.selection import readable, select
from pipeline.engine.distributed import to_device
from pipeline.engine.evaluation import spread
from pipeline.evaluate.inputs import ALL, InputSet, give, input_modalities
from pipeline.evaluate.labels import class_name, label_of
from pipeline.evaluate.probes import probe
from pipeline.evaluate.subject import Subject
from pipeline.stage2.layout import Layout
from pipeline.stage2.samples import Content, SampleReader, collate

T = TypeVar("T")


class Known(NamedTuple, Generic[T]):
    """A sample by its number, what a model is shown of it, and its label."""

    index: int
    shown: T
    label: int


class Showing(NamedTuple):
    """How samples are shown to a model: tokens of each, samples at once, and what draws the tokens."""

    num_tokens: int
    batch: int
    seed: int


@dataclass(frozen=True)
class Labelled(Generic[T]):
    """Samples to learn a label from and others to be judged by; of these, all have a class of those."""

    row: Modality
    probes: ProbeConfig
    classes: list[int]
    train: list[Known[T]]
    test: list[Known[T]]

    def describe(self) -> dict[str, Any]:
        """The classes, how many samples there are, and how good the trivial guess is."""
        frequent = Counter(sample.label for sample in self.train).most_common(1)[0][0]
        return {
            "classes": [class_name(self.row, c) for c in self.classes],
            "num_train": len(self.train),
            "num_test": len(self.test),
            "most_frequent": sum(s.label == frequent for s in self.test) / len(self.test),
        }

    def accuracies(self, features: Callable[[list[Known[T]]], Tensor]) -> dict[str, float]:
        """Of both classifiers, on the features [N, D] of samples."""
        known, asked = (
            (features(part), torch.tensor([self.classes.index(s.label) for s in part]))
            for part in (self.train, self.test)
        )
        return probe(known, asked, len(self.classes), self.probes.neighbours, self.probes.l2)


def read_labelled(
    row: Modality,
    probes: ProbeConfig,
    train: np.ndarray,
    test: np.ndarray,
    read: Callable[[int], Known[T] | None],
) -> Labelled[T]:
    """`probes.num_train` and `num_test` of these samples, evenly spread, of which `read` makes something.

    Damaged ones are left out. Raises ConfigError where there are too few.
    """
    known, asked = (
        [s for s in readable(spread(indices, count).tolist(), read) if s is not None]
        for indices, count in ((train, probes.num_train), (test, probes.num_test))
    )
    classes = sorted({sample.label for sample in known})
    asked = [sample for sample in asked if sample.label in classes]
    if len(classes) < 2 or not asked:
        raise ConfigError(
            f"probes.labels: {row.name} has {len(classes)} classes in {len(known)} training samples, and "
            f"{len(asked)} held-out samples have one of them; two classes and a sample are needed: take the "
            "label out, or evaluate on more data"
        )
    return Labelled(row, probes, classes, known, asked)


def labelled_tokens(
    reader: SampleReader, row: Modality, data: DataConfig, probes: ProbeConfig
) -> Labelled[Content]:
    """Samples with a label and anything else for a model of tokens to see. Raises ConfigError."""
    streams = set(given_for(reader.layout, row, probes)[0].streams(reader.layout))
    view, dataset = reader.layout.views.centre, reader.dataset

    def read(i: int) -> Known[Content] | None:
        content = reader.content(i, view)
        label = label_of(dataset, row, i, lambda part: reader.window(row.name, part, view))
        seen = content.streams.keys() & streams
        return Known(i, content, label) if label is not None and seen else None

    train, test = (select(dataset, data, s, [row.name]) for s in (data.split, data.eval_split))
    return read_labelled(row, probes, train[reader.usable[train]], test[reader.usable[test]], read)


def represent(
    subject: Subject, given: InputSet, how: Showing
) -> Callable[[list[Known[Content]]], Tensor]:
    """What makes features of samples, given a set of inputs."""
    layout, device = subject.layout, subject.device
    streams = given.streams(layout)

    def features(samples: list[Known[Content]]) -> Tensor:
        parts = []
        for start in range(0, len(samples), how.batch):
            shown = [
                give(
                    s.shown,
                    layout,
                    streams,
                    how.num_tokens,
                    np.random.default_rng([how.seed, s.index]),
                )
                for s in samples[start : start + how.batch]
            ]
            batch = to_device(collate(shown, layout, how.num_tokens, 1), device)
            parts.append(subject.represent(batch).cpu())
        return torch.cat(parts)

    return features


def given_for(layout: Layout, row: Modality, probes: ProbeConfig) -> list[InputSet]:
    """All inputs but the label's own modality and those that `probes` hides, and these without each one.

    Raises ConfigError where nothing is left.
    """
    hidden = {row.name, *(modality(name).name for name in probes.without)}
    others = [name for name in input_modalities(layout) if name not in hidden]
    if not others:
        told = ", ".join(input_modalities(layout))
        raise ConfigError(f"probes of {row.name}: nothing is left of the model's inputs, {told}")
    sets = [InputSet(ALL, frozenset(others))]
    if len(others) > 1:
        sets += [InputSet(f"without/{n}", frozenset(others) - {n}) for n in others]
    return sets
