"""A run as data: steps, where each leaves its output, and what it waits for.

    shards -> stage1/<MODALITY> ... -> tokenize -> stage2 -> generate/<NAME> ... -> report

Stage-1 steps are independent of one another, so are the generate steps; a comparison of tokenizers has
a plan of its own in `launch.comparison`. Planning loads every configuration that any step will load, so
that a wrong key is found before anything runs. A plan says nothing about machines: `launch.executors`
and `launch.slurm` add ranks, ports and job scripts.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from configs import ConfigError, load_config
from configs.registry import in_registry_order
from configs.schema import (
    ComparisonConfig,
    ExperimentConfig,
    Stage2Config,
    StepConfig,
    TokenizeConfig,
)
from launch.comparison import compare
from launch.step import Step, Value, What, make_part, make_report, make_step


def plan_steps(
    what: What, config_path: str | Path, overrides: Iterable[str] = ()
) -> tuple[Step, ...]:
    """The steps of `what`, each after all those it waits for.

    Raises ConfigError for anything wrong in any configuration of the plan.
    """
    overrides = tuple(overrides)
    if what is not What.all:
        return (make_step(what, config_path, overrides),)
    experiment = load_config(config_path, overrides)
    if isinstance(experiment, ComparisonConfig):
        return tuple(compare(experiment))
    if isinstance(experiment, ExperimentConfig):
        return tuple(_chain(experiment))
    kind = getattr(experiment, "kind", "?")
    raise ConfigError(
        f"{config_path}: this is a {kind} configuration; `all` needs an experiment or a comparison"
    )


def _chain(experiment: ExperimentConfig) -> Iterator[Step]:
    out = experiment.out
    shards = out / "shards"
    view: dict[str, Value] = {"data.shards": shards}

    yield make_part(experiment, "shards", What.shards, experiment.shards, {"out": shards})

    tokenizers: dict[str, Path] = {}
    for name in in_registry_order(set(experiment.stage1)):
        own = StepConfig(
            config=experiment.stage1_base.config,
            overrides=experiment.stage1_base.overrides + experiment.stage1[name],
        )
        tokenizers[name] = out / "stage1" / name
        fixed = {"modality": name, "out": tokenizers[name], **view}
        yield make_part(experiment, f"stage1/{name}", What.stage1, own, fixed, after=("shards",))

    fixed = {**view, **{f"tokenizers.{name}": path for name, path in tokenizers.items()}}
    after = tuple(f"stage1/{name}" for name in tokenizers) or ("shards",)
    tokens = make_part(
        experiment, "tokenize", What.tokenize, experiment.tokenize, fixed, after=after
    )
    yield tokens

    fixed = {"out": out / "stage2", **view}
    stage2 = make_part(
        experiment, "stage2", What.stage2, experiment.stage2, fixed, after=("tokenize",)
    )
    _check_tokens(tokens, stage2)
    yield stage2

    last = []
    for name, task in experiment.generate.items():
        fixed = {"run": stage2.out, "out": out / "generate" / name, **view}
        fixed |= {"source": task.source, "target": task.target}
        in_registry_order(task.source + task.target)
        last.append(f"generate/{name}")
        yield make_part(experiment, last[-1], What.generate, task, fixed, after=("stage2",))

    yield make_report(experiment, tuple(last) or ("stage2",))


def _check_tokens(tokens: Step, stage2: Step) -> None:
    """Stage 2 may name only tokens that the chain makes."""
    assert isinstance(tokens.config, TokenizeConfig)
    assert isinstance(stage2.config, Stage2Config)
    made = {*tokens.config.tokenizers, *tokens.config.modalities}
    masked = stage2.config.masked
    missing = sorted({*masked.tokens, *masked.targets} - made)
    if missing:
        raise ConfigError(
            f"step stage2: masked.tokens or masked.targets name {', '.join(missing)}, which no "
            "step tokenizes; add them to the experiment's `stage1` (coordinates and date to the "
            "tokenize step's `modalities`), or leave them out of stage 2"
        )
