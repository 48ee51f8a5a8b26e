"""From each modality alone, from pairs, and in chains: is every other modality generated better than guessed?

    python benchmarks/any_to_any.py --run runs/demo/stage2 [--samples 64] [--check] [--json FILE]

On held-out samples of the shard set that the run was trained on. Maps are the estimate of least error and
scored in physical units against what can be guessed from the same sources without a model: the training mean
(the most frequent class), or, where a place or a day is given and that is better, what training samples near
in place, in season or in both look like. Texts, places and dates are scored by the cross-entropy of their
tokens against code frequencies. The figure is error / error of the guess (RMSE, share of wrong pixels,
nats): below 1 is better than guessing. Beside a figure of 1 or more stands its standard deviation over
resamplings of the samples.

Pairs are each source with the next one; per target, the mean over pairs is compared with the mean over the
same sources alone. A chain draws a first target eight times, makes it input and makes the second; a single
step makes the second from the source alone. Both do so as the estimate of least error, which is of a chain
the mean over its draws, and by drawing. Draws go through the places in random order (`roar`): with the
most certain first (`maskgit`) they would favour what is likely, and their mean would not be what the
source tells. With --check the exit status is 1 where a source alone is worse than guessing by more than
two deviations, pairs are no better than single sources on average, or a chain is worse than a single step.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs.registry import in_registry_order
from configs.schema import EvaluateConfig, GenerateConfig
from pipeline.data.selection import select
from pipeline.engine.distributed import pick_device
from pipeline.engine.evaluation import spread
from pipeline.evaluate.run import evaluate
from pipeline.generate.climatology import BOTH, PLACE, SEASON, Whereabouts
from pipeline.generate.judge import Judge
from pipeline.generate.making import batches, learn, make
from pipeline.generate.trained import Trained
from pipeline.stage2.samples import SampleReader

CHAIN: dict[str, Any] = {"schedule": "roar", "num_draws": 8}
SCORED = ("model", "baseline", "climatology")


class Ratio(NamedTuple):
    """An error over another of the same samples, and how far that moves over resamplings of them."""

    value: float
    deviation: float

    def __str__(self) -> str:
        apart = f"±{self.deviation:.2f}" if self.value >= 1 else ""
        return f"{self.value:.2f}{apart}"

    @property
    def is_worse(self) -> bool:
        """Above 1 by more than two deviations."""
        return self.value - 1 > 2 * self.deviation


class Errors(NamedTuple):
    """Per way of guessing the samples' sums of errors and numbers of values [N, 2]; 0.5 for squares."""

    rows: dict[str, np.ndarray]
    root: float

    def of_guess(self) -> Ratio:
        """The model's over that of the better guess."""
        guess = min(self.rows["baseline"], self.rows["climatology"], key=mean_error)
        return self._over(guess)

    def over(self, other: "Errors") -> Ratio:
        """The model's over the model's in other circumstances."""
        return self._over(other.rows["model"])

    def _over(self, guess: np.ndarray) -> Ratio:
        model, n = self.rows["model"], len(guess)
        drawn = np.random.default_rng(0).integers(0, n, (500, n))
        each = [mean_error(model[d]) / mean_error(guess[d]) for d in drawn]
        value = mean_error(model) / mean_error(guess)
        return Ratio(value**self.root, float(np.std(np.array(each) ** self.root)))


class Bench:
    """A trained run and what its maps are judged by."""

    def __init__(self, a: argparse.Namespace):
        self.trained = Trained(a.run, pick_device("auto"))
        training = self.trained.training_set()
        if training is None:
            raise SystemExit(f"error: the shards that {a.run} was trained on are not there")
        self.dataset, self.data, self.run = training, self.trained.config.data, a.run
        layout = self.trained.layout
        self.reader = SampleReader(self.dataset, layout, self.trained.normalisers)
        self.view = layout.views.centre
        self.sources = in_registry_order({layout.streams[i].modality for i in layout.inputs})
        names = in_registry_order({layout.streams[i].modality for i in layout.targets})
        self.maps = [n for n in names if self.dataset.modalities[n].is_map]
        self.others = [n for n in names if n not in self.maps]
        streams = self.trained.targets(tuple(self.maps))
        whereabouts = Whereabouts(self.dataset, self.data)
        self.judges = {
            n: Judge(self.trained, self.reader, whereabouts, n, streams[n], self.view, SCORED)
            for n in self.maps
        }
        self.num_samples, self.num_calibration, self.batch = a.samples, a.calibration, a.batch

    def errors(self, given: tuple[str, ...], targets: list[str], **how: Any) -> Errors:
        """Of the last target."""
        last, judge = targets[-1], self.judges[targets[-1]]
        config = GenerateConfig(
            kind="generate", run=self.run, out=self.run, data=self.data, source=given,
            target=tuple(targets), batch=self.batch, num_calibration=self.num_calibration, **how,
        )  # fmt: skip
        if config.estimate == "expected":
            learn(config, self.trained, self.reader, self.data)
        indices = select(self.dataset, self.data, self.data.eval_split, [*given, last])
        indices = spread(indices, self.num_samples)
        by = known_from(given)
        rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for samples in batches(
            self.reader, indices, self.trained.sources(given), [last], self.batch
        ):
            made, _ = make(config, self.trained, self.dataset, samples)[last]
            for sample, value in zip(samples, made, strict=True):
                judge.reset()
                judge.add([sample.index], [value], [sample.values[last]], by)
                for way, score in judge.ways.items():
                    rows[way].append(score.error())
        root = 0.5 if self.dataset.modalities[last].kind == "image" else 1.0
        return Errors({way: np.array(rows[way]) for way in SCORED}, root)


