"""A published tokenizer as an artifact of ours, ready for `python -m pipeline tokenize`."""

from pathlib import Path

from configs import ConfigError
from configs.registry import modality, statistics_set
from pipeline.engine.errors import RunError
from pipeline.engine.foreign import ImportReport
from pipeline.stage1.artifact import ImageTokenizer
from pipeline.stage1.terramind import load_into, read_tokenizer
from pipeline.stage1.tokenizer import Tokenizer


def adopt(path: Path, name: str, statistics: str, crop_px: int, out: Path) -> ImportReport:
    """Write OUT/artifact from a file of TerraMind, for one modality of the registry.

    `statistics` names the set that the weights were trained with; a window has `crop_px` pixels. Raises
    RunError when the weights are not a tokenizer of that modality, ConfigError for an unknown name.
    """
    artifact = out / "artifact"
    if artifact.exists():
        raise RunError(f"{artifact} exists; remove it or write another --out")
    imported, row = read_tokenizer(path), modality(name)
    table = statistics_set(statistics) if row.kind == "image" else {}
    if row.kind == "image" and name not in table:
        raise ConfigError(f"the statistics set {statistics} has nothing for {name}")
    config = imported.config.model_copy(update={"crop_px": crop_px})
    model = Tokenizer(row, config, crop_px)
    load_into(model, imported)
    ImageTokenizer(model.eval(), row, table.get(name)).save(artifact)
    return imported.report
