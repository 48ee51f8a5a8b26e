"""The modality registry and the statistics sets, read once from the YAML files beside this module."""

import functools
import itertools
from pathlib import Path
from typing import NamedTuple

import yaml
from pydantic import ValidationError

from configs.errors import ConfigError
from configs.schema.modality import Modality, undated

_ROOT = Path(__file__).parent

CLOUD_MASK = "CloudMask"
"""The modality that says which pixels of the optical ones are clouds."""


class BandStatistics(NamedTuple):
    """Mean and standard deviation per band, in the modality's unit."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@functools.cache
def modality_registry() -> dict[str, Modality]:
    """All modalities by name, in registry order (the order in which everything runs).

    Raises ConfigError for a file that does not fit the schema or repeats a name or an order.
    """
    entries = [_read_modality(path) for path in sorted((_ROOT / "modalities").glob("*.yaml"))]
    entries.sort(key=lambda m: m.order)
    for left, right in itertools.pairwise(entries):
        if left.order == right.order:
            raise ConfigError(
                f"modalities {left.name} and {right.name} have the same order {left.order}"
            )
    table = {m.name: m for m in entries}
    if len(table) != len(entries):
        raise ConfigError("two files in configs/modalities/ have the same name")
    return table


def modality(name: str) -> Modality:
    """One registry row; of a map also that of a further date, such as `S2L2A_t1`.

    Raises ConfigError naming the modalities that exist.
    """
    table = modality_registry()
    base, date = undated(name)
    if base not in table:
        raise ConfigError(f"unknown modality {name!r}; the registry has {', '.join(table)}")
    row = table[base]
    if date and not row.is_map:
        raise ConfigError(f"{name}: only maps have several dates, {base} is a {row.kind} modality")
    return row.on_date(date) if date else row


def in_registry_order(names: "tuple[str, ...] | list[str] | set[str]") -> tuple[str, ...]:
    """The names sorted by registry order. Raises ConfigError for an unknown name."""
    return tuple(sorted(names, key=lambda n: modality(n).order))


@functools.cache
def statistics_set(name: str) -> dict[str, BandStatistics]:
    """A named set from `configs/statistics/`, or a YAML file: modality -> mean and std per band.

    Raises ConfigError when there is no such set or its band counts differ from the registry's.
    """
    path = _ROOT / "statistics" / f"{name}.yaml"
    if name.endswith(".yaml"):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"{path}: no such statistics set")
    elif not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ConfigError(f"no statistics set {name!r}; there are {known}")
    values = yaml.safe_load(path.read_text())["modalities"]
    result: dict[str, BandStatistics] = {}
    for key, entry in values.items():
        stats = BandStatistics(tuple(map(float, entry["mean"])), tuple(map(float, entry["std"])))
        bands = modality(key).num_bands
        if len(stats.mean) != bands or len(stats.std) != bands:
            raise ConfigError(
                f"{path}: {key} has {bands} bands, the set has {len(stats.mean)} means "
                f"and {len(stats.std)} deviations"
            )
        result[key] = stats
    return result


def _read_modality(path: Path) -> Modality:
    try:
        entry = Modality.model_validate(yaml.safe_load(path.read_text()))
    except (ValidationError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if entry.name != path.stem:
        raise ConfigError(
            f"{path}: the file of modality {entry.name} must be named {entry.name}.yaml"
        )
    return entry
