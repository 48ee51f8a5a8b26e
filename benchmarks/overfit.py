"""Can each tokenizer learn one crop by heart? The least that an arm must do before it is compared.

    python benchmarks/overfit.py SHARDS [--modality S2L2A LULC] [--sheet FILE.png] [--check] [--json FILE]

SHARDS is a data set of real samples, such as `python -m shards build` makes of GeoTIFFs. Each arm of
`--experiment` is trained on the middle of one sample, through the engine, without augmentation. Prints PSNR,
or pixel accuracy of classes, and draws truth beside all arms. With --check the exit status is 1 where an
arm stays below 30 dB, or below 98 % of the pixels.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs import load_config
from configs.schema import ComparisonConfig, Stage1Config
from pipeline.engine import distributed
from pipeline.engine.absorb import learn
from pipeline.engine.build import build_engines
from pipeline.engine.schedule import build_schedule
from pipeline.stage1.objective import TokenizerObjective
from shards import open_dataset
from shards.render import render_maps

MIN_PSNR_DB, MIN_ACCURACY = 30.0, 0.98


def arms_of(experiment: str, some: list[str] | None = None) -> dict[str, tuple[str, ...]]:
    """The overrides that make each arm of a comparison, or each of some of them."""
    config = load_config(experiment, kind="comparison")
    assert isinstance(config, ComparisonConfig)
    return {name: chosen for name, chosen in config.arms.items() if not some or name in some}


def overfit(config: Stage1Config, index: int) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Scores, truth and reconstruction [C, H, W] of one sample after training on nothing else."""
    world = distributed.start(config.engine.device)
    torch.manual_seed(config.engine.seed)
    objective = TokenizerObjective(config, open_dataset(str(config.data.shards)))
    engine = build_engines(objective, config.engine, world, 1)
    schedule = build_schedule(config.engine, objective.tokens_per_sample)
    rng = np.random.default_rng(0)
    for step in range(schedule.num_steps):
        # The noise of a diffusion decoder is drawn anew each time; the crop stays.
        batch = objective.collate(
            [objective.eval_sample(index, rng) for _ in range(config.engine.global_batch)]
        )
        outputs = [engine.forward_backward(batch)]
        if engine.step(schedule.factor(step)).applied:
            learn(engine, outputs, world)
    sample = objective.eval_sample(index, np.random.default_rng(1))
    batch = distributed.to_device(objective.collate([sample]), world.device)
    model: Any = engine.model.eval()
    with torch.no_grad():
        scores = objective.summarise(world.sum(model(batch, evaluate=True).sums))
        decoded = model.decode(model.tokenize(batch["x"]), batch["seed"]).float()
    truth, made = batch["x"][0].cpu().numpy(), decoded[0].cpu().numpy()
    if objective.normaliser is None:
        return scores, truth, model.maps(decoded)[0].cpu().numpy()
    return scores, objective.normaliser.inverse(truth), objective.normaliser.inverse(made)


def draw(
    path: Path, rows: dict[str, dict[str, np.ndarray]], words: dict[tuple[str, str], str], data: Any
) -> None:
    """One row per modality: the truth, then what each arm makes of it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    num = max(len(row) for row in rows.values())
    figure, axes = plt.subplots(
        len(rows), num, figsize=(2.0 * num, 2.7 * len(rows)), squeeze=False, layout="constrained"
    )
    for r, (name, row) in enumerate(rows.items()):
        pictures = render_maps(list(row.values()), data.modalities[name])
        for axis in axes[r, len(row) :]:
            axis.set_axis_off()
        for axis, arm, picture in zip(axes[r], row, pictures, strict=False):
            axis.imshow(picture, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_title(f"{name}\n{arm}{words.get((name, arm), '')}", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--experiment", default="configs/experiments/tokenizers.yaml")
    parser.add_argument("--modality", nargs="+", default=["S2L2A", "LULC"])
    parser.add_argument("--arm", nargs="+", help="some of the arms")
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--crop", type=int, default=48, help="side in pixels")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="more overrides")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument(
        "--check", action="store_true", help="exit 1 when an arm stays below its bar"
    )
    parser.add_argument("--json", type=Path, help="also write the figures there")
    a = parser.parse_args()
    experiment = load_config(a.experiment, kind="comparison")
    assert isinstance(experiment, ComparisonConfig)
    data = open_dataset(a.shards)
    rows: dict[str, dict[str, np.ndarray]] = {}
    found: dict[str, dict[str, float]] = {}
    words, missed = {}, []
    for name in a.modality:
        is_classes = data.modalities[name].kind == "classes"
        for arm, chosen in arms_of(a.experiment, a.arm).items():
            overrides = [
                *experiment.stage1.overrides, *chosen, f"modality={name}", f"data.shards={a.shards}",
                "data.eval_split=train", "tokenizer.augment=false", f"tokenizer.crop_px={a.crop}",
                f"engine.num_steps={a.steps}", f"engine.global_batch={a.batch}", "engine.kind=plain",
                *a.set,
            ]  # fmt: skip
            config = load_config(experiment.stage1.config, overrides, kind="stage1")
            assert isinstance(config, Stage1Config)
            began = time.perf_counter()
            scores, truth, made = overfit(config, a.sample)
            seconds = time.perf_counter() - began
            score = scores["accuracy" if is_classes else "psnr"]
            text = f"{score:.1%}" if is_classes else f"{score:.1f} dB"
            print(f"{name:<8} {arm:<14} {text:>8}  {seconds:6.1f} s", flush=True)
            rows.setdefault(name, {"truth": truth})[arm] = made
            words[name, arm] = f"\n{text}"
            found[f"{name}/{arm}"] = {"score": score, "seconds": seconds}
            if score < (MIN_ACCURACY if is_classes else MIN_PSNR_DB):
                missed.append(f"{name} {arm} {text}")
    if a.sheet:
        draw(a.sheet, rows, words, data)
    if a.json:
        a.json.write_text(json.dumps(found, indent=1))
    if a.check:
        print("all bars met" if not missed else "missed: " + "; ".join(missed))
    return int(a.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
