"""A trained stage-2 model as others use it: weights, streams, and the statistics of its pixels.

    FOLDER/
      model.safetensors    weights: of the whole model in RUN/artifact, of the encoder after `export`
      config.json          shape, streams, modality table, statistics

Weights and statistics travel together: a model under other statistics is silently wrong.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from configs.registry import BandStatistics
from configs.schema import MaskedConfig, Modality
from pipeline.data.transforms import Normaliser
from pipeline.engine.artifact import WEIGHTS, read_record, write_artifact
from pipeline.engine.artifact import read_weights as read_all
from pipeline.engine.errors import RunError
from pipeline.engine.identity import find as find
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import MaskedTransformer

VERSION = 1


class Described(NamedTuple):
    """What an artifact is, beside its weights."""

    layout: Layout
    config: MaskedConfig
    normalisers: dict[str, Normaliser]


def save(model: MaskedTransformer, normalisers: dict[str, Normaliser], folder: Path) -> None:
    """Write the artifact; the folder appears under its name only when it is whole."""
    write(folder, Described(model.layout, model.config, normalisers), model.state_dict())


def write(folder: Path, about: Described, weights: Mapping[str, Tensor], **more: Any) -> None:
    """`save`, of some of the weights; what is `more` goes into config.json."""
    record = {
        "version": VERSION,
        **more,
        "masked": about.config.model_dump(mode="json"),
        "layout": about.layout.to_dict(),
        "pixels": {
            name: {
                "modality": n.modality.model_dump(mode="json"),
                "statistics": n.statistics._asdict(),
            }
            for name, n in about.normalisers.items()
        },
    }
    write_artifact(folder, weights, record)


def describe(folder: Path) -> Described:
    """config.json of an artifact. Raises RunError when there is none."""
    record = read_record(folder)
    if not {"layout", "pixels"} <= record.keys():
        raise RunError(f"{folder} has no stage-2 model; name the folder of a stage-2 run")
    normalisers = {}
    for name, entry in record["pixels"].items():
        statistics = BandStatistics(
            tuple(entry["statistics"]["mean"]), tuple(entry["statistics"]["std"])
        )
        normalisers[name] = Normaliser(Modality.model_validate(entry["modality"]), statistics)
    config = MaskedConfig.model_validate(record["masked"])
    return Described(Layout.from_dict(record["layout"]), config, normalisers)


def load(
    folder: Path, device: torch.device | str = "cpu"
) -> tuple[MaskedTransformer, dict[str, Normaliser]]:
    """Read what `save` wrote: the model, frozen, and the normalisers of its pixel inputs.

    Raises RunError when the run has not left an artifact, or when it is an encoder alone.
    """
    layout, config, normalisers = describe(folder)
    model = MaskedTransformer(layout, config)
    weights = read_all(folder)
    if missing := model.state_dict().keys() - weights.keys():
        raise RunError(
            f"{folder} holds {len(missing)} tensors less than a whole model, such as "
            f"{min(missing)}; name the run itself, or export it with --whole"
        )
    model.load_state_dict(weights, strict=True)
    return model.to(device).eval(), normalisers


def read_weights(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Some of the weights. Raises RunError when they are not all there."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        wanted, held = list(names), set(file.keys())
        if missing := [n for n in wanted if n not in held]:
            raise RunError(f"{folder} lacks {', '.join(missing[:3])}: it is of another model")
        return {name: file.get_tensor(name) for name in wanted}
