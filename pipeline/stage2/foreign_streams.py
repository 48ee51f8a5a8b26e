"""The modalities of a TerraMind or 4M state dict as streams of ours.

`encoder_embeddings.<name>.*` and `decoder_embeddings.<name>.*` hold them: a `proj` takes patches of
pixels (rows, columns, bands), a `token_emb` codes; `untok_sen2l2a@224` is S2L2A in pixels, `tok_dem@224`
DEM in tokens.
"""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from configs.registry import modality, modality_registry
from pipeline.engine.errors import RunError
from pipeline.stage2.streams import Stream, with_offsets

EMBEDDING = re.compile(r"(encoder|decoder)_embeddings\.([^.]+)\.(.+)")
MAX_TOKENS = {"captions": 256, "coordinates": 4}
"""What sequences were trained with; their tables of positions go on to 512."""
WINDOW_M = 2240.0
"""224 pixels of 10 m."""

_NAMES = {"caption": "captions", "coords": "coordinates"}


@dataclass(frozen=True)
class Source:
    """A stream, and what its modality is called there."""

    theirs: str
    stream: Stream

    def name(self, side: str) -> str:
        return f"{side}_embeddings.{self.theirs}"


def read_sources(
    state: Mapping[str, Tensor], window_m: float | None, renamed: Mapping[str, str]
) -> list[Source]:
    """All modalities of a state dict in the order of our streams, with their ranges in our tables.

    Raises RunError, naming all that the registry does not know, that come twice, or that do not fit
    their row of the registry.
    """
    sides: dict[str, set[str]] = {}
    for key in state:
        if found := EMBEDDING.fullmatch(key):
            sides.setdefault(found[2], set()).add(found[1])
    names = {theirs: renamed.get(theirs) or _registry_name(theirs) for theirs in sides}
    unknown = sorted(theirs for theirs, name in names.items() if name is None)
    if unknown:
        raise RunError(
            f"the registry has no {', '.join(unknown)}; say which modalities these are (--rename "
            f"{unknown[0]}=NAME), leave them out (--without {unknown[0]}), or add them to "
            f"configs/modalities; known are {', '.join(modality_registry())}"
        )
    if not sides:
        raise RunError("this is no model of TerraMind or 4M: it has no encoder_embeddings")
    found = [
        Source(theirs, _stream(state, theirs, name, sides[theirs], window_m))
        for theirs, name in names.items()
        if name is not None
    ]
    found.sort(key=lambda s: (s.stream.kind != "pixels", modality(s.stream.modality).order))
    for left, right in itertools.pairwise(found):
        if left.stream.name == right.stream.name:
            raise RunError(
                f"{left.theirs} and {right.theirs} are both {left.stream.modality}; leave one out: "
                f"--without {right.theirs}"
            )
    placed = with_offsets([s.stream for s in found])
    return [Source(s.theirs, stream) for s, stream in zip(found, placed, strict=True)]


def window_of(streams: tuple[Stream, ...]) -> float:
    """Side of the windows in metres, which all streams on a grid share. Raises RunError otherwise."""
    sizes = {s.patch_m * s.grid[0] for s in streams if s.grid and s.kind == "pixels"}
    if len(sizes) > 1:
        raise RunError(
            f"pixels cover {', '.join(f'{v:g}' for v in sorted(sizes))} m at the registry's "
            "resolutions; write --window with the side of the windows that the model was trained on"
        )
    return sizes.pop() if sizes else WINDOW_M


def _registry_name(theirs: str) -> str | None:
    stem = re.sub(r"^(untok|tok)_", "", theirs.split("@")[0]).lower()
    stem = _NAMES.get(stem, re.sub(r"^sen([12])", r"s\1", stem))
    return {name.lower(): name for name in modality_registry()}.get(stem)


def _stream(
    state: Mapping[str, Tensor], theirs: str, name: str, sides: set[str], window_m: float | None
) -> Stream:
    row = modality(name)
    side = "encoder" if "encoder" in sides else "decoder"
    stem = f"{side}_embeddings.{theirs}"
    places = state.get(f"{stem}.pos_emb")
    codes, patches = state.get(f"{stem}.token_emb.weight"), state.get(f"{stem}.proj.weight")
    if places is None or (codes is None) == (patches is None):
        raise RunError(
            f"{stem} is neither pixels (pos_emb, proj) nor tokens (pos_emb, token_emb): leave it out "
            f"with --without {theirs}"
        )
    num = places.shape[1]
    if codes is not None and not row.is_map:
        return Stream(
            f"{name}@tok", name, "sequence", min(num, MAX_TOKENS.get(name, num)),
            is_input="encoder" in sides, is_target="decoder" in sides, vocab_size=len(codes),
        )  # fmt: skip
    count = math.isqrt(num)
    if count**2 != num or not row.is_map:
        raise RunError(f"{stem}: {num} positions are no square grid, as of the map {name}")
    grid = (count, count)
    if codes is not None:
        window = WINDOW_M if window_m is None else window_m
        return Stream(
            f"{name}@tok", name, "map", num, "encoder" in sides, "decoder" in sides,
            window / count, grid, vocab_size=len(codes),
        )  # fmt: skip
    assert patches is not None
    assert row.gsd_m is not None
    patch = math.isqrt(patches.shape[1] // row.num_bands)
    if patch**2 * row.num_bands != patches.shape[1]:
        raise RunError(
            f"{stem}.proj takes {patches.shape[1]} values, no square patches of the {row.num_bands} "
            f"bands of {name}: {', '.join(row.bands)}"
        )
    patch_m = patch * row.gsd_m if window_m is None else window_m / count
    return Stream(
        f"{name}@px", name, "pixels", num, True, False, patch_m, grid, patch, row.num_bands
    )
