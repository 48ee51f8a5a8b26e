"""From each modality alone, from pairs, and in chains: is every other modality generated better than guessed?

    python benchmarks/any_to_any.py --run runs/demo/stage2 [--samples 64] [--check] [--json FILE]

On held-out samples of the shard set that the run was trained on. Maps are decoded from the expected codes and
scored in physical units against the better one of two guesses: the training mean (the most frequent class),
and a climatology, what training samples near in place and season look like. Texts, places and dates are
scored by the cross-entropy of their tokens against code frequencies. The figure is error / error of the
guess (RMSE, share of wrong pixels, nats): below 1 is better than guessing.

Pairs are each source with the next one; per target, the mean over pairs is compared with the mean over the
same sources alone. A chain draws a first target four times, makes it input and makes the second; a single
step makes the second from the source alone. Both do so as the estimate of least error, which is of a chain
the mean over its draws, and by drawing. With --check the exit status is 1 where a source alone does not beat
guessing, pairs are no better than single sources on average, or a chain is worse than a single step.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from configs.registry import in_registry_order
from configs.schema import EvaluateConfig
from pipeline.engine.distributed import pick_device
from pipeline.evaluate.run import evaluate
from pipeline.generate.chain import generate_targets
from pipeline.generate.climatology import Whereabouts
from pipeline.generate.judge import Judge
from pipeline.generate.picking import Sampling
from pipeline.generate.run import truth_of
from pipeline.generate.trained import Trained
from pipeline.generate.training import look_through
from pipeline.stage2.samples import SampleReader
from shards import open_dataset

TOLERANCE = 1.02
"""A chain may be so much worse than a single step before it counts: two draws differ as well."""


class Bench:
    """A trained run and what its maps are judged by."""

    def __init__(self, a: argparse.Namespace):
        self.trained = Trained(a.run, pick_device("auto"))
        self.dataset = open_dataset(self.trained.shards)
        layout = self.trained.layout
        self.reader = SampleReader(self.dataset, layout, self.trained.normalisers)
        self.view, self.batch = layout.views.centre, a.batch
        self.sources = in_registry_order({layout.streams[i].modality for i in layout.inputs})
        names = in_registry_order({layout.streams[i].modality for i in layout.targets})
        self.maps = [n for n in names if self.dataset.modalities[n].is_map]
        self.others = [n for n in names if n not in self.maps]
        streams = self.trained.targets(tuple(self.maps))
        whereabouts = Whereabouts(self.dataset)
        self.judges = {
            n: Judge(self.trained, self.reader, whereabouts, n, streams[n], self.view)
            for n in self.maps
        }
        for name, judge in self.judges.items():
            students = [judge.climatology, *self.trained.students(self.reader, name)]
            look_through(self.reader, name, self.view, students)
        self.num_samples = a.samples

    def errors(
        self,
        given: tuple[str, ...],
        targets: list[str],
        how: Sampling,
        *,
        chained: bool,
        expected: bool,
    ) -> dict[str, float]:
        """Error of each target over the error of the better guess."""
        for name in targets:
            self.judges[name].reset()
        sources, streams = self.trained.sources(given), self.trained.targets(tuple(targets))
        indices = self.dataset.select(split="val", require=[*given, targets[-1]])
        for start in range(0, min(len(indices), self.num_samples), self.batch):
            ids = [int(i) for i in indices[start : start + self.batch]]
            contents = [self.reader.content(i, self.view, only=sources) for i in ids]
            drawn = generate_targets(
                self.trained.model, contents, ids, list(streams.values()), how,
                chained=chained, expected=expected,
            )  # fmt: skip
            for name, stream in streams.items():
                made, _ = self.trained.values(name, drawn[stream], self.dataset.modalities[name])
                truths = [truth_of(self.reader, name, i, self.view) for i in ids]
                self.judges[name].add(ids, made, truths)
        return {name: relative(self.judges[name]) for name in targets}


def relative(judge: Judge) -> float:
    """The model's error over that of the better guess."""
    values = {way: score.values() for way, score in judge.ways.items()}
    error = {
        way: found["rmse"] if "rmse" in found else 1 - found["accuracy"]
        for way, found in values.items()
    }
    return error["model"] / min(error["baseline"], error["climatology"])


def token_ratios(
    bench: Bench, pairs: list[tuple[str, str]], a: argparse.Namespace
) -> dict[str, Any]:
    """Cross-entropy over that of code frequencies, per input set and target that is no map."""
    config = EvaluateConfig(
        kind="evaluate", run=a.run, out=a.out, data=bench.trained.config.data,
        num_samples=a.samples, without=(), pairs=tuple(pairs),
    )  # fmt: skip
    evaluate(config)
    record = json.loads((a.out / "scores.json").read_text())
    return {
        given: {t: found[t]["ce"] / record["prior"][t]["ce"] for t in bench.others if t in found}
        for given, found in record["tokens"].items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, help="of the evaluation; RUN/any_to_any by default")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    a = parser.parse_args()
    a.out = a.out or a.run / "any_to_any"
    bench = Bench(a)
    pairs = list(zip(bench.sources, [*bench.sources[1:], bench.sources[0]], strict=True))
    tokens = token_ratios(bench, pairs, a)
    once = Sampling(1, 0.0, 0)
    table: dict[str, dict[str, float]] = {}
    for given in (*((s,) for s in bench.sources), *pairs):
        targets = [n for n in bench.maps if n not in given]
        kind = "alone" if len(given) == 1 else "pair"
        name = "+".join(given)
        found = {}
        for target in targets:
            found |= bench.errors(given, [target], once, chained=False, expected=True)
        table[name] = found | tokens.get(f"{kind}/{name}", {})
        print(
            f"{name:<22} " + ", ".join(f"{t} {v:.2f}" for t, v in table[name].items()), flush=True
        )
    missed = [f"{t} from {s} {v:.2f}" for s in bench.sources for t, v in table[s].items() if v >= 1]
    print("per target, mean over pairs and over the same sources alone:")
    for target in (*bench.maps, *bench.others):
        both = [p for p in pairs if target not in p and target in table["+".join(p)]]
        in_pairs = float(np.mean([table["+".join(p)][target] for p in both]))
        alone = float(np.mean([table[s][target] for p in both for s in p]))
        print(f"  {target:<12} {in_pairs:.3f} {alone:.3f}")
        if in_pairs >= alone:
            missed.append(f"{target}: pairs {in_pairs:.3f}, alone {alone:.3f}")
    how = Sampling(8, 1.0, 0, num_draws=4)
    print("chains, error of the last target in a chain and in a single step:")
    chains: dict[str, tuple[float, float]] = {}
    for source, first, last in (("S2L2A", "NDVI", "LULC"), ("S1GRD", "LULC", "NDVI")):
        if not {first, last} <= {*bench.maps} or source not in bench.sources:
            continue
        for expected in (True, False):
            chained, single = (
                bench.errors((source,), targets, how, chained=chain, expected=expected)[last]
                for targets, chain in (([first, last], True), ([last], False))
            )
            name = f"{source} > {first} > {last}, {'expected' if expected else 'drawn'}"
            chains[name] = (chained, single)
            print(f"  {name:<34} {chained:.3f} {single:.3f}", flush=True)
            if chained > TOLERANCE * single:
                missed.append(f"{name}: {chained:.3f} against {single:.3f}")
    if a.json:
        a.json.write_text(json.dumps({"table": table, "chains": chains}, indent=1))
    if a.check:
        print("all bars met" if not missed else "missed: " + "; ".join(missed))
    return int(a.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
