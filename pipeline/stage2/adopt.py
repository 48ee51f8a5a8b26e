"""A published model as an artifact of ours, ready to be continued, exported or generated from."""

from collections.abc import Mapping
from pathlib import Path

from configs import ConfigError
from configs.registry import BandStatistics, modality, statistics_set
from pipeline.data.transforms import Normaliser
from pipeline.engine.errors import RunError
from pipeline.engine.foreign import ImportReport, fill, read_state
from pipeline.stage2.artifact import save
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.terramind import import_model


def adopt(
    path: Path,
    out: Path,
    statistics: str = "terramind-v1",
    window_m: float | None = None,
    renamed: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
) -> ImportReport:
    """Write OUT/artifact from a file of TerraMind or 4M.

    `statistics` names the set that the weights were trained with; the rest is as in `import_model`.
    Raises RunError when the weights are no such model, ConfigError when statistics are missing.
    """
    artifact = out / "artifact"
    if artifact.exists():
        raise RunError(f"{artifact} exists; remove it or write another --out")
    state = read_state(path, "download it from TerraMind's page of that size")
    imported = import_model(state, window_m, renamed, without)
    normalisers = _normalisers(imported.layout, statistics)
    model = MaskedTransformer(imported.layout, imported.config)
    fill(model, imported.weights, f"{path} does not fit this model")
    save(model, normalisers, artifact)
    return imported.report


def _normalisers(layout: Layout, name: str) -> dict[str, Normaliser]:
    table: dict[str, BandStatistics] = statistics_set(name)
    found = {}
    for i in layout.pixels:
        stream = layout.streams[i]
        row = modality(stream.modality)
        if row.name not in table:
            raise ConfigError(
                f"the statistics set {name} has nothing for {row.name}; give another --statistics "
                f"(a YAML file), or leave it out: --without its name in the weights"
            )
        found[row.name] = Normaliser(row, table[row.name])
    return found
