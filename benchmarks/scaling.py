"""Stage 2 on more GPUs: what was measured on the ranks of this machine, what follows for clusters.

    python benchmarks/scaling.py [--tokens 500e9] [--peak-tflops 989] [--mfu 0.45] [--gb-s 25] [--json FILE]

Measured: the product's loop at the same batch per rank on one rank and on two (weak scaling; two ranks of
one machine share its memory and caches). Calculated, for `configs/stage2/base.yaml` and `large.yaml` as
they are, per number of GPUs:

- memory of a GPU under the configuration's ZeRO stage, as `python -m pipeline inspect` counts it;
- time to compute a step: operations of the model (activation checkpointing's second forward pass not
  counted) / (peak x MFU);
- bytes that a GPU sends per step: gradients scattered in fp32, as DeepSpeed adds them up, and bf16 weights
  gathered, each times (W - 1) / W (ZeRO-3 gathers the weights twice);
- time for that at the bandwidth between nodes per GPU, and days for all tokens: from nothing of it hidden
  behind computing to all of it.

Peak, MFU and bandwidth are assumptions, not measurements: give your cluster's.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, not as a module

from benchmarks import engine as ranks_of
from configs import load_config
from configs.schema import Stage2Config
from pipeline.inspection.costs import measure
from pipeline.inspection.example import build_example

CONFIGS = ("configs/stage2/base.yaml", "configs/stage2/large.yaml")
WORLDS = (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Row:
    """One configuration on so many GPUs."""

    config: str
    world: int
    parameters_m: float
    micro_batch: int
    zero_stage: int
    memory_gb: float
    compute_s: float
    sent_gb: float
    sending_s: float
    days_hidden: float
    days_exposed: float


def measured(ranks: tuple[int, ...], a: argparse.Namespace) -> dict[int, float]:
    """Samples per second and rank count, of ZeRO-2 in the product's loop."""
    found = {}
    for number in ranks:
        a.ranks = number
        with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
            steps = ranks_of.run("stages", Path(folder), a)["step_s"]
        found[number] = number * a.batch / steps["ZeRO-2"]
    return found


def calculated(path: str, world: int, a: argparse.Namespace) -> Row:
    """What a configuration takes on `world` GPUs."""
    config = load_config(path, kind="stage2")
    assert isinstance(config, Stage2Config)
    engine = config.engine
    per_rank = -(-engine.global_batch // world)
    micro = min(engine.micro_batch or per_rank, per_rank)
    example = build_example(config, micro)
    costs = measure(example, engine, world, micro)
    memory = next(m for m in costs.memory if m.stage == engine.zero_stage)
    total = costs.num_parameters
    compute_s = costs.flops_per_sample * per_rank / (a.peak_tflops * 1e12 * a.mfu)
    gathers = 2 if engine.zero_stage == 3 else 1
    sent = total * (4 + 2 * gathers) * (world - 1) / world
    sending_s = sent / (a.gb_s * 1e9)
    num_steps = a.tokens / (example.tokens_per_sample * engine.global_batch)
    days = [num_steps * s / 86400 for s in (max(compute_s, sending_s), compute_s + sending_s)]
    return Row(
        Path(path).stem, world, total / 1e6, micro, engine.zero_stage, memory.total / 1e9,
        compute_s, sent / 1e9, sending_s, *days,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=float, default=500e9)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of one GPU, bf16")
    parser.add_argument("--mfu", type=float, default=0.45)
    parser.add_argument("--gb-s", type=float, default=25.0, help="between nodes, per GPU and way")
    parser.add_argument("--no-measurement", action="store_true", help="calculate only")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="to measure")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4, help="samples per rank and step")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    a = parser.parse_args()
    rates: dict[int, float] = {}
    if not a.no_measurement:
        rates = measured(tuple(a.ranks), a)
        alone = min(rates)
        for number, rate in rates.items():
            share = rate / number / (rates[alone] / alone)
            print(
                f"measured, {number} rank(s): {rate:.1f} samples/s, {share:.0%} of {alone} per rank"
            )
    print(
        f"calculated for {a.tokens:.3g} tokens at {a.mfu:.0%} of {a.peak_tflops:g} TFLOP/s and "
        f"{a.gb_s:g} GB/s:\n"
        f"{'config':<7} {'GPUs':>5} {'M par.':>7} {'micro':>6} {'ZeRO':>5} {'GB a GPU':>9} {'compute s':>10} "
        f"{'GB sent':>8} {'sending s':>10} {'days':>14}"
    )
    rows = [calculated(path, world, a) for path in CONFIGS for world in WORLDS]
    for r in rows:
        days = f"{r.days_hidden:.1f} to {r.days_exposed:.1f}"
        print(
            f"{r.config:<7} {r.world:5d} {r.parameters_m:7.0f} {r.micro_batch:6d} {r.zero_stage:5d} "
            f"{r.memory_gb:9.1f} {r.compute_s:10.2f} {r.sent_gb:8.2f} {r.sending_s:10.3f} {days:>14}"
        )
    if a.json:
        record = {"samples_per_s": rates, "calculated": [asdict(r) for r in rows]}
        a.json.write_text(json.dumps(record, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
