"""`python -m launch.submit WHAT --config FILE --cluster NAME [--dry-run] [a.b=c ...]`.

One command for one step or a whole experiment, on this machine or as Slurm jobs.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from configs import ConfigError, load_config
from configs.load import ROOT
from configs.schema import ClusterConfig
from launch.errors import LaunchError
from launch.plan import plan_steps
from launch.step import What

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def submit(
    what: Annotated[What, typer.Argument(help="One step, or `all` of an experiment.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Changes to the configuration, a.b=c.")
    ] = None,
    config: Annotated[
        str, typer.Option(help="YAML file of the step or, for `all`, of the experiment.")
    ] = ...,  # pyright: ignore[reportArgumentType]
    cluster: Annotated[
        str, typer.Option(help="local, debug, slurm, or another file like configs/clusters/*.yaml.")
    ] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print exactly what would run.")
    ] = False,
    nodes: Annotated[int | None, typer.Option(help="Nodes per training job.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(help="GPUs per node, a rank each.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Ranks per node, on the CPU.")] = None,
    time: Annotated[int | None, typer.Option(help="Minutes per job.")] = None,
) -> None:
    """Run or submit one step of the pipeline, or the whole chain of an experiment.

    Finished work is skipped; with the same command, a stopped run goes on from its last commit.
    """
    if ranks is not None and gpus_per_node is not None:
        raise ConfigError("--ranks are CPU ranks; with --gpus-per-node there is one rank per GPU")
    given = {
        "nodes": nodes,
        "ranks_per_node": ranks,
        "gpus_per_node": 0 if ranks is not None else gpus_per_node,
        "time_min": time,
    }
    site = load_cluster(cluster, [f"{k}={v}" for k, v in given.items() if v is not None])
    steps = plan_steps(what, config, overrides or ())
    # submitit takes a tenth of a second to import, and the others need none of it.
    if site.executor in ("slurm", "sbatch"):
        from launch import slurm

        code = slurm.describe(steps, site) if dry_run else slurm.submit(steps, site)
    else:
        from launch import executors

        code = executors.describe(steps, site) if dry_run else executors.run_here(steps, site)
    raise typer.Exit(code or 0)


def load_cluster(name: str, overrides: list[str]) -> ClusterConfig:
    """A cluster by the name of its file in `configs/clusters/`, or by path."""
    known = sorted(path.stem for path in (ROOT / "clusters").glob("*.yaml"))
    if name in known:
        name = f"configs/clusters/{name}.yaml"
    elif not Path(name).is_file():
        raise ConfigError(
            f"no cluster {name!r}; there are {', '.join(known)}, or give the path of a file like "
            "configs/clusters/slurm.yaml"
        )
    site = load_config(name, overrides, kind="cluster")
    assert isinstance(site, ClusterConfig)
    return site


def main() -> None:
    try:
        app()
    except (ConfigError, LaunchError) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
