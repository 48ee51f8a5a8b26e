"""Commands about labels: transfer, predict."""

from pathlib import Path
from typing import Annotated, cast

import typer

from configs import ConfigError, load_config
from configs.schema import TransferConfig
from pipeline.console import exit_with, finished, tell


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(transfer)
    app.command()(predict)


def transfer(
    config: Annotated[Path, typer.Option("--config", "-c", help="YAML file")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, such as backbone=runs/demo/stage2")
    ] = None,
) -> None:
    """Judge a backbone on labels: kNN, probes, fine-tuning; with inputs missing, with few labels."""
    loaded = cast(TransferConfig, load_config(config, overrides or (), kind="transfer"))
    from pipeline.transfer.done import SCORES, is_current

    # A backbone that was trained again under the same name is another one, and so are images.
    if finished(loaded.out / SCORES, loaded) and is_current(loaded):
        tell(f"transfer           already done: {loaded.out}")
        return

    def run() -> int:
        from pipeline.transfer.run import transfer as work

        return work(loaded)

    exit_with(run)


def predict(
    model: Annotated[Path, typer.Option(help="TRANSFER/models/NAME, of a run with keep_models")],
    given: Annotated[list[str], typer.Option("--input", help="S2L2A=scene.tif, one per modality")],
    out: Annotated[Path, typer.Option(help="GeoTIFF to write")],
    overlap: Annotated[float, typer.Option(help="of neighbouring windows", min=0, max=0.75)] = 0.25,
    window: Annotated[float | None, typer.Option(help="side of a window in metres")] = None,
    batch: Annotated[int, typer.Option(help="windows at a time", min=1)] = 16,
) -> None:
    """Map a scene of any size with a model that transfer trained."""
    files: dict[str, Path] = {}
    for text in given:
        name, _, file = text.partition("=")
        if not file:
            raise ConfigError("--input takes MODALITY=FILE, such as --input S2L2A=scene.tif")
        files[name] = Path(file)

    def run() -> int:
        from pipeline.engine.distributed import pick_device
        from pipeline.transfer.saved import load_model
        from pipeline.transfer.scene import predict_scene

        found = load_model(model, pick_device("auto"))
        predict_scene(found, files, out, overlap=overlap, batch=batch, window_m=window)
        tell(f"predict            {out}")
        return 0

    exit_with(run)
