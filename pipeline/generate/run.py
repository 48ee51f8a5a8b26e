"""`python -m pipeline generate`: samples of a shard set, or one scene; sources in, targets out.

Of a shard set:

OUT/config.yaml    what was asked
OUT/samples.npz    keys, source/<M>, generated/<M>, spread/<M>, truth/<M>, present/<way>/<M> of the first few
OUT/sheet.png      the same as a picture
OUT/scores.json    scores of all samples beside the baselines; written last, so it marks the end

Of a scene: see `scene`.
"""

import json
from collections import defaultdict
from typing import Any

import numpy as np

from configs import ConfigError, to_yaml
from configs.schema import DataConfig, GenerateConfig, Modality
from pipeline.data.selection import presence, select
from pipeline.engine.distributed import pick_device
from pipeline.engine.identity import MADE_OF
from pipeline.engine.lifecycle import OK, write_atomic
from pipeline.engine.metrics import say
from pipeline.generate.climatology import Whereabouts
from pipeline.generate.command import made_of
from pipeline.generate.judge import Judge
from pipeline.generate.making import batches, learn, make, row_of, truth_of
from pipeline.generate.scores import table
from pipeline.generate.sheet import write_sheet
from pipeline.generate.trained import Trained
from pipeline.stage2.samples import SampleReader
from shards import SampleSet, open_data


def generate(config: GenerateConfig) -> int:
    """Generate, score, write. Raises ConfigError, RunError or ShardError."""
    trained = Trained(config.run, pick_device("auto"), config.tokenizers)
    for name in trained.targets(config.target):
        trained.decoder(name)  # or the want of one would be told behind all the work
    digest = made_of(config)
    # What an earlier configuration or other weights left is no end of this one.
    (config.out / "scores.json").unlink(missing_ok=True)
    asks_guidance = config.guidance != 1 or bool(config.guidance_by)
    if asks_guidance and all(m.kind != "nothing" for m in trained.model.config.masking):
        say(
            "warning: guidance compares with what the model makes of no source at all, which it was not "
            "trained for: train it with {kind: nothing} among masked.masking"
        )
    if config.inputs:
        from pipeline.generate.scene import generate_scene

        training = trained.training_set() if config.estimate == "expected" else None
        if training is not None:
            reader = SampleReader(training, trained.layout, trained.normalisers)
            learn(config, trained, reader, trained.config.data)
        return generate_scene(config, trained, digest)
    assert config.data is not None
    generate_samples(config, trained, open_data(config.data), digest)
    return OK


def generate_samples(
    config: GenerateConfig,
    trained: Trained,
    dataset: SampleSet,
    digest: str = "",
    *,
    judged: bool = True,
) -> None:
    """The files of held-out samples; without scores where they are not to be `judged`.

    `digest` says what they are made of.
    """
    assert config.data is not None
    sources, targets = trained.sources(config.source), trained.targets(config.target)
    view = trained.layout.views.centre
    for stream in map(trained.layout.streams.__getitem__, sources):
        if stream.kind != "pixels" and not trained.reads(dataset, stream.modality):
            raise ConfigError(
                f"the model takes {stream.modality} as tokens, and {dataset.path} has none of its tokenizer: "
                "tokenize it with that, or leave the modality out of the source"
            )
    reader = SampleReader(dataset, trained.layout, trained.normalisers)
    indices = _choose(dataset, config, config.data)
    if config.estimate == "expected":
        learn(config, trained, reader, config.data)
    shown: dict[str, list[Any]] = defaultdict(list)
    whereabouts = Whereabouts(dataset, config.data)
    judges = {
        name: Judge(trained, reader, whereabouts, name, stream, view)
        for name, stream in targets.items()
        if judged and name in dataset.modalities and dataset.modalities[name].is_map
    }
    rows = {name: row_of(dataset, name) for name in (*config.source, *targets)}

    num_made = 0
    for samples in batches(reader, indices, sources, targets, config.batch):
        num_made += len(samples)
        made_of = make(config, trained, dataset, samples)
        for name, (made, apart) in made_of.items():
            truths = [sample.values[name] for sample in samples]
            if name in judges:
                judges[name].add([sample.index for sample in samples], made, truths)
            room = max(0, config.num_pictures - len(shown[f"generated/{name}"]))
            shown[f"generated/{name}"] += made[:room]
            shown[f"truth/{name}"] += truths[:room]
            if apart:
                shown[f"spread/{name}"] += apart[:room]
        for i, *_ in samples[: max(0, config.num_pictures - len(shown["keys"]))]:
            shown["keys"].append(dataset.locate(i)[0])
            for name in config.source:
                shown[f"source/{name}"].append(truth_of(reader, name, i, view))
    config.out.mkdir(parents=True, exist_ok=True)
    _write(config, rows, shown, judges, {"num_samples": num_made, MADE_OF: digest})


def _choose(dataset: SampleSet, config: GenerateConfig, data: DataConfig) -> np.ndarray:
    """Held-out samples that have all sources, and as many targets as possible first."""
    indices = select(dataset, data, config.split, config.source)
    if not len(indices):
        raise ConfigError(
            f"no sample of {dataset.path} in split {config.split!r} has all of {', '.join(config.source)}"
        )
    complete = sum(presence(dataset, name)[indices].astype(int) for name in config.target)
    order = np.argsort(-np.asarray(complete), kind="stable")
    return indices[order][: config.num_samples]


def _write(
    config: GenerateConfig,
    rows: dict[str, Modality],
    shown: dict[str, list[Any]],
    judges: dict[str, Judge],
    more: dict[str, Any],
) -> None:
    arrays: dict[str, np.ndarray] = {"keys": np.array(shown["keys"])}
    for name, values in shown.items():
        if name == "keys":
            continue
        present = [v is not None for v in values]
        example = next((v for v in values if v is not None), "")
        blank = np.zeros_like(example) if isinstance(example, np.ndarray) else ""
        arrays[name] = np.stack([np.asarray(blank if v is None else v) for v in values])
        arrays[f"present/{name}"] = np.array(present)
    np.savez_compressed(config.out / "samples.npz", allow_pickle=False, **arrays)
    write_sheet(config.out / "sheet.png", arrays, rows, config.source, config.target)
    write_atomic(config.out / "config.yaml", to_yaml(config))
    record = {
        "source": config.source,
        "target": config.target,
        "split": config.split,
        **more,
        "scores": table({name: judge.ways for name, judge in judges.items()}),
        "baselines": {name: judge.baseline for name, judge in judges.items()},
    }
    write_atomic(config.out / "scores.json", json.dumps(record, indent=1))
    say(
        f"generate {','.join(config.source)} -> {', '.join(config.target)}: {config.out / 'sheet.png'}"
    )
