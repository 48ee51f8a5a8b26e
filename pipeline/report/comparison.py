"""A comparison of tokenizers as its folder tells it: every run that was planned, in whatever state."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from configs import modality_registry
from configs.registry import in_registry_order
from pipeline.report.files import Record, dig, read_json
from pipeline.report.runs import TrainingRun, read_run

# Left out of what is said about gradients: the first steps of any run.
_WARM_UP_SHARE = 0.1


@dataclass(frozen=True)
class ComparedRun:
    """One arm on one modality with one seed. `baseline` and `parameters` are empty until it is done."""

    modality: str
    arm: str
    seed: int
    run: TrainingRun
    baseline: Record
    parameters: Record

    def value(self, name: str) -> float | None:
        """One number about a finished run, by the name of its column; None where it left none."""
        if not self.run.done:
            return None
        match name:
            case "steps_per_s":
                speeds = [speed for _, speed in self.run.curve("samples_per_s")]
                batch = self.run.global_batch
                found = statistics.median(speeds) / batch if speeds and batch else None
            case "parameters" | "critic":
                count = self.parameters.get("tokenizer" if name == "parameters" else name)
                found = count / 1e6 if count else None
            case "grad_median" | "grad_largest":
                norms = self._late_norms()
                middle = statistics.median(norms) if norms else 0.0
                found = (
                    (middle if name == "grad_median" else max(norms) / middle) if middle else None
                )
            case _:
                found = self.run.last_eval.get(name)
        return float(found) if isinstance(found, int | float) else None

    def _late_norms(self) -> list[float]:
        first = _WARM_UP_SHARE * self.run.num_steps
        return [norm for step, norm in self.run.curve("grad_norm") if step > first]


@dataclass(frozen=True)
class Comparison:
    """All planned runs. `plan` is experiment.yaml."""

    plan: Record
    modalities: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[ComparedRun, ...]

    def of(self, modality: str, arm: str | None = None) -> list[ComparedRun]:
        """The runs of one modality, of one arm or of all."""
        return [r for r in self.runs if r.modality == modality and arm in (None, r.arm)]

    def values(self, modality: str, arm: str, name: str) -> list[float]:
        """One number per seed that has it."""
        found = (r.value(name) for r in self.of(modality, arm))
        return [value for value in found if value is not None]

    def baselines(self, modality: str) -> list[Record]:
        """What resamplers reached at the arms' rates: one per rate."""
        by_rate = {
            r.baseline["bits"]: r.baseline for r in self.of(modality) if r.baseline.get("bits")
        }
        return [by_rate[bits] for bits in sorted(by_rate)]


def read_comparison(folder: Path, plan: Record, notes: list[str]) -> Comparison:
    """Every run that the plan names, there or not; folders that it does not name are told."""
    modalities = _names(plan.get("modalities"))
    unknown = [name for name in modalities if name not in modality_registry()]
    notes += [f"{folder / 'experiment.yaml'}: no such modality as {name}" for name in unknown]
    modalities = list(in_registry_order(set(modalities) - set(unknown)))
    arms, seeds = _names(plan.get("arms")), [int(s) for s in plan.get("seeds") or ()]
    runs = [
        _read(folder, modality, arm, seed, notes)
        for modality in modalities
        for arm in arms
        for seed in seeds
    ]
    planned = {r.run.folder for r in runs}
    found = (path.parent for path in folder.glob("stage1/*/*/seed-*/config.yaml"))
    notes += [f"{path} is no part of the comparison" for path in sorted(set(found) - planned)]
    return Comparison(plan, tuple(modalities), tuple(arms), tuple(seeds), tuple(runs))


def spread_of(values: Iterable[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (of a sample, n - 1); no deviation of one value."""
    values = list(values)
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def shared(runs: Iterable[ComparedRun], *keys: str) -> list[object]:
    """What the resolved configurations say at `keys`, each value once."""
    found: list[object] = []
    for one in runs:
        value = dig(one.run.config, *keys)
        if one.run.config and value not in found:
            found.append(value)
    return found


def _read(folder: Path, modality: str, arm: str, seed: int, notes: list[str]) -> ComparedRun:
    out = folder / "stage1" / modality / arm / f"seed-{seed}"
    return ComparedRun(
        modality=modality,
        arm=arm,
        seed=seed,
        run=read_run(out, notes, title=f"{modality} {arm}, seed {seed}"),
        baseline=read_json(out / "baseline.json", notes),
        parameters=read_json(out / "parameters.json", notes),
    )


def _names(values: object) -> list[str]:
    return [str(name) for name in values] if isinstance(values, dict) else []
