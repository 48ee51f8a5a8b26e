"""Shards -> masked samples -> batches.

A batch holds, for B samples, N input and K target tokens (padded), and per stream what only it has:

    in_where [B, N]    row of the position table           in_stream [B, N]  stream, -1 for padding
    in_code  [B, N]    row of the embedding table; 0 where the token is a pixel patch
    out_where, out_stream [B, K]                           likewise for the targets
    out_code [B, K]    row of the embedding table fed to the decoder; -1 for the mask token
    patch/<stream> [P, p*p*C], slot/<stream> [P]           pixel patches and their flat input slots
    goal/<stream> [T], goal_slot/<stream> [T], goal_weight/<stream> [T]    codes to predict, their flat
                       target slots and weights
    in_date, out_date [B, N or K, F]   the tokens' days (pipeline.layers.dates), where the layout has days
    in_real  [B, N]    which inputs are no padding; left out where none is, so that attention has no mask

Positions of a sequence count its tokens as they stand there, sentinels included; places of other streams are
where they lie. A sequence's decoder is given `[BOS]` or the first sentinel, then the tokens before.

Every stream has its entries in every batch, empty ones included: a model must use the same
parameters in the same order whatever is present (contract 1).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from pipeline.data.loader import Batch
from pipeline.data.selection import presence
from pipeline.data.tokens import BOS, extra_name
from pipeline.data.transforms import Normaliser
from pipeline.layers.dates import NUM_FEATURES, date_features
from pipeline.stage2.layout import Layout
from pipeline.stage2.masking import Mixture, Selection
from pipeline.stage2.streams import Stream
from pipeline.stage2.weighing import by_modality
from shards import SampleSet


@dataclass(frozen=True)
class Content:
    """Everything a sample has, stream by stream; absent streams have no entry.

    Pixels: patches [N, p*p*C] float32. Tokens: codes [N] int64. `days` are the ISO days of streams that
    the model is told the day of, present or not; what is not known has no entry.
    """

    streams: dict[int, np.ndarray]
    days: dict[int, str] = field(default_factory=dict)

    def with_streams(self, streams: dict[int, np.ndarray]) -> "Content":
        """Other streams on the same days."""
        return replace(self, streams=streams)

    def available(self, num_streams: int) -> np.ndarray:
        counts = np.zeros(num_streams, dtype=np.int64)
        for i, values in self.streams.items():
            counts[i] = len(values)
        return counts


@dataclass(frozen=True)
class Masked:
    """A sample after masking."""

    content: Content
    selection: Selection


class SampleReader:
    """Reads the content of samples for one layout."""

    def __init__(self, dataset: SampleSet, layout: Layout, normalisers: dict[str, Normaliser]):
        self.dataset, self.layout, self.normalisers = dataset, layout, normalisers
        self.part_names = [_part_name(s) for s in layout.streams]
        # A sample whose parts are all absent has nothing to learn from.
        self.usable = np.zeros(dataset.num_samples, dtype=bool)
        for name in {self.part_names[i] for i in layout.targets}:
            self.usable |= presence(dataset, name)
        # What a data set lacks altogether is absent from each of its samples.
        known = {*dataset.modalities, *dataset.extras}
        self._there = [name in known for name in self.part_names]

    def content(self, index: int, view: int, only: Iterable[int] | None = None) -> Content:
        """All streams (or `only` some) of one fixed view of a sample."""
        asked = range(len(self.layout.streams)) if only is None else only
        wanted = [i for i in asked if self._there[i]]
        parts = self.dataset.read(index, {self.part_names[i] for i in wanted})
        found = {}
        for i in wanted:
            stream, part = self.layout.streams[i], parts.get(self.part_names[i])
            if part is None:
                continue
            assert isinstance(part, np.ndarray)
            if stream.kind == "pixels":
                found[i] = self._patches(stream, part, view)
            else:
                found[i] = part[view if len(part) > 1 else 0].astype(np.int64)
        return Content(found, self._days(index) if self.layout.has_days else {})

    def _days(self, index: int) -> dict[int, str]:
        times = self.dataset.meta(index).times
        told = (i for i, s in enumerate(self.layout.streams) if s.date is not None)
        return {i: times[part] for i in told if (part := self.layout.streams[i].part) in times}

    def _patches(self, stream: Stream, x: np.ndarray, view: int) -> np.ndarray:
        window = self.window(stream.modality, x, view)
        y, _ = self.normalisers[stream.modality].forward(window)
        return to_patches(y, stream)

    def window(self, modality: str, x: np.ndarray, view: int) -> np.ndarray:
        """View number `view` of a map [C, H, W]; the same that was tokenized."""
        row = self.dataset.modalities[modality]
        return self.layout.views.show(x, row, self.layout.window_m, view)


def to_patches(x: np.ndarray, stream: Stream) -> np.ndarray:
    """A normalised window [C, H, W] -> patches of a pixel stream, row-major: [N, p*p*C]."""
    c, h, w = x.shape
    p = stream.patch_px
    y = x.reshape(c, h // p, p, w // p, p).transpose(1, 3, 2, 4, 0)
    return y.reshape(-1, stream.patch_values)


def masked_sample(
    reader: SampleReader, masking: Mixture, index: int, rng: np.random.Generator
) -> Masked:
    """One training sample: a view, and what of it is seen and asked for."""
    content = reader.content(index, int(rng.integers(len(reader.layout.views))))
    available = content.available(len(reader.layout.streams))
    return Masked(content, masking(rng, available))


def collate(
    samples: list[Masked],
    layout: Layout,
    num_inputs: int,
    num_targets: int,
    weigh: Callable[[Selection], dict[int, float]] = by_modality,
) -> Batch:
    """Masked samples -> one batch; see the module's docstring. `weigh` gives each target its weight."""
    b = len(samples)
    in_where, in_code = np.zeros((2, b, num_inputs), dtype=np.int64)
    out_where = np.zeros((b, num_targets), dtype=np.int64)
    in_stream = np.full((b, num_inputs), -1, dtype=np.int64)
    out_stream, out_code = np.full((2, b, num_targets), -1, dtype=np.int64)
    patches: dict[int, list[np.ndarray]] = {i: [] for i in layout.pixels}
    slots: dict[int, list[np.ndarray]] = {i: [] for i in layout.pixels}
    goals: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {
        i: [] for i in layout.targets
    }
    for row, sample in enumerate(samples):
        at = 0
        for i, places in sample.selection.inputs.items():
            stream = layout.streams[i]
            values = _values(stream, sample.content.streams[i], places)
            span = slice(at, at + len(places))
            in_where[row, span] = _where(stream, places)
            in_stream[row, span] = i
            if stream.kind == "pixels":
                patches[i].append(values)
                slots[i].append(row * num_inputs + np.arange(span.start, span.stop))
            else:
                in_code[row, span] = stream.vocab_offset + values
            at = span.stop
        at, weights = 0, weigh(sample.selection)
        for i, places in sample.selection.targets.items():
            stream = layout.streams[i]
            values = _values(stream, sample.content.streams[i], places)
            span = slice(at, at + len(places))
            out_where[row, span] = _where(stream, places)
            out_stream[row, span] = i
            if stream.kind == "sequence":
                out_code[row, at] = stream.vocab_offset + _start(stream, sample.selection, i)
                out_code[row, at + 1 : span.stop] = stream.vocab_offset + values[:-1]
            where = row * num_targets + np.arange(span.start, span.stop)
            goals[i].append((values, where, np.full(len(places), weights[i], dtype=np.float32)))
            at = span.stop
    batch = {
        "in_where": in_where, "in_stream": in_stream, "in_code": in_code,
        "out_where": out_where, "out_stream": out_stream, "out_code": out_code,
    }  # fmt: skip
    if layout.has_days:
        dates = _dates(samples, layout)
        rows = np.arange(b)[:, None]
        batch |= {"in_date": dates[rows, in_stream], "out_date": dates[rows, out_stream]}
    real = in_stream >= 0
    if not real.all():
        batch["in_real"] = real
    for i in layout.pixels:
        stream = layout.streams[i]
        batch[f"patch/{stream.name}"] = _join(patches[i], (0, stream.patch_values), np.float32)
        batch[f"slot/{stream.name}"] = _join(slots[i], (0,), np.int64)
    for i in layout.targets:
        name = layout.streams[i].name
        columns = list(zip(*goals[i], strict=True)) or [(), (), ()]
        batch[f"goal/{name}"] = _join(columns[0], (0,), np.int64)
        batch[f"goal_slot/{name}"] = _join(columns[1], (0,), np.int64)
        batch[f"goal_weight/{name}"] = _join(columns[2], (0,), np.float32)
    return {k: torch.from_numpy(v) for k, v in batch.items()}


