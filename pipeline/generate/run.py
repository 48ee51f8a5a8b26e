"""`python -m pipeline generate`: held-out samples of a shard set, source modalities in, targets out.

OUT/config.yaml    what was asked
OUT/samples.npz    keys, source/<M>, generated/<M>, truth/<M>, present/<M> of the first few
OUT/sheet.png      the same as a picture
OUT/scores.json    scores of all samples beside the baselines; written last, so it marks the end
"""

import json
from collections import defaultdict
from typing import Any

import numpy as np

from configs import ConfigError, to_yaml
from configs.schema import GenerateConfig
from pipeline.engine.distributed import pick_device
from pipeline.engine.lifecycle import OK, write_atomic
from pipeline.engine.metrics import say
from pipeline.generate.decode import Decoder, Value, summarise
from pipeline.generate.sampler import Sampling, expected_tokens, generate_tokens
from pipeline.generate.scores import MapScore, constant_guess, table
from pipeline.generate.sheet import write_sheet
from pipeline.stage2 import artifact
from pipeline.stage2.layout import Layout
from pipeline.stage2.samples import SampleReader
from shards import Dataset, open_dataset


def generate(config: GenerateConfig) -> int:
    """Generate, score, write. Raises ConfigError, RunError or ShardError."""
    device = pick_device("auto")
    dataset = open_dataset(config.data.shards)
    model, normalisers = artifact.load(config.run / "artifact", device)
    layout = model.layout
    sources = _source_streams(layout, config.source)
    targets = {name: _target_stream(layout, name) for name in config.target}
    decoders = {
        name: Decoder(layout.token_info[name], dataset.path, device) for name in config.target
    }
    reader = SampleReader(dataset, layout, normalisers)
    indices = _choose(dataset, config)
    how = Sampling(config.steps, config.temperature, config.seed, config.num_draws)
    view = layout.views.centre
    scores: dict[str, dict[str, MapScore]] = {}
    shown: dict[str, list[Any]] = defaultdict(list)
    for start in range(0, len(indices), config.batch):
        ids = [int(i) for i in indices[start : start + config.batch]]
        contents = [reader.content(i, view, only=sources) for i in ids]
        for name, stream in targets.items():
            row, decoder = dataset.modalities[name], decoders[name]
            if config.estimate == "expected" and row.is_map:
                generated = decoder.expected(expected_tokens(model, contents, stream))
            else:
                draws = generate_tokens(model, contents, ids, stream, how)
                generated = summarise([decoder(codes) for codes in draws], row)
            truths = [_truth(reader, name, i, view) for i in ids]
            if dataset.modalities[name].is_map:
                ways = scores.setdefault(name, _ways(dataset, name))
                _score(
                    dataset,
                    name,
                    reader,
                    stream,
                    decoders[name],
                    ids,
                    view,
                    generated,
                    truths,
                    ways,
                )
            room = config.num_pictures - len(shown[f"generated/{name}"])
            if room > 0:
                shown[f"generated/{name}"] += generated[:room]
                shown[f"truth/{name}"] += truths[:room]
        room = config.num_pictures - len(shown["keys"])
        for i in ids[: max(0, room)]:
            shown["keys"].append(dataset.keys[i])
            for name in config.source:
                shown[f"source/{name}"].append(_truth(reader, name, i, view))
    config.out.mkdir(parents=True, exist_ok=True)
    _write(config, dataset, shown, scores, len(indices))
    return OK


def _source_streams(layout: Layout, names: tuple[str, ...]) -> list[int]:
    """Pixels where the model takes them, else tokens."""
    found = []
    for name in names:
        options = [i for i in layout.inputs if layout.streams[i].modality == name]
        if not options:
            have = sorted({layout.streams[i].modality for i in layout.inputs})
            raise ConfigError(f"source {name}: the model takes {', '.join(have)}")
        found.append(options[0])
    return found


def _target_stream(layout: Layout, name: str) -> int:
    for i in layout.targets:
        if layout.streams[i].modality == name:
            return i
    have = ", ".join(layout.streams[i].modality for i in layout.targets)
    raise ConfigError(f"target {name}: the model generates {have}")


def _choose(dataset: Dataset, config: GenerateConfig) -> np.ndarray:
    """Held-out samples that have all sources, and as many targets as possible first."""
    indices = dataset.select(split=config.split, require=config.source)
    if not len(indices):
        raise ConfigError(
            f"no sample of {dataset.path} in split {config.split!r} has all of {', '.join(config.source)}"
        )
    complete = sum(dataset.present(name)[indices].astype(int) for name in config.target)
    order = np.argsort(-np.asarray(complete), kind="stable")
    return indices[order][: config.num_samples]


def _truth(reader: SampleReader, name: str, index: int, view: int) -> Value | None:
    value = reader.dataset.read(index, [name]).get(name)
    if value is None or isinstance(value, str) or not reader.dataset.modalities[name].is_map:
        return value
    return reader.window(name, value, view)


def _ways(dataset: Dataset, name: str) -> dict[str, MapScore]:
    row = dataset.modalities[name]
    return {way: MapScore(row) for way in ("model", "baseline", "tokens")}


def _score(
    dataset: Dataset,
    name: str,
    reader: SampleReader,
    stream: int,
    decoder: Decoder,
    ids: list[int],
    view: int,
    generated: list[Value],
    truths: list[Value | None],
    ways: dict[str, MapScore],
) -> None:
    guess, _ = constant_guess(
        dataset.modalities[name], dataset.statistics.get(name), dataset.class_counts.get(name)
    )
    held = [n for n, truth in enumerate(truths) if truth is not None]
    if not held:
        return
    tokens = [reader.content(ids[n], view, only=[stream]).streams[stream] for n in held]
    for n, best in zip(held, decoder(tokens), strict=True):
        truth, made = truths[n], generated[n]
        assert isinstance(truth, np.ndarray)
        assert isinstance(made, np.ndarray)
        assert isinstance(best, np.ndarray)
        ways["model"].add(made, truth)
        ways["baseline"].add(np.broadcast_to(guess, truth.shape), truth)
        ways["tokens"].add(best, truth)


def _write(
    config: GenerateConfig,
    dataset: Dataset,
    shown: dict[str, list[Any]],
    scores: dict[str, dict[str, MapScore]],
    num_samples: int,
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
    write_sheet(config.out / "sheet.png", arrays, dataset.modalities, config.source, config.target)
    write_atomic(config.out / "config.yaml", to_yaml(config))
    baselines = {
        name: constant_guess(
            dataset.modalities[name], dataset.statistics.get(name), dataset.class_counts.get(name)
        )[1]
        for name in scores
    }
    record = {
        "source": config.source,
        "target": config.target,
        "split": config.split,
        "num_samples": num_samples,
        "scores": table(scores),
        "baselines": baselines,
    }
    write_atomic(config.out / "scores.json", json.dumps(record, indent=1))
    say(
        f"generate {','.join(config.source)} -> {', '.join(config.target)}: {config.out / 'sheet.png'}"
    )
