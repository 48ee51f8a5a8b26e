"""How fast tokenizers train, tokenize and decode, and how near that is to what the machine can multiply.

    python benchmarks/stage1.py [--check] [--json FILE] [--arm fsq-vit ...] [--precision bf16] [--profile]

Each arm of `configs/experiments/tokenizers.yaml` at the size of a small ViT (512 wide, 8 + 8 blocks, patches
of 16; a diffusion decoder that is a U-ViT of that size, sampled in 10 steps) on made-up windows of 12 bands
and 224 px, through the plain engine. The limit is the fastest matrix product of this machine in the same
type, measured before and after each arm. With --check the exit status is 1 where the deterministic or the
diffusion arm trains at less than 30 % of it. Without --precision the type is bf16 where the machine
multiplies that faster than fp32.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, not as a module

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks._products import faster_type, product_limit, seconds
from benchmarks.overfit import arms_of
from configs.registry import BandStatistics, modality
from configs.schema import EngineConfig, TokenizerConfig
from pipeline.data.loader import Batch
from pipeline.engine import distributed
from pipeline.engine.absorb import learn
from pipeline.engine.base import Engine
from pipeline.engine.build import build_engines
from pipeline.engine.distributed import World
from pipeline.engine.flops import BACKWARD_FACTOR, FlopCounter, peak_flops
from pipeline.engine.objective import Critic
from pipeline.stage1.tokenizer import Teaching, Tokenizer

MIN_SHARE = 0.30
BARRED = ("fsq-vit", "vq-vit", "fsq-diffusion", "vq-diffusion")
NUM_BANDS, SIZE = 12, 224
# Squares that stream from memory, and the products of a small ViT, whose weights stay in cache.
SHAPES = ((2048, 2048, 2048), (1568, 512, 2048), (1568, 512, 1536))


class Arm:
    """One tokenizer with its engine and a batch."""

    def __init__(self, overrides: list[str], a: argparse.Namespace, world: World):
        from configs import load_config

        config: Any = load_config(
            "configs/stage1/base.yaml",
            ["tokenizer.width=512", "tokenizer.encoder_depth=8", "tokenizer.decoder_depth=8",
             "tokenizer.heads=8", "tokenizer.gan.start_step=0", "tokenizer.diffusion.network=uvit",
             "tokenizer.diffusion.width=512", "tokenizer.diffusion.depth=8",
             "tokenizer.diffusion.patch_px=16", "tokenizer.diffusion.sample_steps=10",
             *overrides],
            kind="stage1",
        )  # fmt: skip
        tokenizer: TokenizerConfig = config.tokenizer
        torch.manual_seed(0)
        row = modality("S2L2A")
        statistics = BandStatistics((0.0,) * NUM_BANDS, (1.0,) * NUM_BANDS)
        self.model: Any = Tokenizer(row, tokenizer, SIZE, Teaching(statistics, a.batch))
        self.critic = Critic(self.model.critic, 1.0) if self.model.critic is not None else None
        engine = EngineConfig(
            kind="plain", precision=a.precision, num_steps=10, global_batch=a.batch
        )
        objective: Any = self
        self.engine: Engine = build_engines(objective, engine, world, 1)
        self.world = world
        generator = torch.Generator().manual_seed(0)
        self.batch: Batch = distributed.to_device(
            {
                "x": torch.randn(a.batch, NUM_BANDS, SIZE, SIZE, generator=generator),
                "valid": torch.ones(a.batch, SIZE, SIZE, dtype=torch.bool),
                "seed": torch.randint(1 << 40, (a.batch,), generator=generator),
            },
            world.device,
        )
        self.precision = a.precision

    def train(self) -> None:
        outputs = [self.engine.forward_backward(self.batch)]
        self.engine.step(1.0)
        learn(self.engine, outputs, self.world)

    def flops(self) -> float:
        """Of one training step without the critic's own: forward and twice that backward."""
        with torch.no_grad(), FlopCounter() as counter:
            self.model(self.batch)
        return BACKWARD_FACTOR * counter.total

    @torch.no_grad()
    def tokenize(self) -> Tensor:
        with self._autocast():
            return self.model.tokenize(self.batch["x"])

    def decode(self, codes: Tensor) -> Tensor:
        with torch.no_grad(), self._autocast():
            return self.model.decode(codes, self.batch["seed"])

    def _autocast(self) -> Any:
        return torch.autocast(
            self.world.device.type, torch.bfloat16, enabled=self.precision == "bf16"
        )