def _dates(samples: list[Masked], layout: Layout) -> np.ndarray:
    """What the days of all streams are coded as, [B, M + 1, F]; the last, of padding, is no day."""
    table = np.zeros((len(samples), len(layout.streams) + 1, NUM_FEATURES), dtype=np.float32)
    for row, sample in enumerate(samples):
        for i, day in sample.content.days.items():
            table[row, i] = date_features(day)
    return table


def _values(stream: Stream, content: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Patches or codes at the chosen places."""
    if not stream.num_sentinels:
        return content[places]
    # Sentinels have negative places, which must not reach into the content.
    return np.where(places < 0, stream.first_sentinel - 1 - places, content[places.clip(min=0)])


def _where(stream: Stream, places: np.ndarray) -> np.ndarray:
    """Rows of the position table. In sequences positions count what is left of them."""
    order = np.arange(len(places)) if stream.kind == "sequence" else places
    return stream.position_offset + order


def _start(stream: Stream, selection: Selection, index: int) -> int:
    """What the decoder of a sequence is given before its first target."""
    start = selection.starts.get(index)
    return BOS if start is None else stream.first_sentinel + start


def _join(parts: Iterable[np.ndarray], empty: tuple[int, ...], dtype: type) -> np.ndarray:
    arrays = list(parts)
    return np.concatenate(arrays) if arrays else np.zeros(empty, dtype=dtype)


def _part_name(stream: Stream) -> str:
    return stream.part if stream.kind == "pixels" else extra_name(stream.part)
