"""One rank of benchmarks/engine.py. The model is stage 2's, its batch is made up and always the same."""

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs.load import parse_config
from configs.schema import Stage2Config
from pipeline.data.loader import Batch
from pipeline.engine import distributed, lifecycle
from pipeline.engine.base import Forward
from pipeline.engine.distributed import World, to_device
from pipeline.engine.heartbeat import Heartbeat
from pipeline.engine.loop import Trainer
from pipeline.engine.objective import Critic, Remarks
from pipeline.inspection.assumed import AssumedData
from pipeline.inspection.example import masked_batch
from pipeline.stage2.layout import build_layout
from pipeline.stage2.model import MaskedTransformer

NAMES = ("S2L2A", "S1GRD", "DEM", "LULC", "coordinates")


def make_config(out: Path, width: int, depth: int, engine: dict[str, Any]) -> Stage2Config:
    config = parse_config(
        {
            "kind": "stage2",
            "out": str(out),
            "data": {"shards": "none"},
            "masked": {
                "pixels": ["S2L2A", "S1GRD"],
                "tokens": list(NAMES),
                "targets": list(NAMES),
                "width": width,
                "heads": width // 64,
                "encoder_depth": depth,
                "decoder_depth": depth,
                "num_input_tokens": 128,
                "num_target_tokens": 128,
            },
            "engine": {"num_steps": 10**6, "log_every": 10**6, **engine},
        }
    )
    assert isinstance(config, Stage2Config)
    return config


@dataclass
class NoData:
    """As much of a data set as the order of samples asks for."""

    path: str = "none"
    fingerprint: str = "none"

    def damaged_shards(self) -> list[str]:
        return []

    def locate(self, i: int) -> tuple[str, str]:
        return str(i), "none"


class Prepared:
    """An objective whose samples cost nothing: what is left is the loop."""

    def __init__(self, config: Stage2Config, batch_size: int):
        torch.manual_seed(0)
        self.dataset: Any = NoData()
        self.layout = build_layout(config.masked, AssumedData(config.data, NAMES, {}))
        self.model: nn.Module = MaskedTransformer(self.layout, config.masked)
        self.critic: Critic | None = None
        self.indices, self.eval_indices = np.arange(1 << 20), np.arange(0)
        self.tokens_per_sample = 256
        self.batch = made_up(masked_batch(self.layout, config.masked, batch_size), self.layout)

    def sample(self, index: int, rng: np.random.Generator, cursor: int) -> int:
        return index

    def eval_sample(self, index: int, rng: np.random.Generator) -> int:
        return index

    def collate(self, _: list[int]) -> Batch:
        return self.batch

    def summarise(self, sums: dict[str, Tensor]) -> dict[str, float]:
        return {"loss": float(sums["loss"] / sums["count"])}

    def remarks(self, sums: dict[str, Tensor]) -> Remarks:
        return Remarks()

    def identity(self) -> dict[str, str]:
        return {}

    def finish(self, folder: Path) -> None: ...


def made_up(batch: Batch, layout: Any) -> Batch:
    """Values for the shapes of a batch, every index within its table."""
    generator = torch.Generator().manual_seed(0)

    def codes(shape: torch.Size, below: int) -> Tensor:
        return torch.randint(below, shape, generator=generator)

    b, n = batch["in_where"].shape
    k = batch["out_where"].shape[1]
    found: Batch = {}
    for name, value in batch.items():
        if name in ("in_where", "out_where"):
            found[name] = codes(value.shape, layout.num_positions)
        elif name in ("in_stream", "out_stream"):
            found[name] = codes(value.shape, len(layout.streams))
        elif name in ("in_code", "out_code"):
            found[name] = codes(value.shape, layout.vocab_size)
        elif name.startswith("slot/"):
            found[name] = torch.randperm(b * n, generator=generator)[: len(value)]
        elif name.startswith("goal_slot/"):
            found[name] = codes(value.shape, b * k)
        elif name.startswith("goal_weight/"):
            found[name] = torch.full(value.shape, 1.0 / k)
        elif name.startswith("goal/"):
            vocab = layout.streams[layout.index(name.removeprefix("goal/"))].vocab_size
            found[name] = codes(value.shape, vocab)
        else:
            found[name] = torch.randn(value.shape, generator=generator)
    return found


class Timed(Trainer):
    """The product's loop with a clock at each vote, and the seconds each save held it up."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.ticks: list[float] = []
        self.stalls: list[float] = []

    def _vote(self, outputs: list[Forward], stop: lifecycle.StopFlag) -> Any:
        vote = super()._vote(outputs, stop)
        self.ticks.append(time.perf_counter())
        if self.world.is_main and len(self.ticks) == 1:
            (self.config.out / "first-step").write_text(str(time.time()))
        return vote

    def _save(self, *, wait: bool) -> None:
        synchronise()
        began = time.perf_counter()
        super()._save(wait=wait)
        self.stalls.append(time.perf_counter() - began)

    def _finish(self) -> int:
        return 0


def train(config: Stage2Config, objective: Prepared, world: World, num_steps: int) -> Timed:
    """The product's loop for so many steps."""
    engine = config.engine.model_copy(update={"num_steps": num_steps})
    config = config.model_copy(update={"engine": engine})
    heartbeat = Heartbeat(config.out, world.rank, world.size, engine.watch)
    trainer = Timed(config, "benchmark", objective, world, heartbeat)
    try:
        with lifecycle.StopFlag() as stop:
            trainer.resume()
            code = trainer.run(stop)
    finally:
        trainer.close()
        heartbeat.close()
    if code:
        sys.exit(code)
    return trainer


