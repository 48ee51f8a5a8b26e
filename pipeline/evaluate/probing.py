"""Probes of one label: samples that carry it, and how well frozen features of what else they have tell it.

Shapes: N samples, D width.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

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

Samples = list[tuple[int, Content, int]]
"""Sample numbers, what they have, and their labels."""


class Showing(NamedTuple):
    """How samples are shown to a model: tokens of each, samples at once, and what draws the tokens."""

    num_tokens: int
    batch: int
    seed: int


@dataclass(frozen=True)
class Labelled:
    """Samples to learn a label from and others to be judged by; of these, all have a class of those."""

    row: Modality
    probes: ProbeConfig
    classes: list[int]
    train: Samples
    test: Samples

    def describe(self) -> dict[str, Any]:
        """The classes, how many samples there are, and how good the trivial guess is."""
        frequent = Counter(label for *_, label in self.train).most_common(1)[0][0]
        return {
            "classes": [class_name(self.row, c) for c in self.classes],
            "num_train": len(self.train),
            "num_test": len(self.test),
            "most_frequent": sum(label == frequent for *_, label in self.test) / len(self.test),
        }

    def accuracies(self, subject: Subject, given: InputSet, how: Showing) -> dict[str, float]:
        """Of both classifiers, on features of a set of inputs."""
        known, asked = (
            self._features(subject, part, given, how) for part in (self.train, self.test)
        )
        return probe(known, asked, len(self.classes), self.probes.neighbours, self.probes.l2)

    def _features(
        self, subject: Subject, samples: Samples, given: InputSet, how: Showing
    ) -> tuple[Tensor, Tensor]:
        """Features [N, D] and places of labels among the classes [N]."""
        layout, device = subject.layout, subject.device
        streams, parts = given.streams(layout), []
        for start in range(0, len(samples), how.batch):
            shown = [
                give(content, layout, streams, how.num_tokens, np.random.default_rng([how.seed, i]))
                for i, content, _ in samples[start : start + how.batch]
            ]
            batch = to_device(collate(shown, layout, how.num_tokens, 1), device)
            parts.append(subject.represent(batch).cpu())
        return torch.cat(parts), torch.tensor([self.classes.index(label) for *_, label in samples])


def read_labelled(
    reader: SampleReader, row: Modality, data: DataConfig, probes: ProbeConfig
) -> Labelled:
    """`probes.num_train` and `num_test` samples. Raises ConfigError where there are too few."""
    train = _read(reader, row, data, probes, data.split, probes.num_train)
    test = _read(reader, row, data, probes, data.eval_split, probes.num_test)
    classes = sorted({label for *_, label in train})
    test = [sample for sample in test if sample[2] in classes]
    if len(classes) < 2 or not test:
        raise ConfigError(
            f"probes.labels: {row.name} has {len(classes)} classes in {len(train)} training samples, and "
            f"{len(test)} held-out samples have one of them; two classes and a sample are needed: take the "
            "label out, or evaluate on more data"
        )
    return Labelled(row, probes, classes, train, test)


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


def _read(
    reader: SampleReader,
    row: Modality,
    data: DataConfig,
    probes: ProbeConfig,
    split: str,
    count: int,
) -> Samples:
    """Samples of a split with a label and anything else to see, evenly spread."""
    indices = select(reader.dataset, data, split, [row.name])
    indices = spread(indices[reader.usable[indices]], count)
    names = given_for(reader.layout, row, probes)[0].streams(reader.layout)
    view = reader.layout.views.centre
    found = readable(
        indices.tolist(), lambda i: (i, reader.content(i, view), label_of(reader, row, i))
    )
    return [
        (i, content, label)
        for i, content, label in found
        if label is not None and content.streams.keys() & set(names)
    ]
