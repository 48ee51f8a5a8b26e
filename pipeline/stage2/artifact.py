"""A trained stage-2 model as others use it: weights, streams, and the statistics of its pixels."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from configs.registry import BandStatistics
from configs.schema import MaskedConfig, Modality
from pipeline.data.transforms import Normaliser
from pipeline.engine.errors import RunError
from pipeline.engine.lifecycle import write_atomic
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import MaskedTransformer

VERSION = 1


def save(model: MaskedTransformer, normalisers: dict[str, Normaliser], folder: Path) -> None:
    """Write the artifact; the folder appears under its name only when it is whole."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    weights = {k: v.detach().float().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, temporary / "model.safetensors")
    record = {
        "version": VERSION,
        "masked": model.config.model_dump(mode="json"),
        "layout": model.layout.to_dict(),
        "pixels": {
            name: {
                "modality": n.modality.model_dump(mode="json"),
                "statistics": n.statistics._asdict(),
            }
            for name, n in normalisers.items()
        },
    }
    write_atomic(temporary / "config.json", json.dumps(record, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def load(
    folder: Path, device: torch.device | str = "cpu"
) -> tuple[MaskedTransformer, dict[str, Normaliser]]:
    """Read what `save` wrote: the model, frozen, and the normalisers of its pixel inputs.

    Raises RunError when the run has not left an artifact.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise RunError(
            f"no model in {folder}; finish its stage-2 run first: `python -m pipeline train`"
        )
    record = json.loads(path.read_text())
    layout = Layout.from_dict(record["layout"])
    model = MaskedTransformer(layout, MaskedConfig.model_validate(record["masked"]))
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    normalisers = {}
    for name, entry in record["pixels"].items():
        statistics = BandStatistics(
            tuple(entry["statistics"]["mean"]), tuple(entry["statistics"]["std"])
        )
        normalisers[name] = Normaliser(Modality.model_validate(entry["modality"]), statistics)
    return model.to(device).eval(), normalisers
