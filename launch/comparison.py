"""A comparison of tokenizers as steps.

    shards -> stage1/<MODALITY>/<ARM>/seed-<S> ... -> report

Runs wait for the shards only: on Slurm all of them are one array. One that fails stops none of the
others, and the report says which one it was.
"""

from collections.abc import Iterator

from configs.registry import in_registry_order
from configs.schema import ComparisonConfig, StepConfig
from launch.step import Step, Value, What, make_part, make_report


def compare(comparison: ComparisonConfig) -> Iterator[Step]:
    """All steps, each after those it waits for. Raises ConfigError for any wrong configuration."""
    out, after = comparison.out, ()
    data: Value = comparison.data or out / "shards"
    if comparison.shards is not None:
        after = ("shards",)
        yield make_part(comparison, "shards", What.shards, comparison.shards, {"out": data})
    names = []
    base = comparison.stage1
    for modality in in_registry_order(set(comparison.modalities)):
        for arm, changes in comparison.arms.items():
            own = StepConfig(
                config=base.config,
                overrides=base.overrides + comparison.modalities[modality] + changes,
            )
            for seed in comparison.seeds:
                names.append(f"stage1/{modality}/{arm}/seed-{seed}")
                fixed: dict[str, Value] = {
                    "modality": modality,
                    "out": out / names[-1],
                    "data.shards": data,
                    "engine.seed": seed,
                }
                yield make_part(comparison, names[-1], What.stage1, own, fixed, after=after)
    yield make_report(comparison, tuple(names), tolerant=True)
