"""One task with one backbone: which samples, their labels, and batches of adapted images.

Shapes: B batch, C bands, H W pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
import xxhash
from torch import Tensor

from configs import ConfigError
from configs.registry import BandStatistics
from configs.schema import InputSet, Modality, TaskConfig
from pipeline.data.selection import readable
from pipeline.engine.errors import RunError
from pipeline.engine.evaluation import spread
from pipeline.engine.metrics import say
from pipeline.transfer.adapt import Adapter, band_statistics, intake_of, mapped
from pipeline.transfer.backbone import Backbone, Intake, fitting_window
from pipeline.transfer.samples import SPLITS, open_samples, source_digest
from pipeline.transfer.target import Target
from shards import ShardError

_STATISTICS_SAMPLES = 256


@dataclass(frozen=True)
class Batch:
    """Images of a few samples. `places` are their numbers in the split.

    `known` says which bands of an image were given; others are the mean.
    """

    images: dict[str, Tensor]
    present: dict[str, Tensor]
    places: np.ndarray
    known: dict[str, tuple[bool, ...]] = field(default_factory=dict)

    def to(self, device: torch.device) -> "Batch":
        images = {n: x.to(device) for n, x in self.images.items()}
        present = {n: x.to(device) for n, x in self.present.items()}
        return replace(self, images=images, present=present)


class LabelledSamples:
    """The samples of a task that have a label; before any backbone is known.

    `indices` and `labels` are by split; `source_digest` names the data they came from, images included.
    Raises ConfigError where a split has none.
    """

    def __init__(self, name: str, config: TaskConfig):
        self.name, self.config = name, config
        # Before anything is read: what changes meanwhile is another source.
        self.source_digest = source_digest(config)
        self.samples = open_samples(config)
        if config.label not in self.samples.rows:
            known = ", ".join(self.samples.rows)
            raise ConfigError(f"tasks.{name}.label={config.label}; the data has {known}")
        self.target = Target(self.samples.rows[config.label], config)
        self.inputs = self._inputs()
        self.indices: dict[str, np.ndarray] = {}
        self.labels: dict[str, list[np.ndarray]] = {}
        for split in SPLITS:
            self._label(split, getattr(config, f"max_{split}"))

    def statistics(self, name: str) -> BandStatistics:
        """Mean and deviation per band of one input: as published, or over training samples."""
        if published := self.samples.statistics(name):
            return published
        chosen = spread(self.indices["train"], _STATISTICS_SAMPLES)
        read = readable(chosen, lambda i: self.samples.read(i, [name]))
        return band_statistics(self.inputs[name], [p[name] for p in read if name in p])

    @cached_property
    def fingerprint(self) -> str:
        """Names the images, samples and labels of this task: another data set, another result."""
        found = xxhash.xxh3_64(self.source_digest.encode())
        for split in SPLITS:
            for i, label in zip(self.indices[split], self.labels[split], strict=True):
                found.update(self.samples.keys[int(i)].encode())
                found.update(label.tobytes())
        return found.hexdigest()

    def offered(self) -> dict[str, Intake]:
        """The inputs as a backbone could take them that has none of its own."""
        return {n: intake_of(row, self.statistics(n)) for n, row in self.inputs.items()}

    def _inputs(self) -> dict[str, Modality]:
        rows = {
            n: r for n, r in self.samples.rows.items() if r.kind == "image" and n != self.config.label
        }  # fmt: skip
        if stray := set(self.config.inputs) - set(rows):
            raise ConfigError(
                f"tasks.{self.name}.inputs names {', '.join(sorted(stray))}; images that are not the "
                f"label are {', '.join(rows) or 'none'}"
            )
        return {n: r for n, r in rows.items() if n in (self.config.inputs or rows)}

    def _label(self, split: str, most: int) -> None:
        indices, labels, sizes = [], [], set()
        chosen = self.samples.splits[split]
        for i in spread(chosen, most) if most else chosen:
            try:
                part = self.samples.read(int(i), [self.config.label]).get(self.config.label)
            except ShardError as error:
                say(f"transfer {self.name}: left out: {error}")
                continue
            label = self.target.of(part)
            if label is not None:
                indices.append(int(i))
                labels.append(label)
                sizes.add(label.shape)
        if not indices:
            raise ConfigError(
                f"tasks.{self.name}: no sample of the {split} split has a label ({len(chosen)} samples)"
            )
        if len(sizes) > 1:
            told = ", ".join(sorted("x".join(map(str, s[-2:])) for s in sizes))
            raise ConfigError(
                f"tasks.{self.name}: labels of different sizes ({told}); cut them to one size first"
            )
        self.indices[split], self.labels[split] = np.array(indices), labels


class Task:
    """Labelled samples as one backbone sees them."""

    def __init__(self, source: LabelledSamples, backbone: Backbone, cache_gb: float):
        self.source, self.name, self.config = source, source.name, source.config
        self.target, self.labels = source.target, source.labels
        names = mapped(source.inputs, self.config.modality_map)
        fitting = {own: theirs for own, theirs in names.items() if theirs in backbone.intakes}
        if not fitting:
            raise ConfigError(
                f"tasks.{self.name}: the backbone takes {', '.join(backbone.intakes)}; the data has "
                f"{', '.join(source.inputs)}: write modality_map={{THEIRS: OURS}}"
            )
        if lost := set(self.config.inputs) - set(fitting):
            say(f"transfer {self.name}: the backbone does not take {', '.join(sorted(lost))}")
        if stray := set(self.config.band_map) - set(fitting):
            raise ConfigError(
                f"tasks.{self.name}.band_map names {', '.join(sorted(stray))}; the backbone is given "
                f"{', '.join(fitting)}, as the data calls them"
            )
        self.adapters: dict[str, Adapter] = {}
        self._own: dict[str, str] = {}
        for own, theirs in fitting.items():
            known = self.config.statistics == "task"
            statistics = source.statistics(own) if known else None
            told = self.config.band_map.get(own)
            adapter = Adapter(
                source.inputs[own], backbone.intakes[theirs], statistics, theirs, told
            )
            self.adapters[theirs], self._own[theirs] = adapter, own
            if note := adapter.note():
                say(f"transfer {self.name}: {own} as {theirs}: {note}")
        self.ground_m = self._ground()
        self.window_m = self._window(backbone)
        self._left = cache_gb * 1e9
        self._cache: dict[int, dict[str, Tensor]] = {}
        self._there: dict[int, frozenset[str]] = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the backbone is given, under its own names."""
        return tuple(self.adapters)

    @property
    def bands(self) -> dict[str, dict[str, bool]]:
        """Of what the backbone is given its bands, and whether the data has them."""
        return {
            name: dict(zip(a.intake.bands, a.known, strict=True))
            for name, a in self.adapters.items()
        }

    def own_name(self, name: str) -> str:
        """What the data calls a modality of the backbone."""
        return self._own[name]

    def key(self, split: str, place: int) -> str:
        return self.source.samples.keys[int(self.source.indices[split][place])]

    def raw(self, split: str, place: int, own: str) -> np.ndarray | None:
        """A part of a sample as the data has it; None where it has none."""
        return self.source.samples.read(int(self.source.indices[split][place]), [own]).get(own)

    def strata(self) -> np.ndarray:
        return self.target.strata(self.labels["train"])

    def batch(self, split: str, places: Sequence[int] | np.ndarray, given: InputSet) -> Batch:
        """Samples of a split with what is given of them. Raises RunError for a damaged one."""
        found = [self._images(int(self.source.indices[split][p])) for p in places]
        images, present, known = {}, {}, {}
        for name in given_modalities(given, self.modalities):
            adapter = self.adapters[name]
            size = (len(adapter.intake.bands), *adapter.size(self.window_m))
            nothing = torch.full(size, torch.nan)
            images[name] = torch.stack([x.get(name, nothing) for x in found])
            present[name] = torch.tensor([name in x for x in found])
            known[name] = adapter.hide(images[name], given.without_bands.get(name, ()))
        return Batch(images, present, np.asarray(places), known)

    def batches(
        self, split: str, places: np.ndarray, given: InputSet, size: int
    ) -> Iterator[Batch]:
        """All of these samples in order."""
        for start in range(0, len(places), size):
            yield self.batch(split, places[start : start + size], given)

    def label_batch(self, split: str, places: np.ndarray) -> Tensor:
        """Labels of samples one after the other: [B, ...]; classes as int64."""
        labels = torch.from_numpy(np.stack([self.labels[split][p] for p in places]))
        return labels if labels.is_floating_point() else labels.long()

    def with_input(self, split: str, given: InputSet) -> np.ndarray:
        """Places of the samples that have any of what is given: ascending."""
        names = set(given_modalities(given, self.modalities))
        there = [not names.isdisjoint(self._has(int(i))) for i in self.source.indices[split]]
        return np.flatnonzero(there)

    def _has(self, index: int) -> frozenset[str]:
        """Modalities of a sample. To know it is to read it, so each is read for it once."""
        if index not in self._there:
            self._images(index)
        return self._there[index]

    def _window(self, backbone: Backbone) -> tuple[float, float]:
        """The ground that all samples are shown as: the task's, the backbone's, or their own."""
        fixed = backbone.window_m
        asked = self.config.window_m
        if fixed is not None:
            if asked not in (None, fixed):
                raise ConfigError(
                    f"tasks.{self.name}.window_m={asked:g}: this backbone sees {fixed:g} m only"
                )
            return fixed, fixed
        side = self.ground_m if asked is None else (asked, asked)
        return fitting_window(side, {name: a.intake for name, a in self.adapters.items()})

    def _ground(self) -> tuple[float, float]:
        """The ground that the data's own images cover: the first sample's."""
        for i in self.source.indices["train"]:
            for name, part in self._parts(int(i)).items():
                gsd = self.adapters[name].row.gsd_m
                assert gsd is not None
                return part.shape[1] * gsd, part.shape[2] * gsd
        raise ConfigError(f"tasks.{self.name}: no training sample has any of {self.modalities}")

    def _parts(self, index: int) -> dict[str, np.ndarray]:
        try:
            found = self.source.samples.read(index, self._own.values())
        except ShardError as error:
            raise RunError(
                f"tasks.{self.name}: sample {self.source.samples.keys[index]}: {error}; repair the data, "
                "or take the sample out"
            ) from error
        return {name: found[own] for name, own in self._own.items() if own in found}

    def _images(self, index: int) -> dict[str, Tensor]:
        if index in self._cache:
            return self._cache[index]
        parts = self._parts(index)
        self._there[index] = frozenset(parts)
        images = {n: self.adapters[n](part, self.window_m) for n, part in parts.items()}
        size = sum(x.numel() * 4 for x in images.values())
        if size <= self._left:
            self._left -= size
            self._cache[index] = images
        return images


def given_modalities(given: InputSet, have: Sequence[str]) -> tuple[str, ...]:
    """What an input set leaves of the modalities that there are."""
    kept = have if given.modalities is None else given.modalities
    return tuple(n for n in have if n in kept and n not in given.without)
