"""A trained late-fusion model as others use it: weights, frozen latents, streams."""

from pathlib import Path
from typing import Any

import torch

from configs.schema import FusionConfig, MaskedConfig
from pipeline.engine.artifact import read_record, read_weights, write_artifact
from pipeline.fusion.model import LateFusion
from pipeline.stage2.layout import Layout

VERSION = 1


def save(model: LateFusion, folder: Path) -> None:
    """Write the artifact; the folder appears under its name only when it is whole."""
    record = {
        "version": VERSION,
        "masked": model.masked.model_dump(mode="json"),
        "fusion": model.fusion.model_dump(mode="json"),
        "latent_widths": model.latent_widths,
        "layout": model.layout.to_dict(),
    }
    write_artifact(folder, model.state_dict(), record)


def load(folder: Path, device: torch.device | str = "cpu") -> LateFusion:
    """Read what `save` wrote. Raises RunError when the run has not left an artifact."""
    record = describe(folder)
    model = LateFusion(
        Layout.from_dict(record["layout"]),
        MaskedConfig.model_validate(record["masked"]),
        FusionConfig.model_validate(record["fusion"]),
        record["latent_widths"],
    )
    model.load_state_dict(read_weights(folder), strict=True)
    return model.to(device).eval()


def describe(folder: Path) -> dict[str, Any]:
    """config.json of an artifact. Raises RunError when there is none."""
    return read_record(folder)
