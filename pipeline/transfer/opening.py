"""From the text in a configuration to a backbone."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import xxhash

from pipeline.engine.errors import RunError
from pipeline.transfer.backbone import Backbone, Intake
from pipeline.transfer.encoders import open_encoder, open_fusion, open_multimae
from pipeline.transfer.vit import open_vit

Opener = Callable[[Path, Path, torch.device, int | None], Backbone]

# By the key of an artifact's config.json that only such a model has; the first that is there counts.
_OPENERS: dict[str, Opener] = {
    "multimae": open_multimae,
    "fusion": open_fusion,
    "masked": open_encoder,
}
_TIMM = "timm:"


def open_backbone(
    text: str, offered: Mapping[str, Intake], device: torch.device, seed: int | None = None
) -> Backbone:
    """A run, an artifact, or `timm:NAME` over the modalities `offered`; with `seed` a random twin.

    Raises RunError where there is no such model.
    """
    if text.startswith(_TIMM):
        return open_vit(text.removeprefix(_TIMM), offered, device, seed)
    run, folder = Path(text), _artifact(Path(text))
    if folder == run:
        run = run.parent
    record = json.loads((folder / "config.json").read_text())
    for key, opener in _OPENERS.items():
        if key in record:
            return opener(run, folder, device, seed)
    raise RunError(
        f"{folder} holds no backbone: its config.json has none of {', '.join(_OPENERS)}; a tokenizer, "
        "for instance, is none"
    )


def backbone_digest(text: str) -> str:
    """Names exactly these weights: hex digest of the artifact's files; of a timm model, of its name."""
    if text.startswith(_TIMM):
        return xxhash.xxh3_64_hexdigest(text.encode())
    found = xxhash.xxh3_64()
    for path in sorted(_artifact(Path(text)).glob("*")):
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                found.update(block)
    return found.hexdigest()


def _artifact(path: Path) -> Path:
    for folder in (path, path / "artifact"):
        if (folder / "config.json").is_file():
            return folder
    raise RunError(
        f"no model in {path}; write backbone=RUN with a finished run, an artifact, or timm:NAME"
    )
