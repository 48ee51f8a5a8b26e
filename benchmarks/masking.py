"""What masking costs a sample, in microseconds of one core, per strategy.

Two layouts: five token modalities of 14 x 14 with 128 tokens in and 128 out (the setting that public 4M
code is measured in), and the eleven modalities of the demo, with and without sentinels in texts. The
bound is what the draw would cost if only places were drawn: `rng.permutation` of every stream that is
present.

    python benchmarks/masking.py [--samples 2000] [--json FILE]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, not as a module

import numpy as np

from configs import load_config
from configs.schema import MaskedConfig, Stage2Config
from pipeline.data.views import Views
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking import build_masking
from pipeline.stage2.streams import Kind, Stream

STRATEGIES: dict[str, dict[str, Any]] = {
    "dirichlet": {"kind": "dirichlet"},
    "random": {"kind": "random"},
    "block": {"kind": "block"},
    "tube": {"kind": "tube"},
    "single": {"kind": "single", "of": "any"},
    "dirichlet, dropout": {"kind": "dirichlet", "modality_dropout": 0.3},
}
# Samples that a strategy draws before the next has its turn.
_TURN = 50


@dataclass(frozen=True)
class Row:
    """Medians over samples that lack each modality in one case of ten, in microseconds."""

    layout: str
    strategy: str
    us: float
    bound_us: float


def five() -> tuple[Layout, int, int]:
    """Five token modalities of 196 places; inputs and targets per sample."""
    return _layout([(f"m{i}", "map", 14, True) for i in range(5)], span=False), 128, 128


def demo(span: bool) -> tuple[Layout, int, int]:
    """The streams of `configs/stage2/small.yaml` on windows of 720 m."""
    config = cast(Stage2Config, load_config("configs/stage2/small.yaml")).masked
    sizes = {"captions": 32, "OSM": 32, "coordinates": 4, "date": 3}
    kinds = {"captions": "sequence", "OSM": "sequence", "coordinates": "set", "date": "set"}
    pixels = {"S2L2A": 18, "S1GRD": 18, "Landsat": 12}
    streams = [(name, "pixels", pixels[name], False) for name in config.pixels]
    streams += [(n, kinds.get(n, "map"), sizes.get(n, 9), True) for n in config.tokens]
    return _layout(streams, span), config.num_input_tokens, config.num_target_tokens


def _layout(rows: list[tuple[str, str, int, bool]], span: bool) -> Layout:
    streams = []
    for name, kind, size, is_target in rows:
        is_map = kind in ("pixels", "map")
        streams.append(
            Stream(
                f"{name}@{'px' if kind == 'pixels' else 'tok'}", name, cast(Kind, kind),
                size**2 if is_map else size, True, is_target, grid=(size, size) if is_map else None,
                num_sentinels=size // 2 + 1 if span and kind == "sequence" else 0,
            )
        )  # fmt: skip
    return Layout(tuple(streams), window_m=720, views=Views())


def measure(num_samples: int = 2000) -> list[Row]:
    """Cost per sample of every strategy on every layout, strategies taking turns."""
    rows = []
    cases = {"5 x 196": five(), "demo": demo(False), "demo, spans": demo(True)}
    for name, (layout, num_in, num_out) in cases.items():
        rng = np.random.default_rng(0)
        sizes = np.array([s.num_positions for s in layout.streams])
        present = rng.random((num_samples, len(sizes))) > 0.1
        present[~present.any(1), 0] = True
        available = list(sizes * present)
        calls: dict[str, Callable[[np.ndarray], object]] = {
            kind: _call(layout, entry, num_in, num_out) for kind, entry in STRATEGIES.items()
        }
        draw = np.random.Generator(np.random.Philox(key=[0, 1]))
        calls["bound"] = lambda counts, draw=draw: [draw.permutation(n) for n in counts if n]
        times = {kind: [] for kind in calls}
        for first in range(0, num_samples, _TURN):
            for kind, call in calls.items():
                for counts in available[first : first + _TURN]:
                    start = time.perf_counter_ns()
                    call(counts)
                    times[kind].append((time.perf_counter_ns() - start) / 1e3)
        bound = statistics.median(times.pop("bound"))
        rows += [Row(name, kind, statistics.median(t), bound) for kind, t in times.items()]
    return rows


def _call(layout: Layout, entry: dict[str, Any], num_in: int, num_out: int) -> Any:
    config = MaskedConfig.model_validate(
        {"tokens": ["any"], "targets": ["any"], "masking": [entry],
         "num_input_tokens": num_in, "num_target_tokens": num_out}
    )  # fmt: skip
    masking, rng = build_masking(config, layout), np.random.Generator(np.random.Philox(key=[0, 1]))
    return lambda counts: masking(rng, counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = measure(arguments.samples)
    print(f"{'layout':<14}{'strategy':<20}{'us':>8}{'bound us':>10}{'times bound':>13}")
    for row in rows:
        ratio = row.us / row.bound_us
        print(
            f"{row.layout:<14}{row.strategy:<20}{row.us:>8.1f}{row.bound_us:>10.1f}{ratio:>13.2f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
