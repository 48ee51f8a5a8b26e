"""Layouts, samples and what must hold of any selection among their tokens."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from configs.schema import MaskedConfig
from pipeline.data.views import Views
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking import Mixture, Selection, build_masking
from pipeline.stage2.streams import Stream, on_dates

ROLES = {"both": (True, True), "input": (True, False), "target": (False, True)}


def stream(
    name: str, kind: str, size: int, role: str = "both", *, span: bool = False, offset: int = 0
) -> Stream:
    """`size`: rows of a grid, or tokens of a set or sequence."""
    is_map = kind in ("pixels", "map")
    is_input, is_target = (True, False) if kind == "pixels" else ROLES[role]
    sentinels = size // 2 + 1 if span and kind == "sequence" and role == "both" else 0
    return Stream(
        f"{name}@{'px' if kind == 'pixels' else 'tok'}", name, kind,  # type: ignore[arg-type]
        size**2 if is_map else size, is_input, is_target, grid=(size, size) if is_map else None,
        vocab_size=0 if kind == "pixels" else 10 + sentinels, num_sentinels=sentinels,
        position_offset=offset,
    )  # fmt: skip


def layout_of(*streams: Stream) -> Layout:
    return Layout(streams, window_m=640, views=Views())


SIDES = st.integers(1, 6)
KINDS = st.one_of(
    st.tuples(st.just("pixels"), SIDES),
    st.tuples(st.just("map"), SIDES),
    st.tuples(st.just("set"), st.integers(1, 4)),
    st.tuples(st.just("sequence"), st.integers(1, 12)),
)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any mix of streams, maps on up to three dates among them, with a map that has places."""
    span = draw(st.booleans())
    made = [stream("m", "map", draw(st.integers(2, 6)), draw(st.sampled_from([*ROLES])))]
    for number, (kind, size) in enumerate(draw(st.lists(KINDS, max_size=6))):
        made.append(stream(f"s{number}", kind, size, draw(st.sampled_from([*ROLES])), span=span))
    made = [d for s in made for d in on_dates(s, draw(st.integers(0, 3)) if s.grid else 0)]
    return layout_of(*draw(st.permutations(made)))


@st.composite
def samples(draw: st.DrawFn) -> tuple[Layout, np.ndarray]:
    """A layout and how many tokens of each stream a sample has: often of one stream alone."""
    layout = draw(layouts())
    alone = draw(st.none() | st.integers(0, len(layout.streams) - 1))
    counts = []
    for i, s in enumerate(layout.streams):
        if alone is not None and i != alone:
            counts.append(0)
        elif s.kind == "sequence":
            counts.append(draw(st.integers(0, s.num_positions)))
        else:
            counts.append(draw(st.sampled_from([0, s.num_positions])))
    return layout, np.array(counts)


def make(layout: Layout, *entries: dict[str, Any], num_in: int = 8, num_out: int = 8) -> Mixture:
    streams = layout.streams
    pixels = [streams[i].modality for i in layout.pixels]
    tokens = [s.modality for s in streams if s.is_input and s.kind != "pixels"]
    targets = [streams[i].modality for i in layout.targets]
    config = MaskedConfig.model_validate(
        {"pixels": pixels, "tokens": tokens or ["none"], "targets": targets or ["none"],
         "masking": entries or [{"kind": "dirichlet"}], "num_registers": 1,
         "num_input_tokens": num_in, "num_target_tokens": num_out}
    )  # fmt: skip
    return build_masking(config, layout)


def count(chosen: dict[int, np.ndarray]) -> int:
    return sum(map(len, chosen.values()))


def tokens(places: np.ndarray | None) -> list[int]:
    """The places that are tokens, not sentinels."""
    return [] if places is None else [int(p) for p in places if p >= 0]


def check_sound(
    chosen: Selection,
    layout: Layout,
    available: np.ndarray,
    num_in: int,
    num_out: int,
    *,
    sees: bool = True,
) -> None:
    """What holds of every strategy; `sees`: of those that show anything."""
    assert count(chosen.inputs) <= num_in
    assert count(chosen.targets) <= num_out
    for i, s in enumerate(layout.streams):
        seen, asked = tokens(chosen.inputs.get(i)), tokens(chosen.targets.get(i))
        assert not set(seen) & set(asked)
        assert len({*seen}) == len(seen)
        assert len({*asked}) == len(asked)
        assert all(p < available[i] for p in (*seen, *asked))
        if not available[i] or not s.is_input:
            assert i not in chosen.inputs
        if not available[i] or not s.is_target:
            assert i not in chosen.targets
        if s.kind == "sequence":
            assert seen == sorted(seen)
            assert asked == sorted(asked)
        if not s.num_sentinels:
            assert all((places >= 0).all() for places in _of(chosen, i))
            if s.kind == "sequence":
                assert not (seen and asked)
                assert [*seen, *asked] == list(range(len(seen) + len(asked)))
        else:
            assert all((places >= -s.num_sentinels).all() for places in _of(chosen, i))
    if any(available[i] for i in layout.targets):
        assert chosen.targets
    if sees and any(available[i] for i in layout.pixels):
        assert chosen.inputs
    if not sees:
        assert not any(tokens(places) for places in chosen.inputs.values())


def _of(chosen: Selection, i: int) -> list[np.ndarray]:
    return [side[i] for side in (chosen.inputs, chosen.targets) if i in side]


def can_still_be_asked(chosen: Selection, layout: Layout, available: np.ndarray, i: int) -> int:
    """Tokens of stream i that are neither seen nor asked for, and might be asked for."""
    s, n = layout.streams[i], int(available[i])
    seen = chosen.inputs.get(i, np.array([], dtype=int))
    asked = len(chosen.targets.get(i, ()))
    if not s.is_target:
        return 0
    if s.kind == "sequence" and not s.num_sentinels:
        return 0 if len(seen) else n - asked
    if s.kind == "sequence":
        lost = [p for p in range(n) if p not in set(seen)]
        if not lost:
            return 0
        spans = sum(p - 1 not in lost for p in lost)
        return len(lost) + spans - 1 + (n - 1 not in lost) - asked
    return n - len(seen) - asked
