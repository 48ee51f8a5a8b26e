"""MultiMAE as the training loop sees it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs import ConfigError
from configs.schema import MultiMAERunConfig
from pipeline.data.loader import Batch
from pipeline.data.pixels import PixelReader
from pipeline.data.selection import readable, select
from pipeline.data.transforms import Normaliser, statistics_for
from pipeline.engine.distributed import env_rank, to_device
from pipeline.engine.evaluation import spread
from pipeline.engine.lifecycle import write_atomic
from pipeline.engine.metrics import say
from pipeline.engine.objective import Critic, Remarks, Sums
from pipeline.layers.scores import accuracy, miou
from pipeline.multimae import artifact
from pipeline.multimae.across import sums_from_others
from pipeline.multimae.groups import Group, build_groups
from pipeline.multimae.model import MultiMAE
from pipeline.multimae.pictures import write_pictures
from pipeline.multimae.samples import Masked, Masking, collate, usable_patches
from pipeline.multimae.vit import start_from
from shards import SampleSet

NUM_PICTURES = 4


class MultiMAEObjective:
    """Train on all samples that have any of the modalities; held-out masks are always the same."""

    def __init__(self, config: MultiMAERunConfig, dataset: SampleSet):
        self.config, self.dataset = config, dataset
        self.table = build_groups(config.multimae, dataset.modalities, dataset.path)
        self.rows = {name: dataset.modalities[name] for name in self.table.modalities}
        self.normalisers = {
            n: Normaliser(row, statistics_for(dataset, n, config.data))
            for n, row in self.rows.items()
            if row.kind == "image"
        }
        window = self.table.modalities, self.normalisers, self.table.window_m
        self.reader = PixelReader(dataset, *window, augment=config.multimae.augment)
        self.held_out = PixelReader(dataset, *window, augment=False)
        self.masking = Masking(config.multimae, self.table)
        self.indices = self._usable(config.data.split)
        if not len(self.indices):
            raise ConfigError(
                f"no sample of {dataset.path} in split {config.data.split!r} has a modality of "
                "multimae.groups and passes data.filter"
            )
        self.eval_indices = self._usable(config.data.eval_split)
        statistics = {n: v.statistics for n, v in self.normalisers.items()}
        self.model: nn.Module = MultiMAE(self.table, config.multimae, statistics)
        if config.multimae.init_vit is not None:
            taken = start_from(self.model, config.multimae.init_vit)
            if env_rank() == 0:
                say(f"{'multimae':<18} from {config.multimae.init_vit}: {taken}")
        self.critic: Critic | None = None
        self.tokens_per_sample = self.table.num_places

    def sample(self, index: int, rng: np.random.Generator, cursor: int) -> Masked:
        return self._masked(self.reader, index, rng)

    def eval_sample(self, index: int, rng: np.random.Generator) -> Masked:
        """The window in the centre, as it is; its mask follows from the sample's index alone."""
        return self._masked(self.held_out, index, rng)

    def collate(self, samples: list[Masked]) -> Batch:
        return collate(samples, self.reader, self.table)

    def summarise(self, sums: Sums) -> dict[str, float]:
        """Loss of samples and of each task; of held-out ones also scores of each group's hidden pixels.

        RMSE and MAE over all bands in the modality's unit, accuracy and mIoU of classes, each beside
        that of a trivial guess: the mean, or the most frequent class.
        """
        values = {"loss": float(sums["loss"] / sums["count"])}
        for task in self.table.tasks:
            samples = float(sums[f"samples/{task.name}"])
            if samples:
                values[f"loss/{task.name}"] = float(sums[f"loss/{task.name}"]) / samples
        for group in self.table.groups:
            values |= self._scores(group, sums)
        return values

    def remarks(self, sums: Sums) -> Remarks:
        return Remarks()

    def identity(self) -> Mapping[str, Any]:
        return {
            "multimae": self.config.multimae.model_dump(mode="json", exclude={"init_vit"}),
            "statistics": {n: v.statistics._asdict() for n, v in self.normalisers.items()},
            "dataset": self.dataset.fingerprint,
            "split": self.config.data.split,
        }

    def finish(self, folder: Path) -> None:
        """Write the artifact, pictures of a few held-out samples with the masks of evaluation, and scores of
        each group from the others alone.
        """
        about = artifact.Described(self.table, self.config.multimae, self.rows, self.normalisers)
        artifact.save(self.model.state_dict(), about, folder / "artifact")
        # A model of its own: under ZeRO-3 each use of the trained one is a matter of all ranks.
        device = next(self.model.parameters()).device
        model, _ = artifact.load(folder / "artifact", device)
        held_out = self.eval_indices if len(self.eval_indices) else self.indices

        def read(index: int) -> tuple[str, Masked]:
            return self.dataset.locate(index)[0], self.eval_sample(
                index, np.random.default_rng(index)
            )

        if found := list(readable(spread(held_out, NUM_PICTURES), read)):
            keys, samples = zip(*found, strict=True)
            batch = to_device(self.collate(list(samples)), device)
            write_pictures(model, about, batch, keys, folder)
        judged = spread(self.eval_indices, self.config.engine.eval_samples)
        windows = list(
            readable(judged, lambda i: (i, self.held_out.sample(i, np.random.default_rng(i))))
        )
        sums = sums_from_others(model, self.masking, windows, self.collate)
        scores = {
            g.name: self._scores(g, sums[g.name]) for g in self.table.groups if g.name in sums
        }
        write_atomic(folder / "scores.json", json.dumps({"from_others": scores}, indent=1))

    def _masked(self, reader: PixelReader, index: int, rng: np.random.Generator) -> Masked:
        pixels = reader.sample(index, rng)
        return Masked(pixels, self.masking(rng, usable_patches(self.table, pixels.valid)))

    def _usable(self, split: str) -> np.ndarray:
        """Samples that have any of the modalities: without, there is nothing to learn from."""
        chosen = select(self.dataset, self.config.data, split)
        has = np.zeros(self.dataset.num_samples, bool)
        for name in self.table.modalities:
            has |= self.dataset.present(name)
        return chosen[has[chosen]]

    def _scores(self, group: Group, sums: Sums) -> dict[str, float]:
        name = group.name
        if (confusion := sums.get(f"confusion/{name}")) is not None:
            if not confusion.sum():
                return {}
            guess = _constant_guess(confusion, self._prior(group))
            values = {}
            for word, counts in (("", confusion), ("guess_", guess)):
                values[f"{word}accuracy/{name}"] = accuracy(counts)
                values[f"{word}miou/{name}"] = miou(counts, group.nodata)
            return values
        pixels = float(sums.get(f"pixels/{name}", 0))
        if not pixels:
            return {}
        values = {}
        for word in ("", "guess_"):
            square, absolute = sums[f"{word}square/{name}"], sums[f"{word}absolute/{name}"]
            values[f"{word}rmse/{name}"] = math.sqrt(float(square.mean()) / pixels)
            values[f"{word}mae/{name}"] = float(absolute.mean()) / pixels
        return values

    def _prior(self, group: Group) -> int:
        """Number of the class that training samples have most of."""
        counts = self.dataset.class_counts[group.modality]
        of_class = [int(counts[value]) for value in group.classes]
        if group.nodata is not None:
            of_class[group.nodata] = -1
        return int(np.argmax(of_class))


def _constant_guess(confusion: Tensor, number: int) -> Tensor:
    """The confusion of one class for every pixel."""
    guess = torch.zeros_like(confusion)
    guess[:, number] = confusion.sum(1)
    return guess
