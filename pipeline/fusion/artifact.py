"""A trained late-fusion model as others use it: weights, frozen latents, streams."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from configs.schema import FusionConfig, MaskedConfig
from pipeline.engine.errors import RunError
from pipeline.engine.lifecycle import write_atomic
from pipeline.fusion.model import LateFusion
from pipeline.stage2.layout import Layout

VERSION = 1


def save(model: LateFusion, folder: Path) -> None:
    """Write the artifact; the folder appears under its name only when it is whole."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {k: v.detach().float().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, temporary / "model.safetensors")
    record = {
        "version": VERSION,
        "masked": model.masked.model_dump(mode="json"),
        "fusion": model.fusion.model_dump(mode="json"),
        "latent_widths": model.latent_widths,
        "layout": model.layout.to_dict(),
    }
    write_atomic(temporary / "config.json", json.dumps(record, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def load(folder: Path, device: torch.device | str = "cpu") -> LateFusion:
    """Read what `save` wrote. Raises RunError when the run has not left an artifact."""
    record = read_record(folder)
    model = LateFusion(
        Layout.from_dict(record["layout"]),
        MaskedConfig.model_validate(record["masked"]),
        FusionConfig.model_validate(record["fusion"]),
        record["latent_widths"],
    )
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model.to(device).eval()


def read_record(folder: Path) -> dict[str, Any]:
    """config.json of an artifact. Raises RunError when there is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise RunError(f"no model in {folder}; finish its run first: `python -m pipeline train`")
    return json.loads(path.read_text())
