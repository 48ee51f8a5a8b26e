"""`python -m pipeline`: inspect and doctor before; train, tokenize, generate, transfer; report, export after.

Every command recognises finished work from the disk and goes on with unfinished work. Exit codes:
0 done; 2 something to correct; 65 gave up, starting again would not help; 75 committed, start me again.
"""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from configs import ConfigError, load_config
from configs.schema import (
    EvaluateConfig,
    FusionRunConfig,
    MaskedRunConfig,
    MultiMAERunConfig,
    RunConfig,
    Stage1Config,
    TokenizeConfig,
)
from pipeline import downstream, exchange
from pipeline.console import exit_with, finished, tell, training_finished

if TYPE_CHECKING:
    from pipeline.engine.monitor import Monitor
    from pipeline.multimae.objective import MultiMAEObjective
    from pipeline.stage2.objective import MaskedObjective
    from shards import SampleSet

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__
)

exchange.add_to(app)
downstream.add_to(app)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, such as engine.num_steps=100")
]


@app.command()
def train(config: ConfigOption, overrides: Overrides = None) -> None:
    """Train a tokenizer (stage1), the masked transformer (stage2), late fusion or MultiMAE."""
    loaded = load_config(config, overrides or ())
    if not isinstance(loaded, RunConfig):
        raise ConfigError(
            f"{config}: nothing to train in a {getattr(loaded, 'kind', '?')} configuration"
        )
    if training_finished(loaded):
        tell(f"{_title(loaded):<18} already done: {loaded.out}")
        return
    if (loaded.out / "KILL").exists():
        tell(f"{_title(loaded):<18} called off: remove {loaded.out / 'KILL'} to go on")
        raise typer.Exit(65)
    exit_with(lambda: _train(loaded))


@app.command()
def tokenize(config: ConfigOption, overrides: Overrides = None) -> None:
    """Run frozen tokenizers over a shard set; tokens are written beside the pixels."""
    loaded = cast(TokenizeConfig, load_config(config, overrides or (), kind="tokenize"))

    def run() -> int:
        from pipeline.stage1.tokenize import tokenize as work

        return work(loaded)

    exit_with(run)


