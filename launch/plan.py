"""A run as data: steps, where each leaves its output, and what it waits for.

    shards -> stage1/<MODALITY> ... -> tokenize -> stage2 -> generate/<NAME> ... -> report
           -> multimae, where the experiment has one                             ->

Stage-1 steps are independent of one another, so are the generate steps; comparisons have plans of their
own, of tokenizers in `launch.comparison` and of models in `launch.models`. Planning loads every
configuration that any step will load, so that a wrong key is found before anything runs. A plan says
nothing about machines: `launch.executors` and `launch.slurm` add ranks, ports and job scripts.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from configs import ConfigError, load_config
from configs.registry import in_registry_order
from configs.schema import ComparisonConfig, ExperimentConfig, ModelComparisonConfig
from launch.comparison import compare
from launch.models import compare_models
from launch.step import Step, Value, What, make_part, make_report, make_step
from launch.tokens import check_tokens, token_steps


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
    if isinstance(experiment, ModelComparisonConfig):
        return tuple(compare_models(experiment))
    if isinstance(experiment, ExperimentConfig):
        return tuple(_chain(experiment))
    kind = getattr(experiment, "kind", "?")
    raise ConfigError(
        f"{config_path}: its kind is {kind}; `all` needs an experiment or a comparison"
    )


def _chain(experiment: ExperimentConfig) -> Iterator[Step]:
    out = experiment.out
    view: dict[str, Value] = {"data.shards": out / "shards"}
    *before, tokens = token_steps(experiment)
    yield from before
    yield tokens

    fixed = {"out": out / "stage2", **view}
    stage2 = make_part(
        experiment, "stage2", What.stage2, experiment.stage2, fixed, after=("tokenize",)
    )
    check_tokens(tokens, stage2)
    yield stage2

    beside = ()
    if experiment.multimae is not None:
        fixed = {"out": out / "multimae", **view}
        own, after = experiment.multimae, ("shards",)
        yield make_part(experiment, "multimae", What.multimae, own, fixed, after=after)
        beside = ("multimae",)

    last = []
    for name, task in experiment.generate.items():
        fixed = {"run": stage2.out, "out": out / "generate" / name, **view}
        fixed |= {"source": task.source, "target": task.target}
        in_registry_order(task.source + task.target)
        last.append(f"generate/{name}")
        yield make_part(experiment, last[-1], What.generate, task, fixed, after=("stage2",))

    yield make_report(experiment, (tuple(last) or ("stage2",)) + beside)
