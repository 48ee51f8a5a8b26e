"""How fast MultiMAE trains, and how near that is to what the machine can multiply.

    python benchmarks/multimae.py [--check] [--json FILE] [--batch 16] [--precision bf16] [--set KEY=VALUE]

The model of `configs/multimae/paper.yaml` (ViT-B, six groups of 49 patches, 49 seen, seven decoders) on
made-up windows, masks as the loader draws them, through the plain engine with AdamW. The limit is a product
of two 4,096-squares in the same type, measured before and after; counted are the operations that the model
needs (forward, and twice that backward). With --check the exit status is 1 where it trains at less than
35 % of the limit or masking takes more than 100 us a sample. Without --precision the type is bf16 where the
machine multiplies that faster than fp32.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, not as a module

import numpy as np
import torch
from torch import nn

from benchmarks._clock import StepClock, remove
from benchmarks._products import faster_type, product_limit, seconds
from configs import load_config
from configs.registry import BandStatistics, modality_registry
from configs.schema import EngineConfig, MultiMAERunConfig
from pipeline.data.pixels import PixelReader, Pixels
from pipeline.data.transforms import Normaliser
from pipeline.engine import distributed
from pipeline.engine.base import Engine
from pipeline.engine.build import build_engines
from pipeline.engine.distributed import World, to_device
from pipeline.engine.flops import BACKWARD_FACTOR, FlopCounter, peak_flops
from pipeline.multimae.groups import GroupTable, build_groups
from pipeline.multimae.model import MultiMAE
from pipeline.multimae.samples import Masked, Masking, collate, usable_patches

MIN_SHARE, MAX_MASKING_US = 0.35, 100.0
LIMIT_SHAPES = ((4096, 4096, 4096),)


def made_up(table: GroupTable, rng: np.random.Generator) -> Pixels:
    """A window of which everything is there and valid."""
    rows, found = modality_registry(), Pixels({}, {})
    for name in table.modalities:
        side = next(g.side_px for g in table.groups if g.modality == name)
        shape, row = (rows[name].num_bands, side, side), rows[name]
        if row.kind == "classes":
            values = [c.value for c in row.classes if c.value != row.nodata]
            found.values[name] = rng.choice(values, shape).astype(np.uint8)
        else:
            found.values[name] = rng.normal(size=shape).astype(np.float32)
        found.valid[name] = np.ones((side, side), bool)
    return found


class Arm:
    """The model with its engine, and a batch."""

    critic = None

    def __init__(self, a: argparse.Namespace, world: World):
        config = load_config("configs/multimae/paper.yaml", a.set, kind="multimae")
        assert isinstance(config, MultiMAERunConfig)
        rows = modality_registry()
        self.table = build_groups(config.multimae, rows, "the registry")
        torch.manual_seed(0)
        self.model: nn.Module = MultiMAE(self.table, config.multimae)
        engine = EngineConfig(
            kind="plain",
            precision=a.precision,
            num_steps=10,
            global_batch=a.batch,
            compile=a.compile,
        )
        objective: Any = self
        self.world = world
        self.engine: Engine = build_engines(objective, engine, world, 1)
        self.masking, rng = Masking(config.multimae, self.table), np.random.default_rng(0)
        self.windows = [made_up(self.table, rng) for _ in range(a.batch)]
        normalisers = {
            n: Normaliser(
                rows[n], BandStatistics((0.0,) * rows[n].num_bands, (1.0,) * rows[n].num_bands)
            )
            for n in self.table.modalities
            if rows[n].kind == "image"
        }
        nothing: Any = SimpleNamespace(modalities=rows)
        self.reader = PixelReader(nothing, self.table.modalities, normalisers, self.table.window_m)
        masked = [self.masked(window, rng) for window in self.windows]
        self.batch = to_device(collate(masked, self.reader, self.table), world.device)

    def masked(self, window: Pixels, rng: np.random.Generator) -> Masked:
        return Masked(window, self.masking(rng, usable_patches(self.table, window.valid)))

    def train(self) -> None:
        self.engine.forward_backward(self.batch)
        self.engine.step(1.0)

    def flops(self) -> float:
        """Of one training step: forward and twice that backward."""
        with torch.no_grad(), FlopCounter() as counter:
            self.model(self.batch)
        return BACKWARD_FACTOR * counter.total


def breakdown(arm: Arm, rounds: int) -> dict[str, float]:
    """Each part's share of a step, by the medians of several."""
    clock, model = StepClock(arm.world.device, "patches"), cast(MultiMAE, arm.model)
    last = list(model.decoders)[-1]
    handles = [
        model.encoder[0].register_forward_pre_hook(clock.before("patches", "encoder")),
        model.encoder_norm.register_forward_hook(clock.after("encoder", "decoders")),
        model.decoders[last].register_forward_hook(clock.after("decoders", "loss")),
    ]
    shares = clock.shares(arm.engine, arm.batch, rounds)
    remove(handles)
    return shares


