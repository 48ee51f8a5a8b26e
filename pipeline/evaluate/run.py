"""`python -m pipeline evaluate`: held-out tokens and probes of a trained model.

OUT/config.yaml    what was asked
OUT/scores.json    tokens per input set and target beside a trivial guess, probes per label; written last
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs import ConfigError, to_yaml
from configs.schema import EvaluateConfig, Modality
from pipeline.data.selection import readable, select
from pipeline.engine.distributed import pick_device, to_device
from pipeline.engine.evaluation import spread
from pipeline.engine.lifecycle import OK, write_atomic
from pipeline.engine.metrics import say
from pipeline.evaluate.inputs import ALL, InputSet, give, input_modalities, input_sets
from pipeline.evaluate.labels import class_name, label_of, label_row
from pipeline.evaluate.prior import prior_scores
from pipeline.evaluate.probes import probe
from pipeline.evaluate.subject import Subject, load_subject
from pipeline.evaluate.tokens import score_tokens
from pipeline.stage2.samples import Content, SampleReader, collate
from shards import open_data

Labelled = list[tuple[int, Content, int]]


def evaluate(config: EvaluateConfig) -> int:
    """Evaluate and write. Raises ConfigError, RunError or ShardError."""
    subject = load_subject(config.run, pick_device("auto"))
    dataset = open_data(config.data)
    layout = subject.layout
    reader = SampleReader(dataset, layout, subject.normalisers)
    sets = input_sets(layout, config)
    rows = [label_row(reader, name) for name in config.probes.labels]
    num_tokens = config.num_input_tokens or subject.masked.num_input_tokens
    view = layout.views.centre
    indices = most_complete(reader, config)
    contents = [
        (i, content)
        for i, content in readable_contents(reader, indices, view)
        if len(content.streams)
    ]
    scores = score_tokens(
        subject, contents, sets, num_tokens, config.batch, config.seed,
        lambda name: say(f"evaluate {name}"),
    )  # fmt: skip
    record = {
        "model": {"kind": subject.kind, "parameters": subject.num_parameters},
        "split": config.data.eval_split,
        "num_samples": len(contents),
        "num_input_tokens": num_tokens,
        "tokens": scores,
        "prior": _prior(reader, config, contents),
        "probes": {row.name: _probe(subject, reader, row, config, num_tokens) for row in rows},
    }
    config.out.mkdir(parents=True, exist_ok=True)
    write_atomic(config.out / "config.yaml", to_yaml(config))
    write_atomic(config.out / "scores.json", json.dumps(record, indent=1))
    means = {s: np.mean([v["ce"] for v in found.values()]) for s, found in scores.items() if found}
    say(
        f"evaluate {config.run}: cross-entropy {means[ALL]:.3f} given all; {config.out / 'scores.json'}"
    )
    return OK


def readable_contents(
    reader: SampleReader, indices: np.ndarray, view: int
) -> Iterator[tuple[int, Content]]:
    """Samples and what they have, damaged ones left out."""
    return readable(indices.tolist(), lambda i: (i, reader.content(i, view)))


def most_complete(reader: SampleReader, config: EvaluateConfig) -> np.ndarray:
    """Held-out samples that lack the fewest of the model's modalities; always the same, and the same
    whether a model takes them as pixels or as tokens.
    """
    dataset = reader.dataset
    usable = select(dataset, config.data, config.data.eval_split)
    usable = usable[reader.usable[usable]]
    if not len(usable):
        raise ConfigError(
            f"no sample of {dataset.path} in split {config.data.eval_split!r} has anything to predict"
        )
    there: dict[str, np.ndarray] = {}
    for stream, part in zip(reader.layout.streams, reader.part_names, strict=True):
        present = dataset.present(part)[usable]
        there[stream.modality] = there.get(stream.modality, True) & present
    order = np.argsort(-np.sum(list(there.values()), 0), kind="stable")
    return np.sort(usable[order][: config.num_samples])


def _prior(
    reader: SampleReader, config: EvaluateConfig, held_out: list[tuple[int, Content]]
) -> dict[str, dict[str, float]]:
    """The trivial guess, learned from as many training samples as probes learn from."""
    indices = select(reader.dataset, config.data, config.data.split)
    indices = spread(indices[reader.usable[indices]], config.probes.num_train)
    train = readable_contents(reader, indices, reader.layout.views.centre)
    return prior_scores(reader.layout, (c for _, c in train), (c for _, c in held_out))


def _probe(
    subject: Subject, reader: SampleReader, row: Modality, config: EvaluateConfig, num_tokens: int
) -> dict[str, Any]:
    """Accuracies of both classifiers per input set, of the model and of its untrained twin."""
    probes, layout = config.probes, subject.layout
    train = _labelled(reader, row, config, config.data.split, probes.num_train)
    test = _labelled(reader, row, config, config.data.eval_split, probes.num_test)
    classes = sorted({label for *_, label in train})
    test = [sample for sample in test if sample[2] in classes]
    if len(classes) < 2 or not test:
        raise ConfigError(
            f"probes.labels: {row.name} has {len(classes)} classes in {len(train)} training samples, and "
            f"{len(test)} held-out samples have one of them; two classes and a sample are needed: take the "
            "label out, or evaluate on more data"
        )
    others = [name for name in input_modalities(layout) if name != row.name]
    if not others:
        raise ConfigError(f"probes.labels names {row.name}, the model's only input")
    sets = [InputSet(ALL, frozenset(others))]
    if len(others) > 1:
        sets += [InputSet(f"without/{n}", frozenset(others) - {n}) for n in others]
    frequent = Counter(label for *_, label in train).most_common(1)[0][0]
    found: dict[str, Any] = {
        "classes": [class_name(row, c) for c in classes],
        "num_train": len(train),
        "num_test": len(test),
        "most_frequent": sum(label == frequent for *_, label in test) / len(test),
    }
    for way, model in (("model", subject), ("untrained", subject.untrained(config.seed))):
        found[way] = {}
        for given in sets:
            say(f"evaluate {row.name} probe, {way}, {given.name}")
            known, asked = (
                _features(model, part, given, config, num_tokens, classes) for part in (train, test)
            )
            found[way][given.name] = probe(known, asked, len(classes), probes.neighbours, probes.l2)
    return found


def _labelled(
    reader: SampleReader, row: Modality, config: EvaluateConfig, split: str, count: int
) -> Labelled:
    """Samples of a split with a label and anything else to see, evenly spread."""
    indices = select(reader.dataset, config.data, split, [row.name])
    indices = spread(indices[reader.usable[indices]], count)
    names = {i for i in reader.layout.inputs if reader.layout.streams[i].modality != row.name}
    found = []
    for i, content in readable_contents(reader, indices, reader.layout.views.centre):
        label = label_of(reader, row, i)
        if label is not None and content.streams.keys() & names:
            found.append((i, content, label))
    return found


def _features(
    subject: Subject,
    samples: Labelled,
    given: InputSet,
    config: EvaluateConfig,
    num_tokens: int,
    classes: list[int],
) -> tuple[Tensor, Tensor]:
    """Features [N, D] and places of labels among the classes [N]."""
    layout, device = subject.layout, subject.device
    streams, parts = given.streams(layout), []
    for start in range(0, len(samples), config.batch):
        shown = [
            give(content, layout, streams, num_tokens, np.random.default_rng([config.seed, i]))
            for i, content, _ in samples[start : start + config.batch]
        ]
        batch = to_device(collate(shown, layout, num_tokens, 1), device)
        parts.append(subject.represent(batch).cpu())
    return torch.cat(parts), torch.tensor([classes.index(label) for *_, label in samples])
