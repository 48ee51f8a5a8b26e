"""Which tokens of a sample are given: those of a set of modalities, as many as the model has room for."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from configs import ConfigError
from configs.schema import EvaluateConfig
from pipeline.data.selection import readable
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking import Selection, ask
from pipeline.stage2.samples import Content, Masked, SampleReader

ALL = "all"


@dataclass(frozen=True)
class InputSet:
    """Modalities that are given; `name` is `all`, `without/X`, `alone/X` or `pair/X+Y`."""

    name: str
    modalities: frozenset[str]

    def streams(self, layout: Layout, target: str = "") -> list[int]:
        """Input streams of these modalities, the target's left out; other dates of it stay."""
        streams = ((i, layout.streams[i]) for i in layout.inputs)
        return [i for i, s in streams if s.modality in self.modalities and s.part != target]


def input_modalities(layout: Layout) -> list[str]:
    """What the model takes, in registry order as far as pixels and tokens each go."""
    return list(dict.fromkeys(layout.streams[i].modality for i in layout.inputs))


def input_sets(layout: Layout, config: EvaluateConfig) -> list[InputSet]:
    """All inputs, all without one, one alone, pairs. Raises ConfigError for what the model does not take."""
    have = input_modalities(layout)
    asked = {key: getattr(config, key) or () for key in ("without", "alone")}
    for key, names in (asked | {"pairs": [n for pair in config.pairs for n in pair]}).items():
        for name in names:
            if name not in have:
                raise ConfigError(f"{key} names {name}; the model takes {', '.join(have)}")
    everything = frozenset(have)
    sets = [InputSet(ALL, everything)]
    if len(have) > 1:
        without = have if config.without is None else config.without
        alone = have if config.alone is None else config.alone
        sets += [InputSet(f"without/{n}", everything - {n}) for n in without]
        sets += [InputSet(f"alone/{n}", frozenset({n})) for n in alone]
    for pair in config.pairs:
        sets.append(InputSet(f"pair/{'+'.join(pair)}", frozenset(pair)))
    return sets


def readable_contents(
    reader: SampleReader, indices: np.ndarray, view: int
) -> Iterator[tuple[int, Content]]:
    """Samples and what they have, damaged ones left out."""
    return readable(indices.tolist(), lambda i: (i, reader.content(i, view)))


def share_out(capacity: list[int], total: int) -> list[int]:
    """`total` in equal parts, at most `capacity` each; what one cannot take the others get."""
    shares, left = [0] * len(capacity), min(total, sum(capacity))
    # Those that can take the least first: what they leave is known when the others' turn comes.
    for turn, i in enumerate(sorted(range(len(capacity)), key=capacity.__getitem__)):
        shares[i] = min(capacity[i], left // (len(capacity) - turn))
        left -= shares[i]
    return shares


def give(
    content: Content,
    layout: Layout,
    streams: list[int],
    num_tokens: int,
    rng: np.random.Generator,
    target: int | None = None,
) -> Masked:
    """A sample that shows tokens of `streams` and is asked for all tokens of `target`, if there is one.

    Texts are read from their beginning, of everything else places are drawn. A text that is asked for by a
    sentinel has that among the inputs, and the others so much less room.
    """
    if target is not None and layout.streams[target].num_sentinels:
        num_tokens -= 1
    there = [i for i in streams if i in content.streams]
    counts = share_out([len(content.streams[i]) for i in there], num_tokens)
    chosen = {}
    for i, n in zip(there, counts, strict=True):
        size = len(content.streams[i])
        is_text = layout.streams[i].kind == "sequence"
        places = np.arange(size) if is_text else rng.permutation(size)
        if n:
            chosen[i] = places[:n]
    if target is None:
        return Masked(content, Selection(chosen, {}))
    places = np.arange(len(content.streams[target]))
    return Masked(content, ask(layout.streams, chosen, target, places))
