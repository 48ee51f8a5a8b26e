"""Where a head's feature maps come from: computed once from a frozen backbone, or anew in every step.

Shapes: B batch, N samples of a split, D width, h w grid.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from configs import ConfigError
from configs.schema import InputSet
from pipeline.transfer.backbone import Backbone
from pipeline.transfer.task import Batch, Task

Maps = list[Tensor]


class Shown(NamedTuple):
    """Feature maps [B, D, h, w] and labels of a batch."""

    maps: Maps
    labels: Tensor


class FrozenFeed:
    """Features of whole splits, kept in memory in the order of `places`, at most `limit_gb` of them.

    Where room is needed, features of test samples go first, then those of other training inputs than the
    present ones: what teaches heads is asked for again and again.
    """

    def __init__(
        self,
        task: Task,
        backbone: Backbone,
        layers: Sequence[int],
        device: torch.device,
        *,
        pooled: bool,
        batch: int,
        limit_gb: float,
    ):
        self._task, self.backbone, self._layers = task, backbone, layers
        self._device, self._pooled, self._batch = device, pooled, batch
        self._limit = limit_gb * 1e9
        self._kept: dict[tuple[str, str], tuple[dict[int, int], Maps]] = {}
        self._teaching = ""

    @property
    def num_bytes(self) -> int:
        """What is kept now."""
        return sum(m.numel() * m.element_size() for _, maps in self._kept.values() for m in maps)

    def keep(self, split: str, given: InputSet, places: np.ndarray) -> None:
        """Compute what is not there yet. Raises ConfigError where it would not fit into memory."""
        key = split, given.model_dump_json()
        if split == "train":
            self._teaching = key[1]
        if key in self._kept and all(int(p) in self._kept[key][0] for p in places):
            return
        self._kept.pop(key, None)
        parts: list[Maps] = []
        for batch in self._task.batches(split, places, given, self._batch):
            maps = features(self.backbone, batch, self._layers, self._device)
            if self._pooled:
                maps = [m.mean((2, 3), keepdim=True) for m in maps]
            parts.append([m.cpu() for m in maps])
            if len(parts) == 1:
                per_sample = sum(m.numel() * m.element_size() for m in maps) / len(batch.places)
                self._make_room(split, len(places), round(per_sample * len(places)))
        joined = [torch.cat(layer) for layer in zip(*parts, strict=True)]
        self._kept[key] = {int(p): i for i, p in enumerate(places)}, joined

    def _make_room(self, split: str, count: int, size: int) -> None:
        tests = [k for k in self._kept if k[0] == "test"]
        others = [k for k in self._kept if k[0] != "test" and k[1] != self._teaching]
        for key in (*tests, *others):
            if self.num_bytes + size <= self._limit:
                break
            del self._kept[key]
        if self.num_bytes + size > self._limit:
            raise ConfigError(
                f"features of {count} {split} samples need {size / 1e9:.1f} GB beside "
                f"{self.num_bytes / 1e9:.1f} GB of others, more than half of cache_gb="
                f"{2 * self._limit / 1e9:g}: raise it, write tasks.{self._task.name}.max_{split}=N, or "
                "fine-tune"
            )

    def vectors(self, split: str, given: InputSet, places: np.ndarray) -> Tensor:
        """Features of the last layer, averaged over places: [N, D]."""
        return self.show(split, places, given).maps[-1].mean((2, 3))

    def show(
        self,
        split: str,
        places: np.ndarray,
        given: InputSet,
        rng: np.random.Generator | None = None,
    ) -> Shown:
        rows, maps = self._kept[split, given.model_dump_json()]
        at = torch.tensor([rows[int(p)] for p in places])
        labels = self._task.label_batch(split, places).to(self._device)
        return Shown([m[at].to(self._device) for m in maps], labels)


class LiveFeed:
    """Features as the backbone computes them now; with `rng`, of samples as training shows them."""

    def __init__(
        self,
        task: Task,
        backbone: Backbone,
        layers: Sequence[int],
        device: torch.device,
        *,
        modality_dropout: float,
        augment: bool,
    ):
        self._task, self._backbone, self._layers, self._device = task, backbone, layers, device
        self._dropout, self._augment = modality_dropout, augment

    def show(
        self,
        split: str,
        places: np.ndarray,
        given: InputSet,
        rng: np.random.Generator | None = None,
    ) -> Shown:
        batch = self._task.batch(split, places, given)
        labels = self._task.label_batch(split, places)
        if rng is not None:
            if self._dropout:
                batch = hidden(batch, self._dropout, rng)
            if self._augment:
                square = all(x.shape[-1] == x.shape[-2] for x in batch.images.values())
                number = int(rng.integers(8 if square else 4))
                images = {n: turned(x, number) for n, x in batch.images.items()}
                batch = replace(batch, images=images)
                labels = turned(labels, number) if self._task.target.is_map else labels
        batch = batch.to(self._device)
        maps = self._backbone(batch.images, batch.present, self._layers, batch.known)
        return Shown([m.float() for m in maps], labels.to(self._device))


Feed = FrozenFeed | LiveFeed


@torch.no_grad()
def features(backbone: Backbone, batch: Batch, layers: Sequence[int], device: torch.device) -> Maps:
    """Feature maps of a frozen backbone."""
    batch = batch.to(device)
    return [m.float() for m in backbone(batch.images, batch.present, layers, batch.known)]


def turned(x: Tensor, number: int) -> Tensor:
    """One of the 8 symmetries of the square, of the last two axes, as `pipeline.data.views` counts them."""
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if number & bit]
    x = x.flip(axes) if axes else x
    return x.transpose(-1, -2) if number & 4 else x


def hidden(batch: Batch, share: float, rng: np.random.Generator) -> Batch:
    """The batch with modalities of samples missing, never all that a sample has."""
    names = list(batch.present)
    there = torch.stack([batch.present[n] for n in names], 1)
    kept = there & torch.from_numpy(rng.random(there.shape) >= share)
    # Of a sample that would lose everything, one that it has is spared.
    spared = torch.from_numpy(rng.random(there.shape)).masked_fill(~there, -1).argmax(1)
    empty = ~kept.any(1)
    kept[empty, spared[empty]] = there[empty, spared[empty]]
    return replace(batch, present=dict(zip(names, kept.unbind(1), strict=True)))
