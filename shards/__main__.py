"""`python -m shards`: make, check, look at and change sharded data sets."""

import sys
from typing import NoReturn

import typer

from shards.cli import build, look, make
from shards.errors import ShardError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Plain help: rich takes longer to load than everything else here.
    rich_markup_mode=None,
    help="Aligned multi-modal samples as tar shards.",
)
for command in (
    *(build.plan, build.build, build.status),
    *(look.verify, make.repair, look.inspect, look.preview),
    *(make.stats, make.split, make.merge, make.add_modality, look.bench),
):
    app.command()(command)


def main(arguments: list[str] | None = None) -> None:
    """Run a command line; what a user can put right ends with `error: ...` and status 2."""
    try:
        app(arguments)
    except ShardError as error:
        _refuse(error)
    except ValueError as error:
        # Not imported above: it brings pydantic along, and `--help` should not wait for that.
        from configs.errors import ConfigError

        if not isinstance(error, ConfigError):
            raise
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    if _speaks():
        print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


def _speaks() -> bool:
    """Whether this process is the one of its MPI ranks that tells the user."""
    from shards.build import mpi_rank

    return mpi_rank() == 0


if __name__ == "__main__":
    main()
