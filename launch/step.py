"""One step of a run as data: its command, its configuration, where its output goes, what it waits for."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

import yaml
from omegaconf import OmegaConf

from configs import ConfigError, load_config, to_yaml
from configs.schema import (
    ComparisonConfig,
    EvaluateConfig,
    Frozen,
    GenerateConfig,
    RunConfig,
    ShardsConfig,
    StepConfig,
    TokenChain,
    TokenizeConfig,
    TransferConfig,
)
from pipeline.engine.identity import trained_on

Launch = Literal["ranks", "single", "mpi"]
Package = Literal["shards", "pipeline"]
Value = str | int | Path | tuple[str, ...]


class What(StrEnum):
    """What a user can ask for: one step, or all of an experiment or a comparison."""

    shards = "shards"
    stage1 = "stage1"
    tokenize = "tokenize"
    stage2 = "stage2"
    fusion = "fusion"
    multimae = "multimae"
    generate = "generate"
    evaluate = "evaluate"
    transfer = "transfer"
    all = "all"


_COMMANDS: dict[What, tuple[Package, str, Launch]] = {
    What.shards: ("shards", "build", "mpi"),
    What.stage1: ("pipeline", "train", "ranks"),
    What.tokenize: ("pipeline", "tokenize", "ranks"),
    What.stage2: ("pipeline", "train", "ranks"),
    What.fusion: ("pipeline", "train", "ranks"),
    What.multimae: ("pipeline", "train", "ranks"),
    What.generate: ("pipeline", "generate", "single"),
    What.evaluate: ("pipeline", "evaluate", "single"),
    What.transfer: ("pipeline", "transfer", "single"),
}


@dataclass(frozen=True)
class Step:
    """One command and everything that is known about it before it runs.

    `launch` is how it wants to be started: `ranks` (torch ranks, environment variables), `mpi`
    (MPI ranks if there is an MPI, one process otherwise), or `single`. `markers` exist once the
    output is committed; `record` holds the configuration the output was made with. A step without
    them is never skipped: its own command recognises finished work. `logs` is a folder for what
    ranks other than the first print (default: the cluster's). A `tolerant` step starts when those it
    waits for have ended, whatever came of them.
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
    tolerant: bool = False

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", self.package, *self.args]

    def is_done(self) -> bool:
        """True when the output is committed and was made with this very configuration, on the data of now."""
        if self.record is None or not self.markers:
            return False
        if not all(path.is_file() for path in (self.record, *self.markers)):
            return False
        if self.record.read_text() != to_yaml(self.config):
            return False
        # On other data it is for the command to say what can be done.
        return not isinstance(self.config, RunConfig) or trained_on(
            self.config.out, self.config.data
        )

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


def assign(key: str, value: Value) -> str:
    """`key=value` such that the configuration loader reads back the same value, or list of texts."""
    if isinstance(value, int):
        return f"{key}={value}"
    if isinstance(value, tuple):
        return f"{key}=[{','.join(_quoted(item) for item in value)}]"
    return f"{key}={_quoted(str(value))}"


def _quoted(text: str) -> str:
    plain = re.fullmatch(r"[\w./~+-]+", text) is not None
    if plain and isinstance(OmegaConf.from_dotlist([f"x={text}"])["x"], str):
        return text
    return yaml.safe_dump(text, default_style='"', width=sys.maxsize).rstrip("\n")


def make_part(
    experiment: TokenChain | ComparisonConfig,
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
        step = make_step(what, own.config, (*own.overrides, *paths), name, record)
    except ConfigError as error:
        raise ConfigError(f"step {name}: {error}") from error
    return replace(step, after=after, logs=experiment.out / "logs" / name)


def make_step(
    what: What,
    config_path: str | Path,
    overrides: tuple[str, ...],
    name: str = "",
    record: Path | None = None,
) -> Step:
    """A step by itself. Raises ConfigError for anything wrong in its configuration."""
    config = load_config(config_path, overrides, kind=what.value)
    package, verb, launch = _COMMANDS[what]
    out, markers = _output(config)
    if isinstance(config, RunConfig):
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


def make_report(
    experiment: TokenChain | ComparisonConfig,
    after: tuple[str, ...],
    *,
    tolerant: bool = False,
) -> Step:
    """The page about all that lies below the experiment's `out`."""
    return Step(
        name="report",
        kind="report",
        package="pipeline",
        args=("report", str(experiment.out)),
        launch="single",
        config=experiment,
        out=experiment.out,
        after=after,
        tolerant=tolerant,
    )


def _output(config: Frozen) -> tuple[Path, tuple[Path, ...]]:
    """The folder a step writes to, and the files that are there once it is committed."""
    match config:
        case ShardsConfig():
            return config.out, (config.out / "manifest.json",)
        case RunConfig():
            return config.out, (config.out / "DONE",)
        case TokenizeConfig():
            # Named by pipeline.stage1.tokenize.extra_name, whose module imports torch.
            names = (*config.tokenizers, *config.modalities)
            extra = Path(config.data.shards) / "extra"
            return extra, tuple(extra / f"tok_{name}" / "manifest.json" for name in names)
        case GenerateConfig() | EvaluateConfig() | TransferConfig():
            return config.out, (config.out / "scores.json",)
    raise AssertionError(f"no step is made from a {type(config).__name__}")