@app.command()
def generate(
    config: Annotated[Path | None, typer.Option("--config", "-c", help="YAML file")] = None,
    run: Annotated[Path | None, typer.Option(help="stage-2 run to generate with")] = None,
    source: Annotated[str, typer.Option("--from", help="modalities given: S2L2A,DEM")] = "",
    target: Annotated[str, typer.Option("--to", help="modalities to make: LULC,captions")] = "",
    given: Annotated[
        list[str] | None,
        typer.Option("--input", help="S2L2A=scene.tif; or .npy, text, lon,lat, date"),
    ] = None,
    truth: Annotated[list[str] | None, typer.Option(help="LULC=map.tif, to score against")] = None,
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(help="LULC=FOLDER: of an imported model, which knows none; repeatable"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the results")] = None,
    overrides: Overrides = None,
) -> None:
    """Generate modalities from others: held-out samples of a shard set, or a scene in files."""
    from pipeline.generate.command import assembled, made_of

    loaded = assembled(
        config, run, source, target, given or [], truth or [], tokenizer or [], out, overrides or []
    )
    # A model that was trained on under the same name is another one.
    if finished(loaded.out / "scores.json", loaded, lambda: made_of(loaded)):
        tell(f"generate           already done: {loaded.out}")
        return

    def work() -> int:
        from pipeline.generate.run import generate as start

        return start(loaded)

    exit_with(work)


@app.command()
def evaluate(config: ConfigOption, overrides: Overrides = None) -> None:
    """Score held-out tokens with all inputs, without each, with each alone; probe frozen features."""
    loaded = cast(EvaluateConfig, load_config(config, overrides or (), kind="evaluate"))
    from pipeline.engine.identity import digest_of

    digest = partial(digest_of, [loaded.run], [], str(loaded.data.shards))
    if finished(loaded.out / "scores.json", loaded, digest):
        tell(f"evaluate           already done: {loaded.out}")
        return

    def run() -> int:
        from pipeline.evaluate.run import evaluate as work

        return work(loaded)

    exit_with(run)


@app.command()
def inspect(
    config: ConfigOption,
    overrides: Overrides = None,
    world: Annotated[int, typer.Option(help="number of ranks", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show what a training run would be and need: parameters, FLOPs, memory; without GPU and data."""
    loaded = load_config(config, overrides or ())
    if not isinstance(loaded, RunConfig):
        raise ConfigError(
            f"{config}: only training runs are inspected: stage1, stage2, fusion and multimae"
        )

    def run() -> int:
        from pipeline.inspection.show import inspect as show

        show(loaded, world, as_json=as_json)
        return 0

    exit_with(run)


@app.command()
def doctor(
    out: Annotated[Path, typer.Option(help="where runs are written")] = Path("runs"),
    shards: Annotated[str, typer.Option(help="a data set to read from, folder or URL")] = "",
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Tell what this machine has and what will not work; exit code 1 where something would fail."""
    from pipeline.inspection.diagnosis import diagnose

    if not diagnose(out, shards, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def reshard(
    commit: Annotated[Path, typer.Argument(help="RUN/checkpoints/step-00000200")],
    ranks: Annotated[int, typer.Option(help="how many files the copy has", min=1)],
    out: Annotated[Path, typer.Option(help="folder of the copy; must not exist")],
) -> None:
    """Copy a commit as if another number of ranks had written it, checked byte for byte.

    Training does without: any number of ranks reads any commit. For archives, and for moving a run.
    """

    def run() -> int:
        from pipeline.engine.reshard import reshard as work

        for line in work(commit, ranks, out):
            tell(line)
        return 0

    exit_with(run)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="folder of a run or of an experiment")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file; FOLDER/report.html by default")
    ] = None,
) -> None:
    """Write one self-contained HTML page about everything found in a folder."""

    def run() -> int:
        from pipeline.report.page import write_report

        write_report(folder, out or folder / "report.html")
        return 0

    exit_with(run)


def _train(config: RunConfig) -> int:
    from pipeline.engine.run import quiet_torch, train
    from shards import open_data

    quiet_torch()
    # Damaged shards are told and worked around by the loop: training does not stop for them.
    dataset = open_data(config.data, verify=False)
    record = {"path": str(config.data.shards), "fingerprint": dataset.fingerprint}
    if isinstance(config, MaskedRunConfig):
        return train(
            config, _title(config), lambda _: _masked_objective(config, dataset), record,
            lambda objective: _monitor(config, objective),
        )  # fmt: skip
    if isinstance(config, MultiMAERunConfig):
        from pipeline.multimae.objective import MultiMAEObjective

        return train(
            config, _title(config), lambda _: MultiMAEObjective(config, dataset), record,
            lambda objective: _monitor(config, objective),
        )  # fmt: skip
    assert isinstance(config, Stage1Config)
    from configs.registry import modality

    if modality(config.modality).kind == "text":
        from pipeline.engine.distributed import env_rank
        from pipeline.stage1.text import train_text

        return train_text(config, dataset) if env_rank() == 0 else 0
    from pipeline.stage1.objective import TokenizerObjective

    return train(config, _title(config), lambda _: TokenizerObjective(config, dataset), record)


def _masked_objective(config: MaskedRunConfig, dataset: "SampleSet") -> "MaskedObjective":
    if isinstance(config, FusionRunConfig):
        from pipeline.fusion.objective import FusionObjective

        return FusionObjective(config, dataset)
    from pipeline.stage2.objective import MaskedObjective

    return MaskedObjective(config, dataset)


def _monitor(
    config: MaskedRunConfig | MultiMAERunConfig, objective: "MaskedObjective | MultiMAEObjective"
) -> "Monitor | None":
    if not config.monitor.every_steps:
        return None
    if isinstance(config, MultiMAERunConfig):
        from pipeline.evaluate.multimae_monitor import MultiMAEMonitor

        return MultiMAEMonitor(config, cast("MultiMAEObjective", objective))
    from pipeline.evaluate.monitor import RunMonitor

    return RunMonitor(config, cast("MaskedObjective", objective))


def _title(config: RunConfig) -> str:
    if isinstance(config, Stage1Config):
        return f"stage1 {config.modality}"
    return str(getattr(config, "kind", "training"))


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code. For use in-process, by launch and by tests."""
    try:
        # Without standalone mode, typer gives an Exit's code back instead of leaving the process.
        code = app(args=argv, standalone_mode=False)
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    except typer.Abort:
        return 130
    except Exception as error:
        # click's own errors (unknown option and the like) know how to show themselves.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        return 2
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