def where_time_goes(arm: Arm, rows: int = 8) -> list[tuple[str, float]]:
    """The operations of a training step that take longest, with their share of it."""
    kinds = [ProfilerActivity.CPU]
    on_gpu = arm.world.device.type == "cuda"
    if on_gpu:
        kinds.append(ProfilerActivity.CUDA)
    with profile(activities=kinds) as found:
        arm.train()
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda e: -getattr(e, name))
    total = sum(getattr(e, name) for e in events) or 1
    return [(e.key, getattr(e, name) / total) for e in events[:rows]]


def measure(overrides: list[str], a: argparse.Namespace, world: World) -> dict[str, Any]:
    """Everything about one arm."""
    limit = product_limit(a.precision, world.device, SHAPES)
    arm = Arm(overrides, a, world)
    step_s = seconds(arm.train, world.device, a.rounds)
    flops = arm.flops()
    arm.model.eval()
    codes = arm.tokenize()
    found = {
        "parameters_m": sum(p.numel() for p in arm.model.parameters()) / 1e6,
        "steps_per_s": 1 / step_s,
        "train_samples_per_s": a.batch / step_s,
        "tokenize_samples_per_s": a.batch / seconds(arm.tokenize, world.device, a.rounds),
        "decode_samples_per_s": a.batch / seconds(lambda: arm.decode(codes), world.device, 1),
        "gflops": flops / step_s / 1e9,
        "limit_gflops": max(limit, product_limit(a.precision, world.device, SHAPES)) / 1e9,
    }
    found["share"] = found["gflops"] / found["limit_gflops"]
    peak = peak_flops(world.device) if a.precision == "bf16" else None
    if peak is not None:
        found["mfu"] = flops / step_s / peak
    arm.model.train()
    if a.profile:
        found["profile"] = where_time_goes(arm)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--arm", nargs="+", help="some of the arms")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--set", nargs="*", default=[], help="more overrides of every arm")
    parser.add_argument("--profile", action="store_true", help="which operations take the time")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    a = parser.parse_args()
    world = distributed.start("auto")
    if a.precision is None:
        a.precision = faster_type(world.device)
    print(f"{world.device.type}, {a.precision}, batch {a.batch}, {torch.get_num_threads()} threads")
    print(
        f"{'arm':<14} {'M par.':>7} {'train/s':>8} {'tokenize/s':>11} {'decode/s':>9} "
        f"{'GFLOP/s':>8} of limit",
        flush=True,
    )
    results, missed = {}, []
    for name, chosen in arms_of("configs/experiments/tokenizers.yaml", a.arm).items():
        found = results[name] = measure([*chosen, *a.set], a, world)
        mfu = f", MFU {found['mfu']:.1%}" if "mfu" in found else ""
        print(
            f"{name:<14} {found['parameters_m']:7.1f} {found['train_samples_per_s']:8.2f} "
            f"{found['tokenize_samples_per_s']:11.2f} {found['decode_samples_per_s']:9.2f} "
            f"{found['gflops']:8.0f} {found['share']:.0%} of {found['limit_gflops']:.0f}{mfu}",
            flush=True,
        )
        for operation, share in found.get("profile", ()):
            print(f"    {share:6.1%}  {operation}")
        if name in BARRED and found["share"] < MIN_SHARE:
            missed.append(f"{name} {found['share']:.0%} of the limit, at least {MIN_SHARE:.0%}")
    if a.json:
        a.json.write_text(json.dumps(results, indent=1))
    if a.check:
        print("all bars met" if not missed else "missed: " + "; ".join(missed))
    return int(a.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