def bare(config: Stage2Config, objective: Prepared, world: World) -> Any:
    """The same model in the shortest loop that DeepSpeed's documentation shows; a function of steps."""
    import deepspeed

    from pipeline.engine.deepspeed import zero_config
    from pipeline.engine.optimizer import build_optimizer

    model = objective.model.to(world.device)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=build_optimizer(model, config.engine.optimizer),
        config=zero_config(config.engine, 1, sum(p.numel() for p in model.parameters())),
        dist_init_required=False,
    )

    def run(num_steps: int) -> list[float]:
        ticks = []
        for _ in range(num_steps):
            output = engine(to_device(objective.batch, world.device))
            engine.backward(output.loss.mean())
            engine.step()
            ticks.append(time.perf_counter())
        return ticks

    return run


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median_step(ticks: list[float]) -> float:
    """Seconds between votes, the first few left out."""
    return statistics.median(np.diff(ticks[5:]).tolist())


def overhead(a: argparse.Namespace, world: World) -> dict[str, Any]:
    """Ours and the bare loop in turns, on the same ranks."""
    settings = {"global_batch": a.batch * world.size, "zero_stage": 2, "precision": a.precision}
    settings["checkpoint"] = {"every_steps": 10**6}
    config = make_config(a.out / "bare", a.width, a.depth, settings)
    steps = bare(config, Prepared(config, a.batch), world)
    steps(5)
    pairs = []
    for number in range(a.rounds):
        config = make_config(a.out / f"ours-{number}", a.width, a.depth, settings)
        ours = train(config, Prepared(config, a.batch), world, a.steps)
        pairs.append((median_step(ours.ticks), median_step(steps(a.steps))))
    ratios = [ours / theirs for ours, theirs in pairs]
    return {
        "ours_s": statistics.median(p[0] for p in pairs),
        "bare_s": statistics.median(p[1] for p in pairs),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def stages(a: argparse.Namespace, world: World) -> dict[str, Any]:
    """Step times of every engine, interleaved."""
    kinds: dict[str, dict[str, Any]] = {"plain": {"kind": "plain"}}
    first = 0 if a.precision == "fp32" else 1
    kinds |= {f"ZeRO-{s}": {"zero_stage": s} for s in range(first, 4)}
    found: dict[str, list[float]] = {name: [] for name in kinds}
    mfu: dict[str, float] = {}
    for number in range(a.rounds):
        for name, kind in kinds.items():
            settings = {"global_batch": a.batch * world.size, "precision": a.precision, **kind}
            config = make_config(a.out / f"{name}-{number}", a.width, a.depth, settings)
            trainer = train(config, Prepared(config, a.batch), world, a.steps)
            found[name].append(median_step(trainer.ticks))
            peak, flops = trainer.reporter.peak_flops, trainer.reporter.flops_per_sample
            if peak and flops:
                rate = settings["global_batch"] / found[name][-1]
                mfu[name] = flops * rate / peak
    return {"step_s": {n: statistics.median(v) for n, v in found.items()}, "mfu": mfu}


def saves(a: argparse.Namespace, world: World) -> dict[str, Any]:
    """What a save holds up, written beside training and waited for."""
    found: dict[str, Any] = {}
    for background in (True, False) * a.rounds:
        settings = {
            "global_batch": a.batch * world.size,
            "checkpoint": {"every_steps": 15, "background": background},
            "precision": a.precision,
        }
        name = "background" if background else "waited"
        out = a.out / f"{name}-{len(found.get(name, []))}"
        config = make_config(out, a.width, a.depth, settings)
        trainer = train(config, Prepared(config, a.batch), world, 46)
        # The first allocates host memory, the last waits for the end of the run in either way.
        found.setdefault(name, []).append(statistics.median(trainer.stalls[1:-1]))
    size = sum(
        p.stat().st_size for p in next((a.out / "waited-0").glob("checkpoints/step-*")).iterdir()
    )
    return {
        "commit_mb": size / 1e6,
        "background_s": statistics.median(found["background"]),
        "waited_s": statistics.median(found["waited"]),
    }


def steady(a: argparse.Namespace, world: World) -> dict[str, Any]:
    """Train until a signal comes; for the time that takes."""
    settings = {"global_batch": a.batch * world.size, "precision": a.precision}
    config = make_config(a.out, a.width, a.depth, settings)
    train(config, Prepared(config, a.batch), world, 10**6)
    return {}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("overhead", "stages", "saves", "steady"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    a = parser.parse_args()
    world = distributed.start("auto")
    task = {"overhead": overhead, "stages": stages, "saves": saves, "steady": steady}[a.task]
    result = task(a, world)
    if world.is_main:
        (a.out / f"{a.task}.json").write_text(json.dumps(result))
    world.barrier()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
