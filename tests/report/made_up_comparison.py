"""A made-up comparison of tokenizers: real shards and configurations, invented results."""

import json
from pathlib import Path

import numpy as np

from configs import load_config, to_yaml
from configs.schema import ComparisonConfig, Stage1Config
from launch.plan import plan_steps
from launch.step import What
from pipeline.engine.lifecycle import mark_done, write_atomic, write_records
from shards import Dataset
from tests.report.made_up import blurred, falling, make_shards, maps, write_lines

ARMS = ("fsq-vit", "fsq-gan", "fsq-diffusion", "vq-vit", "vq-gan", "vq-diffusion")
FILE = "configs/experiments/tokenizers.yaml"
NUM_STEPS = 100
RMSE = {"fsq-vit": 50.0, "fsq-gan": 60.0, "fsq-diffusion": 70.0,
        "vq-vit": 55.0, "vq-gan": 65.0, "vq-diffusion": 75.0}  # fmt: skip


def make_comparison(folder: Path, *changes: str, skip: tuple[str, ...] = ()) -> Path:
    """All runs that are planned, finished, except those whose names begin with one of `skip`.

    The RMSE of an arm is as in `RMSE`, one more for each further seed.
    """
    dataset = make_shards(folder / "shards", 24)
    steps = f"stage1.overrides=[engine.num_steps={NUM_STEPS}]"
    overrides = [f"out={folder}", "seeds=[0,1,2]", steps, *changes]
    plan = load_config(FILE, overrides)
    assert isinstance(plan, ComparisonConfig)
    write_atomic(folder / "experiment.yaml", to_yaml(plan))
    for step in plan_steps(What.all, FILE, overrides):
        if isinstance(step.config, Stage1Config) and not step.name.startswith(skip or ("-",)):
            _, _, arm, seed = step.name.split("/")
            make_run(step.config, dataset, arm, plan.seeds.index(int(seed[5:])))
    return folder


def make_run(config: Stage1Config, dataset: Dataset, arm: str, number: int) -> None:
    """One finished run; `number` is the place of its seed."""
    out, name = config.out, config.modality
    row = dataset.modalities[name]
    start_run(config, dataset, NUM_STEPS, number)
    rmse = RMSE[arm] + number
    values = {"loss": 0.1, "codes_used": 0.5, "perplexity": 200.0 + 10 * number}
    if row.kind == "classes":
        values |= {"accuracy": 1 - rmse / 100, "miou": 0.9 - rmse / 100}
    else:
        values |= {"mae": rmse / 2, "rmse": rmse, "psnr": 80 - rmse, "ssim": 1 - rmse / 100}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    early = {k: v * 2 for k, v in values.items()}
    write_lines(out, [*lines, {"step": 50, "eval": early}, {"step": NUM_STEPS, "eval": values}])
    truth = np.stack(maps(dataset, name, 4))
    size = 4 if config.tokenizer.decoder == "vit" else 8
    made = np.stack([blurred(m, dataset, name, size) for m in truth])
    plain = np.stack([blurred(m, dataset, name, 12) for m in truth])
    np.savez_compressed(
        out / "reconstructions.npz", allow_pickle=False, truth=truth, restored=made, baseline=plain
    )
    scores = (
        {"accuracy": 0.7, "miou": 0.5} if row.kind == "classes" else {"rmse": 44.0, "mae": 33.0}
    )
    baseline = {"bits": 1435.07, "spent_bits": 1400.0, "cells": 13, "scores": scores}
    (out / "baseline.json").write_text(json.dumps(baseline))
    counts = {"tokenizer": 500_000} | ({"critic": 45_000} if arm.endswith("gan") else {})
    (out / "parameters.json").write_text(json.dumps(counts))
    mark_done(out, NUM_STEPS, values)


def start_run(config: Stage1Config, dataset: Dataset, last_step: int, number: int = 0) -> None:
    """A run that has come as far as `last_step`. Its largest late gradient is three times the median."""
    record = {"dataset": {"path": str(dataset.path), "fingerprint": dataset.fingerprint}}
    config.out.mkdir(parents=True, exist_ok=True)
    write_records(config.out, config, 1, 0, record)
    lines = [
        {"step": s, "loss": falling(0.9 + 0.1 * number, s, NUM_STEPS), "lr": 1e-3,
         "grad_norm": {5: 90.0, 60: 6.0}.get(s, 2.0), "samples_per_s": 80.0 + 8 * number}
        for s in range(5, last_step + 1, 5)
    ]  # fmt: skip
    write_lines(config.out, lines)
