"""Windows -> what is seen of them -> batches.

A batch has, for B samples of which each sees at most n patches, what `PixelReader.collate` makes, and

    where [B, n]       rows of the table of places, ascending, group by group
    real [B, n]        which of them may be attended to, as they are no padding; left out where all may
    hidden/G [B', N]   of each group G, which of its N patches are there and not seen
    rows/G [B']        the samples that have it
    seen/G [P]         the places among B x n of its P seen patches
    slot/G [P], query/G [P]    the same among B' x n, and their places among B' x N

Every group has its entries in every batch, empty ones included: a model must use the same parameters in
the same order whatever is present (contract 1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from configs.schema import MultiMAEConfig
from pipeline.data.budget import dirichlet_weights, fit_budget
from pipeline.data.loader import Batch
from pipeline.data.pixels import PRESENT, PixelReader, Pixels
from pipeline.multimae.groups import Group, GroupTable


@dataclass(frozen=True)
class Masked:
    """A window, and the rows of the table that are seen, int64 [n], ascending."""

    pixels: Pixels
    visible: np.ndarray


class Masking:
    """Draws what is seen of a sample: an exact number of patches, shared out by a Dirichlet draw.

    Of a sample that has fewer than twice as many, half are seen. Patches without any valid pixel are
    never seen and count for nothing, like groups that are absent.
    """

    def __init__(self, config: MultiMAEConfig, table: GroupTable):
        self._table, self._num, self._alpha = table, config.num_visible, config.alpha
        names = [g.name for g in table.groups]
        self._own = {names.index(name): alpha for name, alpha in config.alpha_by.items()}

    def __call__(self, rng: np.random.Generator, usable: Sequence[np.ndarray]) -> np.ndarray:
        """`usable`: of each group, its patches that could be seen, int64; empty where it is absent."""
        capacity = [len(places) for places in usable]
        total = min(self._num, max(1, sum(capacity) // 2))
        weights = dirichlet_weights(rng, capacity, self._alpha, self._own)
        budget = fit_budget(weights, capacity, total)
        chosen = [
            group.offset + np.sort(rng.permutation(places)[:count])
            for group, places, count in zip(self._table.groups, usable, budget, strict=True)
        ]
        return np.concatenate(chosen).astype(np.int64)


def usable_patches(table: GroupTable, valid: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Of each group, its patches with any valid pixel; `valid` [H, W] of the modalities there are."""
    found: list[np.ndarray] = []
    # Groups of one modality mostly have the same patches.
    known: dict[tuple[str, int, int], np.ndarray] = {}
    for group in table.groups:
        if group.modality not in valid:
            found.append(np.zeros(0, np.int64))
            continue
        key = group.modality, group.patch_px, group.stride
        if key not in known:
            in_patches = _in_patches(group, valid[group.modality])
            known[key] = np.flatnonzero(in_patches.any(-1))
        found.append(known[key])
    return found


def _in_patches(group: Group, valid: np.ndarray) -> np.ndarray:
    """[H, W] -> [N, p * p] of the pixels that the group keeps."""
    (rows, columns), p, first = group.grid, group.patch_px, group.stride // 2
    kept = valid[first :: group.stride, first :: group.stride]
    return kept.reshape(rows, p, columns, p).swapaxes(1, 2).reshape(rows * columns, p * p)


def collate(samples: Sequence[Masked], reader: PixelReader, table: GroupTable) -> Batch:
    """Samples -> one batch; see the module's docstring."""
    batch = reader.collate([s.pixels for s in samples])
    lengths = np.array([len(s.visible) for s in samples])
    n = max(1, int(lengths.max()))
    real = np.arange(n) < lengths[:, None]
    where = np.zeros((len(samples), n), np.int64)
    where[real] = np.concatenate([s.visible for s in samples])
    batch["where"] = torch.from_numpy(where)
    # One that sees nothing attends to its padding: attention to nothing at all is no number.
    attended = real | (np.arange(n) == 0) & (lengths == 0)[:, None]
    if not attended.all():
        batch["real"] = torch.from_numpy(attended)
    present = batch[PRESENT].numpy()
    for group in table.groups:
        rows = np.flatnonzero(present[:, reader.names.index(group.modality)])
        mine = real & (where >= group.places.start) & (where < group.places.stop)
        b, slot = np.nonzero(mine)
        row, place = np.searchsorted(rows, b), where[mine] - group.offset
        hidden = np.ones((len(rows), group.num_places), bool)
        hidden[row, place] = False
        found = {
            "hidden": hidden,
            "rows": rows,
            "seen": b * n + slot,
            "slot": row * n + slot,
            "query": row * group.num_places + place,
        }
        batch |= {f"{key}/{group.name}": torch.from_numpy(v) for key, v in found.items()}
    return batch
