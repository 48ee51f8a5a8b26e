"""`python -m pipeline evaluate`: held-out tokens and probes of a trained model.

OUT/config.yaml    what was asked
OUT/scores.json    tokens per input set and target beside a trivial guess, probes per label; written last
"""

import json
from typing import Any

import numpy as np

from configs import ConfigError, to_yaml
from configs.schema import EvaluateConfig, Modality
from pipeline.data.selection import presence, select
from pipeline.engine.distributed import pick_device
from pipeline.engine.evaluation import spread
from pipeline.engine.identity import MADE_OF, digest_of
from pipeline.engine.lifecycle import OK, write_atomic
from pipeline.engine.metrics import say
from pipeline.evaluate.inputs import ALL, input_sets, readable_contents
from pipeline.evaluate.labels import label_row
from pipeline.evaluate.prior import prior_scores
from pipeline.evaluate.probing import Showing, given_for, labelled_tokens, represent
from pipeline.evaluate.subject import Subject, load_subject
from pipeline.evaluate.tokens import score_tokens
from pipeline.stage2.samples import Content, SampleReader
from shards import open_data


def evaluate(config: EvaluateConfig) -> int:
    """Evaluate and write. Raises ConfigError, RunError or ShardError."""
    subject = load_subject(config.run, pick_device("auto"))
    made_of = digest_of([config.run], [], str(config.data.shards))
    # What an earlier configuration or other weights left is no end of this one.
    (config.out / "scores.json").unlink(missing_ok=True)
    dataset = open_data(config.data)
    layout = subject.layout
    reader = SampleReader(dataset, layout, subject.normalisers)
    sets = input_sets(layout, config)
    rows = [label_row(dataset, name) for name in config.probes.labels]
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
        MADE_OF: made_of,
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
    # A model of one modality has nothing to tell it from, but may be probed.
    found = [v["ce"] for v in scores[ALL].values()]
    told = f"cross-entropy {np.mean(found):.3f} given all" if found else "no target has an input"
    say(f"evaluate {config.run}: {told}; {config.out / 'scores.json'}")
    return OK


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
        present = presence(dataset, part)[usable]
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
    labelled = labelled_tokens(reader, row, config.data, config.probes)
    showing = Showing(num_tokens, config.batch, config.seed)
    everything, *rest = given_for(subject.layout, row, config.probes)
    found = labelled.describe()
    for way, model in (("model", subject), ("untrained", subject.untrained(config.seed))):
        found[way] = {}
        for given in (everything, *rest):
            say(f"evaluate {row.name} probe, {way}, {given.name}")
            found[way][given.name] = labelled.accuracies(represent(model, given, showing))
    return found
