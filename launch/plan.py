"""A run as data: steps, where each leaves its output, and what it waits for.

    shards -> stage1/<MODALITY> ... -> tokenize -> stage2 -> generate/<NAME> ... -> report

Stage-1 steps are independent of one another, so are the generate steps. Planning loads every
configuration that any step will load, so that a wrong key is found before anything runs. A plan
says nothing about machines: `launch.executors` and `launch.slurm` add ranks, ports and job scripts.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

import yaml
from omegaconf import OmegaConf

from configs import ConfigError, load_config, to_yaml
from configs.registry import in_registry_order
from configs.schema import (
    ExperimentConfig,
    Frozen,
    GenerateConfig,
    RunConfig,
    ShardsConfig,
    Stage1Config,
    Stage2Config,
    StepConfig,
    TokenizeConfig,
)

Launch = Literal["ranks", "single", "mpi"]
Package = Literal["shards", "pipeline"]
Value = str | Path | tuple[str, ...]


class What(StrEnum):
    """What a user can ask for: one step, or the whole chain of an experiment."""

    shards = "shards"
    stage1 = "stage1"
    tokenize = "tokenize"
    stage2 = "stage2"
    generate = "generate"
    all = "all"


_COMMANDS: dict[What, tuple[Package, str, Launch]] = {
    What.shards: ("shards", "build", "mpi"),
    What.stage1: ("pipeline", "train", "ranks"),
    What.tokenize: ("pipeline", "tokenize", "ranks"),
    What.stage2: ("pipeline", "train", "ranks"),
    What.generate: ("pipeline", "generate", "single"),
}


@dataclass(frozen=True)
class Step:
    """One command and everything that is known about it before it runs.

    `launch` is how it wants to be started: `ranks` (torch ranks, environment variables), `mpi`
    (MPI ranks if there is an MPI, one process otherwise), or `single`. `markers` exist once the
    output is committed; `record` holds the configuration the output was made with. A step without
    them is never skipped: its own command recognises finished work. `logs` is a folder for what
    ranks other than the first print (default: the cluster's).
    """

    name: str
    kind: str
    package: Package
    args: tuple[str, ...]
    launch: Launch
    config: Frozen
    out: Path
    markers: tuple[Path, ...] = ()
    record: Path | None = None
    after: tuple[str, ...] = ()
    logs: Path | None = None

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", self.package, *self.args]

    def is_done(self) -> bool:
        """True when the output is committed and was made with this very configuration."""
        if self.record is None or not self.markers:
            return False
        if not all(path.is_file() for path in (self.record, *self.markers)):
            return False
        return self.record.read_text() == to_yaml(self.config)

    @property
    def keeps_its_own_record(self) -> bool:
        """True for training, which writes its configuration into the folder of the run."""
        return isinstance(self.config, RunConfig)

    def write_record(self) -> None:
        """Keep the configuration of a finished step that does not by itself."""
        if self.record is not None and not self.keeps_its_own_record:
            self.record.parent.mkdir(parents=True, exist_ok=True)
            partial = self.record.with_name(self.record.name + ".partial")
            partial.write_text(to_yaml(self.config))
            partial.replace(self.record)


def plan_steps(
    what: What, config_path: str | Path, overrides: Iterable[str] = ()
) -> tuple[Step, ...]:
    """The steps of `what`, each after all those it waits for.

    Raises ConfigError for anything wrong in any configuration of the plan.
    """
    overrides = tuple(overrides)
    if what is not What.all:
        return (_step(what, config_path, overrides),)
    experiment = load_config(config_path, overrides, kind="experiment")
    assert isinstance(experiment, ExperimentConfig)
    return tuple(_chain(experiment))


def assign(key: str, value: Value) -> str:
    """`key=value` such that the configuration loader reads back the same text, or list of texts."""
    if isinstance(value, tuple):
        return f"{key}=[{','.join(_quoted(item) for item in value)}]"
    return f"{key}={_quoted(str(value))}"


def _quoted(text: str) -> str:
    plain = re.fullmatch(r"[\w./~+-]+", text) is not None
    if plain and isinstance(OmegaConf.from_dotlist([f"x={text}"])["x"], str):
        return text
    return yaml.safe_dump(text, default_style='"', width=sys.maxsize).rstrip("\n")


def _chain(experiment: ExperimentConfig) -> Iterator[Step]:
    out = experiment.out
    shards = out / "shards"
    view: dict[str, Value] = {"data.shards": shards}

    yield _part(experiment, "shards", What.shards, experiment.shards, {"out": shards})

    tokenizers: dict[str, Path] = {}
    for name in in_registry_order(set(experiment.stage1)):
        own = StepConfig(
            config=experiment.stage1_base.config,
            overrides=experiment.stage1_base.overrides + experiment.stage1[name],
        )
        tokenizers[name] = out / "stage1" / name
        fixed = {"modality": name, "out": tokenizers[name], **view}
        yield _part(experiment, f"stage1/{name}", What.stage1, own, fixed, after=("shards",))

    fixed = {**view, **{f"tokenizers.{name}": path for name, path in tokenizers.items()}}
    after = tuple(f"stage1/{name}" for name in tokenizers) or ("shards",)
    tokens = _part(experiment, "tokenize", What.tokenize, experiment.tokenize, fixed, after=after)
    yield tokens

    fixed = {"out": out / "stage2", **view}
    stage2 = _part(experiment, "stage2", What.stage2, experiment.stage2, fixed, after=("tokenize",))
    _check_tokens(tokens, stage2)
    yield stage2

    last = []
    for name, task in experiment.generate.items():
        fixed = {"run": stage2.out, "out": out / "generate" / name, **view}
        fixed |= {"source": task.source, "target": task.target}
        in_registry_order(task.source + task.target)
        last.append(f"generate/{name}")
        yield _part(experiment, last[-1], What.generate, task, fixed, after=("stage2",))

    yield Step(
        name="report",
        kind="report",
        package="pipeline",
        args=("report", str(out)),
        launch="single",
        config=experiment,
        out=out,
        after=tuple(last) or ("stage2",),
    )


def _part(
    experiment: ExperimentConfig,
    name: str,
    what: What,
    own: StepConfig,
    fixed: Mapping[str, Value],
    *,
    after: tuple[str, ...] = (),
) -> Step:
    """One step of an experiment: its file, the experiment's changes, the experiment's paths."""
    for text in own.overrides:
        key = text.split("=", 1)[0]
        if key in fixed:
            raise ConfigError(
                f"{name}: {text!r} cannot be overridden in an experiment, which decides {key!r} "
                "itself; all its outputs lie below its own `out`"
            )
    paths = [assign(key, value) for key, value in fixed.items()]
    record = experiment.out / ".launch" / f"{name}.yaml"
    try:
        step = _step(what, own.config, (*own.overrides, *paths), name, record)
    except ConfigError as error:
        raise ConfigError(f"step {name}: {error}") from error
    return replace(step, after=after, logs=experiment.out / "logs" / name)


def _step(
    what: What,
    config_path: str | Path,
    overrides: tuple[str, ...],
    name: str = "",
    record: Path | None = None,
) -> Step:
    config = load_config(config_path, overrides, kind=what.value)
    package, verb, launch = _COMMANDS[what]
    out, markers = _output(config)
    if isinstance(config, Stage1Config | Stage2Config):
        record = config.out / "config.yaml"
    return Step(
        name=name or what.value,
        kind=what.value,
        package=package,
        args=(verb, "--config", str(config_path), *overrides),
        launch=launch,
        config=config,
        out=out,
        markers=markers,
        record=record,
    )


def _output(config: Frozen) -> tuple[Path, tuple[Path, ...]]:
    """The folder a step writes to, and the files that are there once it is committed."""
    match config:
        case ShardsConfig():
            return config.out, (config.out / "manifest.json",)
        case Stage1Config() | Stage2Config():
            return config.out, (config.out / "DONE",)
        case TokenizeConfig():
            # Named by pipeline.stage1.tokenize.extra_name, whose module imports torch.
            names = (*config.tokenizers, *config.modalities)
            extra = Path(config.data.shards) / "extra"
            return extra, tuple(extra / f"tok_{name}" / "manifest.json" for name in names)
        case GenerateConfig():
            return config.out, (config.out / "scores.json",)
    raise AssertionError(f"no step is made from a {type(config).__name__}")


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
