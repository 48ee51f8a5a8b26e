"""A comparison of models as its folder tells it: every run that was planned, in whatever state."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.report.files import Record, dig, read_json
from pipeline.report.runs import TrainingRun, read_run

ALL = "all"


@dataclass(frozen=True)
class ModelRun:
    """One arm with one seed. `scores` are those of its evaluation; empty until there are some."""

    arm: str
    seed: int
    run: TrainingRun
    scores: Record

    def token(self, given: str, target: str, what: str) -> float | None:
        """`ce` or `accuracy` of a target's tokens, given a set of inputs."""
        return _number(dig(self.scores, "tokens", given, target, what))

    def mean(self, targets: tuple[str, ...], what: str) -> float | None:
        """Mean over targets, given everything."""
        found = [self.token(ALL, target, what) for target in targets]
        known = [value for value in found if value is not None]
        return statistics.fmean(known) if known and len(known) == len(found) else None

    def rise(self, sets: list[str], targets: tuple[str, ...]) -> float | None:
        """How much larger the cross-entropy of the same targets is than given everything; a mean."""
        found = [
            (self.token(given, target, "ce"), self.token(ALL, target, "ce"))
            for given in sets
            for target in targets
            if given.partition("/")[2] != target
        ]
        known = [less - full for less, full in found if less is not None and full is not None]
        return statistics.fmean(known) if known and len(known) == len(found) else None

    def probe(self, label: str, way: str, given: str, classifier: str) -> float | None:
        """Accuracy of a classifier on the features of the `model` or its `untrained` twin."""
        return _number(dig(self.scores, "probes", label, way, given, classifier))

    @property
    def steps_per_s(self) -> float | None:
        speeds = [speed for _, speed in self.run.curve("samples_per_s")]
        batch = self.run.global_batch
        return statistics.median(speeds) / batch if speeds and batch else None

    @property
    def parameters(self) -> float | None:
        """In millions."""
        count = _number(dig(self.scores, "model", "parameters"))
        return None if count is None else count / 1e6


@dataclass(frozen=True)
class ModelComparison:
    """All planned runs. `plan` is experiment.yaml."""

    plan: Record
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[ModelRun, ...]

    def of(self, arm: str) -> list[ModelRun]:
        return [r for r in self.runs if r.arm == arm]

    def values(self, arm: str, get: Callable[[ModelRun], float | None]) -> list[float]:
        """One number per seed that has it."""
        found = (get(r) for r in self.of(arm))
        return [value for value in found if value is not None]

    @property
    def targets(self) -> tuple[str, ...]:
        """All targets that any evaluation knows, in the models' order."""
        return self._keys(lambda r: list(dig(r.scores, "prior") or {}))

    @property
    def common_targets(self) -> tuple[str, ...]:
        """Those that every evaluated run could be asked for: a lone input is no target of its own."""
        evaluated = [r for r in self.runs if r.scores]
        return tuple(
            t for t in self.targets if all(r.token(ALL, t, "ce") is not None for r in evaluated)
        )

    def sets(self, kind: str) -> list[str]:
        """The input sets `without/X` or `alone/X` that any evaluation knows."""
        found = self._keys(lambda r: list(dig(r.scores, "tokens") or {}))
        return [name for name in found if name.startswith(f"{kind}/")]

    @property
    def labels(self) -> tuple[str, ...]:
        return self._keys(lambda r: list(dig(r.scores, "probes") or {}))

    def prior(self, target: str, what: str) -> float | None:
        """The trivial guess; the same for all runs."""
        found = (_number(dig(r.scores, "prior", target, what)) for r in self.runs)
        return next((value for value in found if value is not None), None)

    def _keys(self, get: Callable[[ModelRun], list[str]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for r in self.runs for name in get(r)))


def read_models(folder: Path, plan: Record, notes: list[str]) -> ModelComparison:
    """Every run that the plan names, there or not; folders that it does not name are told."""
    arms = tuple(str(name) for name in plan.get("arms") or {})
    seeds = tuple(int(seed) for seed in plan.get("seeds") or ())
    runs = []
    for arm in arms:
        for seed in seeds:
            out = folder / "models" / arm / f"seed-{seed}"
            run = read_run(out, notes, title=f"{arm}, seed {seed}")
            scores = read_json(out / "evaluation" / "scores.json", notes)
            runs.append(ModelRun(arm, seed, run, scores))
    planned = {r.run.folder for r in runs}
    found = (path.parent for path in folder.glob("models/*/seed-*/config.yaml"))
    notes += [f"{path} is no part of the comparison" for path in sorted(set(found) - planned)]
    return ModelComparison(plan, arms, seeds, tuple(runs))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
