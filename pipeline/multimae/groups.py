"""The groups of a model: bands of a modality as patches, each with its places in one table.

Groups run in registry order of their modalities, whatever the order of a configuration.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, cat

from configs import ConfigError
from configs.schema import GroupConfig, Modality, MultiMAEConfig
from pipeline.layers.positions import grid_positions


@dataclass(frozen=True)
class Group:
    """Bands of one modality (`bands` are their numbers) on a grid of patches.

    `patch_px` counts the pixels that are kept, every `stride`th. `classes` are the values of a class
    map in the order of its logits, `nodata` the number among them that is no class; images have none.
    """

    name: str
    modality: str
    bands: tuple[int, ...]
    grid: tuple[int, int]
    patch_m: float
    patch_px: int
    offset: int
    targets: tuple[str, ...]
    loss: str
    robust: bool
    stride: int = 1
    classes: tuple[int, ...] = ()
    nodata: int | None = None
    class_width: int = 0

    @property
    def num_places(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def places(self) -> slice:
        """Its rows of the table."""
        return slice(self.offset, self.offset + self.num_places)

    @property
    def side_px(self) -> int:
        """Side of a whole window in pixels of the modality."""
        return self.grid[0] * self.patch_px * self.stride

    @property
    def patch_values(self) -> int:
        """Numbers in a flattened patch: what is predicted, logits for classes."""
        return self.patch_px**2 * (len(self.classes) or len(self.bands))


@dataclass(frozen=True)
class Task:
    """What one decoder predicts: the group's `values`, or values `normed` patch by patch."""

    group: int
    name: str
    normed: bool


@dataclass(frozen=True)
class GroupTable:
    """All groups of a model, in the order in which everything runs."""

    groups: tuple[Group, ...]
    window_m: float

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(
            Task(i, g.name if t == "values" else f"{g.name}/{t}", t == "normed")
            for i, g in enumerate(self.groups)
            for t in g.targets
        )

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(g.modality for g in self.groups))

    @property
    def num_places(self) -> int:
        return sum(g.num_places for g in self.groups)

    def positions(self, width: int) -> Tensor:
        """Codes of all places, [num_places, width]."""
        return cat([grid_positions(*g.grid, g.patch_m, width) for g in self.groups])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "GroupTable":
        """What `to_dict` gave, after a trip through JSON."""
        tuples = ("bands", "grid", "targets", "classes")
        groups = (Group(**{**g, **{t: tuple(g[t]) for t in tuples}}) for g in record["groups"])
        return cls(tuple(groups), record["window_m"])


def build_groups(config: MultiMAEConfig, rows: Mapping[str, Modality], where: object) -> GroupTable:
    """The groups a configuration asks for, of the modalities that `where` has (`rows`).

    Raises ConfigError for modalities and bands that are not there, and windows that do not divide.
    """
    for name, group in config.groups.items():
        if group.modality not in rows:
            have = ", ".join(rows)
            raise ConfigError(
                f"multimae.groups.{name}: {where} has no {group.modality}; it has {have}"
            )
    ordered = sorted(config.groups.items(), key=lambda g: (rows[g[1].modality].order, g[0]))
    groups, offset = [], 0
    for name, own in ordered:
        groups.append(_group(name, own, rows[own.modality], config, offset))
        offset += groups[-1].num_places
    return GroupTable(tuple(groups), config.window_m)


def _group(
    name: str, own: GroupConfig, row: Modality, config: MultiMAEConfig, offset: int
) -> Group:
    key, is_classes = f"multimae.groups.{name}", row.kind == "classes"
    if not row.is_map or row.gsd_m is None:
        raise ConfigError(f"{key}: {row.name} is a {row.kind} modality and has no patches")
    if unknown := [band for band in own.bands if band not in row.bands]:
        have = ", ".join(row.bands)
        raise ConfigError(f"{key}.bands: {row.name} has no {', '.join(unknown)}; it has {have}")
    if is_classes and ("normed" in own.targets or own.standardise != "global"):
        raise ConfigError(
            f"{key}: {row.name} is a class map, and class numbers are no amounts; leave the target "
            "`normed` and `standardise` out"
        )
    if not is_classes and own.stride > 1:
        raise ConfigError(f"{key}.stride is for class maps; {row.name} is an image")
    bands = tuple(row.bands.index(band) for band in own.bands or row.bands)
    if is_classes and len(bands) > 1:
        raise ConfigError(f"{key}.bands: name one of {', '.join(row.bands)}")
    patch_m = own.patch_m or config.patch_m
    step_m = row.gsd_m * own.stride
    if patch_m % step_m or config.window_m % patch_m:
        raise ConfigError(
            f"{key}: a window of {config.window_m:g} m does not divide into patches of {patch_m:g} m, or "
            f"these into pixels of {step_m:g} m; set multimae.window_m, patch_m or {key}.patch_m"
        )
    side = round(config.window_m / patch_m)
    values = tuple(c.value for c in row.classes) if is_classes else ()
    nodata = -1 if row.nodata is None else row.nodata
    return Group(
        name=name, modality=row.name, bands=bands, grid=(side, side), patch_m=patch_m,
        patch_px=round(patch_m / step_m), offset=offset, targets=own.targets, loss=own.loss,
        robust=own.standardise == "robust", stride=own.stride, classes=values,
        nodata=values.index(int(nodata)) if nodata in values else None,
        class_width=own.class_width if is_classes else 0,
    )  # fmt: skip
