"""A made-up experiment folder: real shards, real configurations, invented results.

What a run would have learned is invented (blurred truth, falling curves), so that the report can be
tested in seconds and without training anything.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from configs import load_config, to_yaml
from configs.schema import RunConfig, ShardsConfig, Stage1Config
from pipeline.data.views import Views
from pipeline.engine.lifecycle import mark_done, write_atomic, write_records
from shards import Dataset, open_dataset
from shards.build import build
from shards.extra import ExtraWriter

IMAGES = ("S2L2A", "S1GRD", "Landsat", "DEM", "LULC", "CHM", "NDVI")
TARGETS = ("LULC", "DEM", "NDVI", "CHM", "captions")
NUM_PICTURES = 4
CEILING, MODEL = 0.4, 0.7


def make_experiment(
    folder: Path,
    num_samples: int = 40,
    stage1: Iterable[str] = (*IMAGES, "captions"),
    targets: Iterable[str] = TARGETS,
) -> Path:
    """All parts, all finished."""
    dataset = make_shards(folder / "shards", num_samples)
    for name in stage1:
        make_tokenizer(folder, dataset, name)
        make_tokens(dataset, name)
    make_stage2(folder, dataset)
    for source in ("S2L2A", "S1GRD"):
        make_generation(folder, dataset, source, targets)
    return folder


def make_shards(folder: Path, num_samples: int) -> Dataset:
    config = load_config(
        "configs/shards/synthetic.yaml",
        [f"out={folder}", f"source.num_samples={num_samples}", "samples_per_shard=16",
         "splits.train=0.7", "splits.val=0.3"],
    )  # fmt: skip
    assert isinstance(config, ShardsConfig)
    build(config, quiet=True)
    return open_dataset(folder)


def make_tokenizer(folder: Path, dataset: Dataset, name: str, *, last_step: int = 300) -> Path:
    """A stage-1 run; not finished when `last_step` is below 300."""
    out = folder / "stage1" / name
    config = load_config(
        "configs/stage1/small.yaml",
        # Pinned here: what the page shows must not follow from a file that is tuned.
        [f"modality={name}", f"out={out}", f"data.shards={folder / 'shards'}",
         "tokenizer.fsq.levels=[7,5,5,5]", "tokenizer.patch_px=8", "engine.num_steps=300"],
    )  # fmt: skip
    assert isinstance(config, Stage1Config)
    row = dataset.modalities[name]
    if row.kind == "text":
        _records(config, dataset)
        mark_done(out, 0, {"vocab_size": 412})
        return out
    _records(config, dataset)
    start = 2.2 if row.kind == "classes" else 0.9
    lines: list[dict] = [
        {"step": s, "loss": falling(start, s, 300), "lr": 2e-3, "grad_norm": 1.0,
         "samples_per_s": 80 + s % 7}
        for s in range(10, last_step + 1, 10)
    ]  # fmt: skip
    if last_step == 300:
        lines.append({"step": 300, "eval": _tokenizer_values(dataset, name)})
    write_lines(out, lines)
    _commit(out, last_step // 100 * 100)
    if last_step == 300:
        truth = np.stack(maps(dataset, name, NUM_PICTURES))
        restored = np.stack([blurred(m, dataset, name, 4) for m in truth])
        np.savez_compressed(out / "reconstructions.npz", truth=truth, restored=restored)
        mark_done(out, 300, {})
    return out


def make_tokens(dataset: Dataset, name: str) -> None:
    """Codes that mean nothing, where the modality is present."""
    info = {"modality": name, "num_tokens": 81, "views": Views().to_dict(), "vocab_size": 875}
    writer = ExtraWriter(dataset, f"tok_{name}", info)
    present, codes = dataset.present(name), np.zeros((1, 81), np.uint16)
    for split, shard in dataset.shards:
        parts = [codes if present[i] else None for i in dataset.shard_samples(split, shard)]
        writer.write_shard(f"{split}/{shard}", parts)
    writer.commit()


def make_stage2(folder: Path, dataset: Dataset, *, last_step: int = 800) -> Path:
    out = folder / "stage2"
    config = load_config(
        "configs/stage2/small.yaml",
        [f"out={out}", f"data.shards={folder / 'shards'}", "engine.num_steps=800",
         "masked.num_target_tokens=64"],
    )  # fmt: skip
    assert isinstance(config, RunConfig)
    _records(config, dataset)
    targets = config.model_dump()["masked"]["targets"]
    lines: list[dict] = []
    for s in range(10, last_step + 1, 10):
        entropies = {f"ce/{n}": falling(6.8 - 0.2 * i, s, 800) for i, n in enumerate(targets)}
        loss = float(np.mean(list(entropies.values())))
        lines.append({"step": s, "loss": loss, **entropies, "lr": 1e-3 * (1 - s / 900),
                      "grad_norm": 0.4 + 1 / s, "samples_per_s": 60 + s % 5})  # fmt: skip
    if last_step == 800:
        values = {"loss": 3.1} | {f"ce/{n}": 3.0 + 0.1 * i for i, n in enumerate(targets)}
        values |= {f"accuracy/{n}": 0.3 + 0.01 * i for i, n in enumerate(targets)}
        lines.append({"step": 800, "eval": values})
        mark_done(out, 800, {})
    write_lines(out, lines)
    _commit(out, last_step // 100 * 100)
    return out


def make_generation(folder: Path, dataset: Dataset, source: str, targets: Iterable[str]) -> Path:
    targets = [t for t in targets if t != source]
    out = folder / "generate" / f"from-{source}"
    out.mkdir(parents=True)
    config = load_config(
        "configs/generate/small.yaml",
        [f"run={folder / 'stage2'}", f"out={out}", f"data.shards={folder / 'shards'}",
         f"source=[{source}]", f"target=[{','.join(targets)}]"],
    )  # fmt: skip
    write_atomic(out / "config.yaml", to_yaml(config))
    chosen = [int(i) for i in dataset.select("val", require=[source])[:NUM_PICTURES]]
    arrays = {"keys": np.array([dataset.keys[i] for i in chosen])}
    columns = [("source", source)] + [(w, t) for t in targets for w in ("generated", "truth")]
    for way, name in columns:
        _store(arrays, dataset, chosen, way, name)
    np.savez_compressed(out / "samples.npz", allow_pickle=False, **arrays)
    record = {
        "source": [source], "target": targets, "split": "val", "num_samples": 12,
        "scores": scores(dataset, targets),
        "baselines": dict.fromkeys(targets, "training mean") | {"LULC": "most frequent class: trees"},
    }  # fmt: skip
    write_atomic(out / "scores.json", json.dumps(record))
    return out


def scores(dataset: Dataset, targets: Iterable[str]) -> dict:
    """Better than the baseline everywhere, except for the mean error of DEM."""
    found = {}
    for name in targets:
        row = dataset.modalities[name]
        if row.kind == "classes":
            found[name] = {"accuracy": {"model": 0.6123, "baseline": 0.3104,
                                        "climatology": 0.3311, "tokens": 0.9042},
                           "miou": {"model": 0.4011, "baseline": 0.0512,
                                    "climatology": 0.0713, "tokens": 0.7777}}  # fmt: skip
        elif row.kind == "image":
            std = float(np.mean(dataset.statistics[name].std))
            ways = {
                "model": MODEL * std,
                "baseline": std,
                "climatology": 0.9 * std,
                "tokens": CEILING * std,
            }
            found[name] = {"rmse": ways, "mae": {k: 0.8 * v for k, v in ways.items()}}
    if "DEM" in found:
        found["DEM"]["mae"]["model"] = 1.5 * found["DEM"]["mae"]["baseline"]
    return found


def maps(dataset: Dataset, name: str, count: int) -> list[np.ndarray]:
    """Maps of the first held-out samples that have the modality."""
    found = []
    for i in dataset.select("val", require=[name])[:count]:
        part = dataset.read(int(i), [name])[name]
        assert isinstance(part, np.ndarray)
        found.append(part)
    return found


def blurred(x: np.ndarray, dataset: Dataset, name: str, size: int) -> np.ndarray:
    """What a model might make of a map: block means, or the class in the corner of each block."""
    if dataset.modalities[name].kind == "classes":
        return x[:, ::size, ::size].repeat(size, 1).repeat(size, 2)[:, : x.shape[1], : x.shape[2]]
    c, h, w = x.shape
    means = x.reshape(c, h // size, size, w // size, size).astype(np.float64).mean((2, 4))
    return np.nan_to_num(means).repeat(size, 1).repeat(size, 2).astype(np.float32)


def falling(start: float, step: int, num_steps: int) -> float:
    wiggle = 0.03 * math.sin(step * 12.9898)
    return start * (0.25 + 0.75 * math.exp(-5 * step / num_steps)) * (1 + wiggle)


def write_lines(folder: Path, lines: Iterable[dict]) -> None:
    text = "".join(json.dumps({**line, "time": 1.0}) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def _records(config: RunConfig, dataset: Dataset) -> None:
    config.out.mkdir(parents=True)
    write_records(config.out, config, 2, 0, {"dataset": {"fingerprint": dataset.fingerprint}})


def _commit(folder: Path, step: int) -> None:
    commit = folder / "checkpoints" / f"step-{step:08d}"
    commit.mkdir(parents=True)
    (commit / "MANIFEST.json").write_text(json.dumps({"step": step}))


def _tokenizer_values(dataset: Dataset, name: str) -> dict[str, float]:
    values = {"loss": 0.231, "codes_used": 0.4873, "perplexity": 214.6}
    if dataset.modalities[name].kind == "classes":
        return values | {"accuracy": 0.9042, "miou": 0.7777}
    std = float(np.mean(dataset.statistics[name].std))
    return values | {"rmse": CEILING * std, "mae": 0.3 * std}


def _store(
    arrays: dict[str, np.ndarray], dataset: Dataset, chosen: list[int], way: str, name: str
) -> None:
    """As `pipeline.generate.run` stores them: blanks where a sample lacks the modality."""
    parts = [dataset.read(i, [name]).get(name) for i in chosen]
    held = [part is not None for part in parts]
    if way == "generated":
        held = [True] * len(parts)
    example = next((part for part in parts if part is not None), "")
    blank = np.zeros_like(example) if isinstance(example, np.ndarray) else ""
    values = [blank if part is None else part for part in parts]
    if way == "generated" and dataset.modalities[name].is_map:
        values = [blurred(v, dataset, name, 8) for v in values if isinstance(v, np.ndarray)]
    arrays[f"{way}/{name}"] = np.stack([np.asarray(v) for v in values])
    arrays[f"present/{way}/{name}"] = np.array(held)
