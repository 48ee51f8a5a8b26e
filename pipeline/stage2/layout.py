"""The streams of a model: every modality as pixels or as tokens, with its places and codes.

All streams share one table of positions and all token streams one table of embeddings; a stream
is a range of rows in each. Ranges follow registry order, pixels before tokens. A modality of several
dates has a stream for each, which share their ranges: only the embedding of the day tells them apart.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from configs import ConfigError
from configs.registry import in_registry_order, modality
from configs.schema import MaskedConfig, Modality
from pipeline.data.tokens import extra_name
from pipeline.data.views import Views
from pipeline.layers.positions import grid_centres, grid_positions, sincos
from pipeline.stage2.streams import Kind, Stream, form_key, on_dates, with_offsets

_KINDS: dict[str, Kind] = {
    "image": "map",
    "classes": "map",
    "text": "sequence",
    "coordinates": "set",
    "date": "set",
}


@dataclass(frozen=True)
class Layout:
    """All streams, in the order in which everything runs."""

    streams: tuple[Stream, ...]
    window_m: float
    views: Views
    token_info: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        return tuple(i for i, s in enumerate(self.streams) if s.is_input)

    @cached_property
    def targets(self) -> tuple[int, ...]:
        return tuple(i for i, s in enumerate(self.streams) if s.is_target)

    @cached_property
    def pixels(self) -> tuple[int, ...]:
        return tuple(i for i, s in enumerate(self.streams) if s.kind == "pixels")

    @cached_property
    def has_days(self) -> bool:
        """Whether the model is told the day of any stream."""
        return any(s.date is not None for s in self.streams)

    @cached_property
    def forms(self) -> tuple[Stream, ...]:
        """One stream per row of learned tables: of several dates the first."""
        return tuple(s for s in self.streams if not s.date)

    @cached_property
    def form_of(self) -> tuple[int, ...]:
        """Of each stream the number of its form."""
        number = {form_key(s): i for i, s in enumerate(self.forms)}
        return tuple(number[form_key(s)] for s in self.streams)

    @property
    def num_positions(self) -> int:
        return sum(s.num_positions for s in self.forms)

    @property
    def vocab_size(self) -> int:
        return sum(s.vocab_size for s in self.forms)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Of codes that count something, the first row in tables of codes and how many there are."""
        return [
            (s.vocab_offset + sum(s.runs[:k]), length)
            for s in self.forms
            for k, length in enumerate(s.runs)
        ]

    def index(self, name: str) -> int:
        """Place of a stream. Raises KeyError when there is none of that name."""
        for i, stream in enumerate(self.streams):
            if stream.name == name:
                return i
        raise KeyError(name)

    def positions(self, width: int) -> Tensor:
        """The table of position codes, [num_positions, width]."""
        parts = []
        for s in self.forms:
            if s.grid is not None:
                parts.append(grid_positions(*s.grid, s.patch_m, width))
            else:
                parts.append(sincos(torch.arange(s.num_positions), width))
        return torch.cat(parts)

    def centres(self) -> Tensor:
        """Where each position lies on the ground, [num_positions, 2]; NaN for what has no place."""
        parts = []
        for s in self.forms:
            if s.grid is not None:
                parts.append(grid_centres(*s.grid, s.patch_m))
            else:
                parts.append(torch.full((s.num_positions, 2), torch.nan))
        return torch.cat(parts)

    def to_dict(self) -> dict[str, Any]:
        return {
            "streams": [asdict(s) for s in self.streams],
            "window_m": self.window_m,
            "views": self.views.to_dict(),
            "token_info": self.token_info,
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Layout":
        streams = tuple(
            Stream(
                **{
                    **s,
                    "grid": tuple(s["grid"]) if s["grid"] else None,
                    "runs": tuple(s.get("runs", ())),
                }
            )
            for s in record["streams"]
        )
        return cls(streams, record["window_m"], Views(**record["views"]), record["token_info"])


class Described(Protocol):
    """What a layout is made from: a data set, or something that describes one."""

    @property
    def path(self) -> object: ...

    @property
    def modalities(self) -> Mapping[str, Modality]: ...

    @property
    def extras(self) -> Iterable[str]: ...

    def extra_manifest(self, name: str) -> dict[str, Any]: ...


def build_layout(config: MaskedConfig, dataset: Described) -> Layout:
    """The streams a configuration asks for, as the data set's tokens define them.

    Raises ConfigError for modalities or tokens that the data set lacks, and for grids that differ.
    """
    token_names = in_registry_order({*config.tokens, *config.targets})
    info = {}
    for name in token_names:
        if extra_name(name) not in dataset.extras:
            raise ConfigError(
                f"{dataset.path} has no tokens of {name}; make them with `python -m pipeline tokenize`, "
                "or take the modality out of masked.tokens and masked.targets"
            )
        info[name] = dataset.extra_manifest(extra_name(name))["info"]
    windows = {i["window_m"] for i in info.values() if i["window_m"] is not None}
    views = {Views(**i["views"]) for i in info.values() if i["window_m"] is not None}
    if not windows:
        raise ConfigError(
            "masked.tokens and masked.targets name no map, such as DEM or LULC: without one there is "
            "nothing to tell how large a sample's window is"
        )
    if len(windows) > 1 or len(views) > 1:
        raise ConfigError(
            f"tokens were made on different windows: {sorted(windows)} m, {sorted(map(str, views))}; "
            "tokenize all modalities in one call"
        )
    window_m = windows.pop()
    for name in config.patch_px.keys() - dataset.modalities.keys():
        # Of a modality that is no input it may stay; a name that nothing has is a slip.
        modality(name)
    _check_dates(config, dataset, info)
    forms = [
        _pixel_stream(n, config, dataset, window_m) for n in in_registry_order(set(config.pixels))
    ]
    forms += [_token_stream(n, config, info[n]) for n in token_names]
    streams = [s for form in forms for s in on_dates(form, config.dates.get(form.modality, 0))]
    return Layout(tuple(with_offsets(streams)), window_m, views.pop(), info)


def _check_dates(config: MaskedConfig, dataset: Described, info: dict[str, dict[str, Any]]) -> None:
    """Raises ConfigError for dates that are not there, or have other tokens than the first."""
    for name in config.dates:
        if not modality(name).is_map:
            raise ConfigError(f"masked.dates.{name}: only maps have dates; take it out")
        for part in config.on_dates([name])[1:]:
            fewer = f"or write masked.dates.{name} with the number of dates that there are"
            if name in config.pixels and part not in dataset.modalities:
                raise ConfigError(
                    f"{dataset.path} has no {part}; build shards that have it, {fewer}"
                )
            if name not in info:
                continue
            if extra_name(part) not in dataset.extras:
                raise ConfigError(
                    f"{dataset.path} has no tokens of {part}; make them with `python -m pipeline "
                    f"tokenize`, {fewer}"
                )
            found = dataset.extra_manifest(extra_name(part))["info"]
            if found | {"modality": name} != info[name]:
                raise ConfigError(
                    f"tokens of {part} and of {name} were made by different tokenizers or on different "
                    f"windows; remove those of {part} below {dataset.path}/extra and tokenize again"
                )


def _pixel_stream(name: str, config: MaskedConfig, dataset: Described, window_m: float) -> Stream:
    if name not in dataset.modalities:
        raise ConfigError(f"{dataset.path} has no {name}; take it out of masked.pixels")
    row = dataset.modalities[name]
    if row.kind != "image" or row.gsd_m is None:
        raise ConfigError(f"{name} is a {row.kind} modality; only images can be pixel inputs")
    patch = config.patch_px.get(name, row.patch_px or 0)
    side = window_m / row.gsd_m / patch
    if side != int(side):
        raise ConfigError(
            f"{name}: a window of {window_m:g} m does not divide into patches of {patch} px; "
            f"set masked.patch_px.{name}"
        )
    return Stream(
        name=f"{name}@px", modality=name, kind="pixels", num_positions=int(side) ** 2,
        is_input=True, is_target=False, patch_m=patch * row.gsd_m, grid=(int(side), int(side)),
        patch_px=patch, num_bands=row.num_bands,
    )  # fmt: skip


def _token_stream(name: str, config: MaskedConfig, info: dict[str, Any]) -> Stream:
    grid = tuple(info["grid"]) if info["grid"] else None
    kind, is_input, is_target = _KINDS[info["kind"]], name in config.tokens, name in config.targets
    num_sentinels = 0
    if config.sequences == "span" and kind == "sequence" and is_input and is_target:
        # Spans are at least a token apart, and one sentinel more ends the target.
        num_sentinels = info["num_tokens"] // 2 + 1
    return Stream(
        name=f"{name}@tok", modality=name, kind=kind, num_positions=info["num_tokens"],
        is_input=is_input, is_target=is_target,
        patch_m=info["window_m"] / grid[0] if grid else 0.0,
        grid=grid, vocab_size=info["vocab_size"] + num_sentinels, num_sentinels=num_sentinels,
        runs=tuple(info.get("runs", ())),
    )  # fmt: skip
