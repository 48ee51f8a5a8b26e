"""A trained model for others: `python -m pipeline export`.

OUT/
  model.safetensors    weights, of the encoder alone or of the whole model
  config.json          shape, streams, table of the modalities, statistics
  encoder.onnx         where asked for
"""

from pathlib import Path
from typing import Any

from configs import ConfigError
from configs.registry import modality_registry
from pipeline.engine.errors import RunError
from pipeline.layers.merge import Merge
from pipeline.stage2 import artifact
from pipeline.stage2.encoder import Encoder
from pipeline.stage2.onnx_export import write_onnx


def export(
    run: Path, out: Path, *, whole: bool = False, onnx: tuple[str, ...] = (), merge: Merge = "none"
) -> list[str]:
    """Write OUT from a run, an artifact or an import; gives what was written.

    `whole` keeps the decoder, so that training can go on from it. `onnx` names the modalities of an
    encoder.onnx. Raises RunError when there is no model or OUT exists, ConfigError for a modality that
    the model does not take or when the exporter is not installed.
    """
    if out.exists():
        raise RunError(f"{out} exists; remove it or write another --out")
    folder = artifact.find(run)
    about = artifact.describe(folder)
    encoder = Encoder.from_pretrained(folder)
    weights = (artifact.load(folder)[0] if whole else encoder).state_dict()
    if onnx:
        _check(encoder, onnx)
    artifact.write(
        out, about, weights, holds="model" if whole else "encoder", modalities=_table(about)
    )
    millions = sum(v.numel() for v in weights.values()) / 1e6
    told = [f"{out}: {'the whole model' if whole else 'the encoder'}, {millions:.1f} M values"]
    if onnx:
        told.append(write_onnx(encoder, onnx, out / "encoder.onnx", merge))
    return told


def _check(encoder: Encoder, names: tuple[str, ...]) -> None:
    for name in names:
        try:
            encoder.stream(name)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def _table(about: artifact.Described) -> dict[str, Any]:
    """What each modality is: bands, unit, resolution; as trained on, or as the registry has it."""
    rows = {n: v.modality for n, v in about.normalisers.items()}
    known = modality_registry()
    names = dict.fromkeys(s.modality for s in about.layout.streams)
    found = {n: rows.get(n) or known.get(n) for n in names}
    return {n: row.model_dump(mode="json") for n, row in found.items() if row is not None}
