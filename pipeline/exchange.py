"""Commands by which models come in and go out: import-tokenizer, import-model, export, export-vit."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from configs import ConfigError
from pipeline.console import exit_with, tell


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command("import-tokenizer")(import_tokenizer)
    app.command("import-model")(import_model)
    app.command()(export)
    app.command("export-vit")(export_vit)


def import_tokenizer(
    weights: Annotated[Path, typer.Argument(help="TerraMind_Tokenizer_S2L2A.pt, for instance")],
    modality: Annotated[str, typer.Option(help="whose tokenizer it is, as in the registry")],
    out: Annotated[Path, typer.Option(help="folder that tokenize is told; gets artifact/")],
    statistics: Annotated[str, typer.Option(help="set it was trained with")] = "terramind-v1",
    crop: Annotated[int, typer.Option(help="side of a window in pixels", min=1)] = 224,
) -> None:
    """Make one of TerraMind's published tokenizers one of ours; every tensor has to find its place."""

    def run() -> int:
        from pipeline.stage1.adopt import adopt

        tell(f"{out / 'artifact'}: {adopt(weights, modality, statistics, crop, out)}")
        return 0

    exit_with(run)


def import_model(
    weights: Annotated[Path, typer.Argument(help="TerraMind_v1_base.pt, for instance")],
    out: Annotated[Path, typer.Option(help="folder of a run; gets artifact/")],
    statistics: Annotated[str, typer.Option(help="set it was trained with")] = "terramind-v1",
    window: Annotated[
        float | None, typer.Option(help="side of a window in metres; what its patches cover", min=1)
    ] = None,
    rename: Annotated[
        list[str] | None, typer.Option(help="NAME=MODALITY, of ones whose names do not tell")
    ] = None,
    without: Annotated[list[str] | None, typer.Option(help="NAME to leave out")] = None,
) -> None:
    """Make a published model of TerraMind or 4M one of ours; every tensor has to find its place."""

    def run() -> int:
        from pipeline.stage2.adopt import adopt

        pairs = [text.partition("=") for text in rename or ()]
        if any(not name for *_, name in pairs):
            raise ConfigError("--rename takes NAME=MODALITY, such as --rename rgb@224=S2RGB")
        renamed = {theirs: name for theirs, _, name in pairs}
        found = adopt(weights, out, statistics, window, renamed, tuple(without or ()))
        tell(f"{out / 'artifact'}: {found}")
        return 0

    exit_with(run)


def export(
    run: Annotated[Path, typer.Option(help="a stage-2 run, or what import-model wrote")],
    out: Annotated[Path, typer.Option(help="folder to write; must not exist")],
    whole: Annotated[bool, typer.Option("--whole", help="keep the decoder")] = False,
    onnx: Annotated[str, typer.Option(help="S2L2A,DEM: write encoder.onnx for these")] = "",
    merge: Annotated[str, typer.Option(help="of its features: none, mean, max or concat")] = "none",
) -> None:
    """Write a trained encoder for others: weights, modality table, statistics; ONNX if asked for."""
    if merge not in ("none", "mean", "max", "concat"):
        raise ConfigError(f"--merge {merge}: choose none, mean, max or concat")

    def run_() -> int:
        from pipeline.stage2.export import export as work

        names = tuple(n.strip() for n in onnx.split(",") if n.strip())
        for line in work(run, out, whole=whole, onnx=names, merge=cast(Any, merge)):
            tell(line)
        return 0

    exit_with(run_)


def export_vit(
    run: Annotated[Path, typer.Option(help="a multimae run")],
    group: Annotated[str, typer.Option(help="group of images that the ViT will take: rgb")],
    out: Annotated[Path, typer.Option(help="safetensors file to write")],
) -> None:
    """Write the encoder of a MultiMAE as weights of timm's VisionTransformer, for one of its groups."""

    def run_() -> int:
        from pipeline.multimae.vit import export_vit as work

        tell(f"{out}: {work(run, group, out)}")
        return 0

    exit_with(run_)