def mean_error(rows: np.ndarray) -> float:
    """Of samples' sums of errors and numbers of values [N, 2]."""
    total, count = rows.sum(0)
    return float(total / count)


def known_from(given: tuple[str, ...]) -> slice | None:
    """What climatology may go by, when that is all that is given."""
    place, season = "coordinates" in given, "date" in given
    if place and season:
        return BOTH
    return PLACE if place else SEASON if season else None


def token_ratios(
    bench: Bench, pairs: list[tuple[str, str]], a: argparse.Namespace
) -> dict[str, Any]:
    """Cross-entropy over that of code frequencies, per input set and target that is no map."""
    config = EvaluateConfig(
        kind="evaluate", run=a.run, out=a.out, data=bench.data,
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
    parser.add_argument(
        "--calibration", type=int, default=64, help="training samples a set of sources"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, help="of the evaluation; RUN/any_to_any by default")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    a = parser.parse_args()
    a.out = a.out or a.run / "any_to_any"
    bench = Bench(a)
    pairs = list(zip(bench.sources, [*bench.sources[1:], bench.sources[0]], strict=True))
    tokens = token_ratios(bench, pairs, a)
    table: dict[str, dict[str, Ratio]] = {}
    for given in (*((s,) for s in bench.sources), *pairs):
        targets = [n for n in bench.maps if n not in given]
        kind = "alone" if len(given) == 1 else "pair"
        name = "+".join(given)
        table[name] = {t: bench.errors(given, [t], estimate="expected").of_guess() for t in targets}
        told = tokens.get(f"{kind}/{name}", {})
        table[name] |= {t: Ratio(v, 0.0) for t, v in told.items()}
        print(f"{name:<22} " + ", ".join(f"{t} {v}" for t, v in table[name].items()), flush=True)
    alone = [(t, s, table[s][t]) for s in bench.sources for t in table[s]]
    above = [f"{t} from {s} {v}" for t, s, v in alone if v.value >= 1]
    print(f"no better than guessing: {len(above)} of {len(alone)}: {'; '.join(above) or 'none'}")
    missed = [f"{t} from {s} {v}" for t, s, v in alone if v.is_worse]
    print("per target, mean over pairs and over the same sources alone:")
    for target in (*bench.maps, *bench.others):
        both = [p for p in pairs if target not in p and target in table["+".join(p)]]
        in_pairs = float(np.mean([table["+".join(p)][target].value for p in both]))
        single = float(np.mean([table[s][target].value for p in both for s in p]))
        print(f"  {target:<12} {in_pairs:.3f} {single:.3f}")
        if in_pairs >= single:
            missed.append(f"{target}: pairs {in_pairs:.3f}, alone {single:.3f}")
    print("chains, error of the last target in a chain, in a single step, and one over the other:")
    chains: dict[str, tuple[float, float]] = {}
    for source, first, last in (("S2L2A", "NDVI", "LULC"), ("S1GRD", "LULC", "NDVI")):
        if not {first, last} <= {*bench.maps} or source not in bench.sources:
            continue
        for estimate in ("expected", "draw"):
            chained, single = (
                bench.errors((source,), way, estimate=estimate, chain=len(way) > 1, **CHAIN)
                for way in ([first, last], [last])
            )
            name, apart = f"{source} > {first} > {last}, {estimate}", chained.over(single)
            chains[name] = (chained.of_guess().value, single.of_guess().value)
            told = " ".join(f"{value:.3f}" for value in chains[name])
            print(f"  {name:<34} {told} {apart.value:.3f}±{apart.deviation:.3f}", flush=True)
            if apart.is_worse:
                missed.append(f"{name}: {apart.value:.3f}±{apart.deviation:.3f} of a single step")
    if a.json:
        a.json.write_text(json.dumps({"table": table, "chains": chains}, indent=1))
    if a.check:
        print("all bars met" if not missed else "missed: " + "; ".join(missed))
    return int(a.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
