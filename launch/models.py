"""A comparison of models as steps.

    shards -> stage1/<MODALITY> ... -> tokenize -> models/<ARM>/seed-<S> ... -> evaluate/... -> report

All runs are one array, and so are their evaluations. A run that fails stops none of the others, and the
report says which one it was.
"""

from collections.abc import Iterator
from dataclasses import replace

from configs import ConfigError, load_config
from configs.schema import FusionRunConfig, MaskedRunConfig, ModelComparisonConfig, StepConfig
from launch.step import Step, Value, What, make_part, make_report
from launch.tokens import check_tokens, token_steps


def compare_models(comparison: ModelComparisonConfig) -> Iterator[Step]:
    """All steps, each after those it waits for. Raises ConfigError for any wrong configuration."""
    *before, tokens = token_steps(comparison)
    yield from before
    yield tokens
    runs = [
        _run(comparison, arm, own, seed, tokens)
        for arm, own in comparison.arms.items()
        for seed in comparison.seeds
    ]
    yield from runs
    after = tuple(run.name for run in runs)
    names = []
    for run in runs:
        names.append(run.name.replace("models", "evaluate", 1))
        fixed: dict[str, Value] = {
            "run": run.out,
            "out": run.out / "evaluation",
            "data.shards": comparison.out / "shards",
        }
        step = make_part(
            comparison, names[-1], What.evaluate, comparison.evaluate, fixed, after=after
        )
        yield replace(step, tolerant=True)
    yield make_report(comparison, tuple(names), tolerant=True)


def _run(
    comparison: ModelComparisonConfig, arm: str, own: StepConfig, seed: int, tokens: Step
) -> Step:
    name = f"models/{arm}/seed-{seed}"
    fixed: dict[str, Value] = {
        "out": comparison.out / name,
        "data.shards": comparison.out / "shards",
        "engine.seed": seed,
    }
    both = StepConfig(config=own.config, overrides=comparison.budget + own.overrides)
    try:
        config = load_config(own.config)
    except ConfigError as error:
        raise ConfigError(f"step {name}: {error}") from error
    if not isinstance(config, MaskedRunConfig):
        kind = getattr(config, "kind", "?")
        raise ConfigError(
            f"arms.{arm}: {own.config} is a {kind} configuration; stage2 or fusion fit"
        )
    what = What.fusion if isinstance(config, FusionRunConfig) else What.stage2
    step = make_part(comparison, name, what, both, fixed, after=("tokenize",))
    check_tokens(tokens, step)
    # Arms of both kinds are one array.
    return replace(step, kind="model")