def masking_us(arm: Arm, rounds: int = 500) -> float:
    """Median time to draw what is seen of one sample, in microseconds."""
    times, window = [], arm.windows[0]
    for number in range(rounds):
        rng = np.random.Generator(np.random.Philox(key=[0, number]))
        began = time.perf_counter()
        arm.masked(window, rng)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def measure(a: argparse.Namespace, world: World) -> dict[str, Any]:
    """Everything about the model."""
    before = product_limit(a.precision, world.device, LIMIT_SHAPES, 3)
    arm = Arm(a, world)
    step_s = seconds(arm.train, world.device, a.rounds)
    flops = arm.flops()
    found: dict[str, Any] = {
        "parameters_m": sum(p.numel() for p in arm.model.parameters()) / 1e6,
        "step_ms": step_s * 1e3,
        "samples_per_s": a.batch / step_s,
        "gflop_per_sample": flops / a.batch / 1e9,
        "gflops": flops / step_s / 1e9,
        "breakdown": breakdown(arm, a.rounds),
        "masking_us": masking_us(arm),
    }
    after = product_limit(a.precision, world.device, LIMIT_SHAPES, 3)
    found["limit_gflops"] = max(before, after) / 1e9
    found["share"] = found["gflops"] / found["limit_gflops"]
    peak = peak_flops(world.device) if a.precision == "bf16" else None
    if peak is not None:
        found["mfu"] = flops / step_s / peak
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the configuration")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the blocks")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    a = parser.parse_args()
    world = distributed.start("auto")
    a.precision = a.precision or faster_type(world.device)
    print(f"{world.device.type}, {a.precision}, batch {a.batch}, {torch.get_num_threads()} threads")
    found = measure(a, world)
    mfu = f", MFU {found['mfu']:.1%}" if "mfu" in found else ""
    print(
        f"{found['parameters_m']:.0f} M parameters, {found['gflop_per_sample']:.1f} GFLOP a sample"
        f"\n  step        {found['step_ms']:9.0f} ms, {found['samples_per_s']:.1f} samples/s"
        f"\n  products    {found['gflops']:9.0f} GFLOP/s, {found['share']:.0%} of "
        f"{found['limit_gflops']:.0f}{mfu}"
        "\n  of the step "
        + ", ".join(f"{n} {v:.0%}" for n, v in found["breakdown"].items())
        + f"\n  masking     {found['masking_us']:9.0f} us a sample",
        flush=True,
    )
    if a.json:
        a.json.write_text(json.dumps(found, indent=1))
    missed = []
    if found["share"] < MIN_SHARE:
        missed.append(f"{found['share']:.0%} of the limit, at least {MIN_SHARE:.0%}")
    if found["masking_us"] > MAX_MASKING_US:
        missed.append(f"masking {found['masking_us']:.0f} us, at most {MAX_MASKING_US:.0f}")
    if a.check:
        print("all bars met" if not missed else "missed: " + "; ".join(missed))
    return int(a.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
