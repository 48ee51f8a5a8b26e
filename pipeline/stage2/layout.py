"""The streams of a model: every modality as pixels or as tokens, with its places and codes.

All streams share one table of positions and all token streams one table of embeddings; a stream
is a range of rows in each. Ranges follow registry order, pixels before tokens. A modality of several
dates has a stream for each, which share their ranges: only the embedding of the day tells them apart.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from configs import ConfigError
from configs.registry import in_registry_order, modality
from configs.schema import MaskedConfig, Modality
from configs.schema.modality import dated
from pipeline.data.tokens import extra_name
from pipeline.data.views import Views
from pipeline.layers.positions import grid_centres, grid_positions, sincos

Kind = Literal["pixels", "map", "sequence", "set"]
_KINDS: dict[str, Kind] = {
    "image": "map",
    "classes": "map",
    "text": "sequence",
    "coordinates": "set",
    "date": "set",
}


@dataclass(frozen=True)
class Stream:
    """One modality in one form.

    `map` tokens lie on a grid, `set` tokens have fixed meanings and are predicted like map tokens,
    `sequence` tokens are predicted one after another. The last `num_sentinels` codes of a vocabulary
    stand for spans of tokens that were taken out. `date` is the number of the date among those of the
    modality; None where the model is not told the day.
    """

    name: str
    modality: str
    kind: Kind
    num_positions: int
    is_input: bool
    is_target: bool
    patch_m: float = 0.0
    grid: tuple[int, int] | None = None
    patch_px: int = 0
    num_bands: int = 0
    vocab_size: int = 0
    position_offset: int = 0
    vocab_offset: int = 0
    num_sentinels: int = 0
    date: int | None = None

    @property
    def part(self) -> str:
        """The modality on this date, as shards name it."""
        return dated(self.modality, self.date or 0)

    @property
    def places(self) -> slice:
        """Its rows of the table of positions."""
        return slice(self.position_offset, self.position_offset + self.num_positions)

    @property
    def codes(self) -> slice:
        """Its rows of tables of codes."""
        return slice(self.vocab_offset, self.vocab_offset + self.vocab_size)

    @property
    def first_sentinel(self) -> int:
        """Code of sentinel 0; all codes below it are tokens."""
        return self.vocab_size - self.num_sentinels

    @property
    def patch_values(self) -> int:
        """Numbers in one flattened pixel patch."""
        return self.patch_px**2 * self.num_bands


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
        number = {_form(s): i for i, s in enumerate(self.forms)}
        return tuple(number[_form(s)] for s in self.streams)

    @property
    def num_positions(self) -> int:
        return sum(s.num_positions for s in self.forms)

    @property
    def vocab_size(self) -> int:
        return sum(s.vocab_size for s in self.forms)

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
            Stream(**{**s, "grid": tuple(s["grid"]) if s["grid"] else None})
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
    )  # fmt: skip


def on_dates(stream: Stream, count: int) -> list[Stream]:
    """A stream on each of `count` dates; 0: as it is, on a day that the model is not told."""
    form = stream.name.removeprefix(stream.modality)
    dates = [replace(stream, name=dated(stream.modality, k) + form, date=k) for k in range(count)]
    return dates or [stream]


def _form(stream: Stream) -> tuple[str, bool]:
    return stream.modality, stream.kind == "pixels"


def with_offsets(streams: list[Stream]) -> list[Stream]:
    """The streams with their ranges in the tables of positions and codes, in the order given."""
    offsets: dict[tuple[str, bool], tuple[int, int]] = {}
    positions, codes = 0, 0
    for s in streams:
        if _form(s) not in offsets:
            offsets[_form(s)] = positions, codes
            positions, codes = positions + s.num_positions, codes + s.vocab_size
    placed = [(s, *offsets[_form(s)]) for s in streams]
    return [replace(s, position_offset=at, vocab_offset=code) for s, at, code in placed]
