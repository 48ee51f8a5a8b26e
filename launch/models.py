"""A comparison of models as steps.

    shards -> stage1/<MODALITY> ... -> tokenize -> models/<ARM>/seed-<S> ... -> evaluate/... -> report
                                                                          -> transfer/... ->

All runs are one array, and so are their evaluations and transfers. A run that fails stops none of the
others, and the report says which one it was.
"""

from collections.abc import Iterator
from dataclasses import replace

from configs import ConfigError, load_config
from configs.schema import (
    FusionRunConfig,
    MaskedRunConfig,
    ModelComparisonConfig,
    MultiMAERunConfig,
    ShardLabels,
    StepConfig,
    TransferConfig,
)
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
    judged = [*_evaluations(comparison, runs, after), *_transfers(comparison, runs, after)]
    yield from judged
    yield make_report(comparison, tuple(step.name for step in judged), tolerant=True)


def _evaluations(
    comparison: ModelComparisonConfig, runs: list[Step], after: tuple[str, ...]
) -> Iterator[Step]:
    for run in runs if comparison.evaluate else ():
        assert comparison.evaluate is not None
        # A MultiMAE predicts pixels: there are no tokens of it to be scored.
        if isinstance(run.config, MultiMAERunConfig):
            continue
        name = run.name.replace("models", "evaluate", 1)
        fixed: dict[str, Value] = {
            "run": run.out,
            "out": run.out / "evaluation",
            "data.shards": comparison.out / "shards",
        }
        step = make_part(comparison, name, What.evaluate, comparison.evaluate, fixed, after=after)
        yield replace(step, tolerant=True)


def _transfers(
    comparison: ModelComparisonConfig, runs: list[Step], after: tuple[str, ...]
) -> Iterator[Step]:
    """Every run on labels; arms named in `scratch` once more from fresh weights, by the same seed."""
    if comparison.transfer is None:
        return
    config = load_config(comparison.transfer.config, comparison.transfer.overrides, kind="transfer")
    assert isinstance(config, TransferConfig)
    own = [n for n, task in config.tasks.items() if isinstance(task.data, ShardLabels)]
    for run in runs:
        _, arm, seed = run.name.split("/")
        for suffix in ("", "-scratch") if arm in comparison.scratch else ("",):
            fixed: dict[str, Value] = {
                "backbone": run.out,
                "out": run.out / f"transfer{suffix}",
                "init": "random" if suffix else "pretrained",
                "seeds": (seed.removeprefix("seed-"),),
                **{f"tasks.{n}.data.shards": comparison.out / "shards" for n in own},
            }
            name = f"transfer/{arm}{suffix}/{seed}"
            step = make_part(
                comparison, name, What.transfer, comparison.transfer, fixed, after=after
            )
            yield replace(step, tolerant=True)


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
    if not isinstance(config, MaskedRunConfig | MultiMAERunConfig):
        kind = getattr(config, "kind", "?")
        raise ConfigError(
            f"arms.{arm}: {own.config} is a {kind} configuration; stage2, fusion or multimae fit"
        )
    if isinstance(config, MultiMAERunConfig):
        general = tuple(b for b in comparison.budget if not b.startswith("masked."))
        both = StepConfig(config=own.config, overrides=general + own.overrides)
        step = make_part(comparison, name, What.multimae, both, fixed, after=("tokenize",))
        return replace(step, kind="model")
    what = What.fusion if isinstance(config, FusionRunConfig) else What.stage2
    step = make_part(comparison, name, what, both, fixed, after=("tokenize",))
    check_tokens(tokens, step)
    # Arms of both kinds are one array.
    return replace(step, kind="model")
