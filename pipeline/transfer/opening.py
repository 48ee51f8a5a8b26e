"""From the text in a configuration to a backbone."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from pipeline.engine.errors import RunError
from pipeline.transfer.backbone import Backbone, Intake
from pipeline.transfer.encoders import open_encoder, open_fusion
from pipeline.transfer.multimae import open_multimae
from pipeline.transfer.vit import open_vit
from pipeline.transfer.weights import TIMM, artifact_folder

Opener = Callable[[Path, Path, torch.device, int | None], Backbone]

# By the key of an artifact's config.json that only such a model has; the first that is there counts.
_OPENERS: dict[str, Opener] = {
    "multimae": open_multimae,
    "fusion": open_fusion,
    "masked": open_encoder,
}


def open_backbone(
    text: str, offered: Mapping[str, Intake], device: torch.device, seed: int | None = None
) -> Backbone:
    """A run, an artifact, or `timm:NAME` over the modalities `offered`; with `seed` a random twin.

    Raises RunError where there is no such model.
    """
    if text.startswith(TIMM):
        return open_vit(text.removeprefix(TIMM), offered, device, seed)
    run, folder = Path(text), artifact_folder(Path(text))
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
