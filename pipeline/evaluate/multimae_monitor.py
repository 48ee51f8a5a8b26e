"""Probes of a MultiMAE that is still training: what `pipeline.engine.monitor` calls.

RUN/metrics.jsonl    {"step", "monitor": {"linear/LULC", "knn/LULC", "most_frequent/LULC", "seconds"}}
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from configs import ConfigError
from configs.registry import modality
from configs.schema import Modality, MultiMAERunConfig
from pipeline.data.selection import select
from pipeline.engine.distributed import to_device
from pipeline.evaluate.labels import label_of, label_row
from pipeline.evaluate.probing import Known, Labelled, read_labelled
from pipeline.evaluate.subject import mean_where
from pipeline.evaluate.watcher import Watcher, probed
from pipeline.multimae.model import MultiMAE
from pipeline.multimae.objective import MultiMAEObjective
from pipeline.multimae.samples import Masked, usable_patches


class MultiMAEMonitor(Watcher[MultiMAE]):
    """A `Monitor` of one run. Raises ConfigError for what could never be seen."""

    def __init__(self, config: MultiMAERunConfig, objective: MultiMAEObjective):
        super().__init__(config.monitor, cast(MultiMAE, objective.model))
        self._config, self._objective = config, objective
        self._rows = [label_row(objective.dataset, n) for n in config.monitor.probes.labels]
        for row in self._rows:
            if not self._groups(row):
                told = ", ".join(g.name for g in objective.table.groups)
                raise ConfigError(f"probes of {row.name}: nothing is left of the groups, {told}")

    def see(self, step: int, model: MultiMAE, progress: Callable[[], None]) -> dict[str, float]:
        """Accuracies of probes."""
        values: dict[str, float] = {}
        for row in self._rows:
            progress()
            values |= probed(self._labelled(row), partial(self._features, model))
        return values

    def _groups(self, row: Modality) -> list[int]:
        """Numbers of the groups that are shown: neither the label nor what says it in words."""
        without = self._config.monitor.probes.without
        hidden = {row.name, *(modality(name).name for name in without)}
        groups = self._objective.table.groups
        return [number for number, g in enumerate(groups) if g.modality not in hidden]

    def _labelled(self, row: Modality) -> Labelled[Masked]:
        config, held_out = self._config, self._objective.held_out
        shown, table, dataset = self._groups(row), self._objective.table, self._objective.dataset

        def read(i: int) -> Known[Masked] | None:
            pixels = held_out.sample(i, np.random.default_rng(i))
            usable = usable_patches(table, pixels.valid)
            places = [table.groups[n].offset + usable[n] for n in shown]
            visible = np.concatenate(places).astype(np.int64)
            label = label_of(dataset, row, i, lambda part: held_out.centre(row, part))
            if label is None or not len(visible):
                return None
            return Known(i, Masked(pixels, visible), label)

        train, test = (
            select(dataset, config.data, split, [row.name])
            for split in (config.data.split, config.data.eval_split)
        )
        return read_labelled(row, config.monitor.probes, train, test, read)

    @torch.no_grad()
    def _features(self, model: MultiMAE, samples: list[Known[Masked]]) -> Tensor:
        """The mean of the encoded visible patches of each sample, [N, D]."""
        device, parts = next(model.parameters()).device, []
        for start in range(0, len(samples), self._config.monitor.batch):
            chosen = samples[start : start + self._config.monitor.batch]
            batch = to_device(self._objective.collate([s.shown for s in chosen]), device)
            tokens = model.encode(batch, model.cut(batch))[:, model.config.num_global_tokens :]
            real = batch.get("real", torch.ones_like(batch["where"], dtype=torch.bool))
            parts.append(mean_where(tokens, real).cpu())
        return torch.cat(parts)
