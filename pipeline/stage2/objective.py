"""Stage 2 as the training loop sees it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from configs import ConfigError
from configs.schema import MaskedRunConfig
from pipeline.data.loader import Batch
from pipeline.data.selection import select
from pipeline.data.transforms import Normaliser, statistics_for
from pipeline.engine.distributed import env_rank
from pipeline.engine.metrics import say
from pipeline.engine.objective import Critic, Remarks, Sums
from pipeline.stage2.artifact import save
from pipeline.stage2.layout import build_layout
from pipeline.stage2.loss import summarise_inputs
from pipeline.stage2.masking import build_masking
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import Masked, SampleReader, collate, masked_sample
from pipeline.stage2.warm_start import WarmStart, plan_start, warm_start
from pipeline.stage2.weighing import weighing
from shards import SampleSet


class MaskedObjective:
    """Train the masked multi-modal transformer on all samples that have anything to predict.

    Another model for the same task overrides `build_model` and `finish`.
    """

    def __init__(self, config: MaskedRunConfig, dataset: SampleSet):
        self.config, self.dataset = config, dataset
        self.layout, rows = build_layout(config.masked, dataset), dataset.modalities
        self.masking = build_masking(config.masked, self.layout)
        start = self._start()
        # Weights that go on are only right with the statistics they know.
        known = start.normalisers if start else {}
        normalisers = {
            n: known.get(n) or Normaliser(rows[n], statistics_for(dataset, n, config.data))
            for n in config.masked.pixels
        }
        self.reader = SampleReader(dataset, self.layout, normalisers)
        self.indices = self._usable(config.data.split)
        if not len(self.indices):
            raise ConfigError(
                f"no sample of {dataset.path} in split {config.data.split!r} is usable and passes data.filter"
            )
        self.eval_indices = self._usable(config.data.eval_split)
        self.model: nn.Module = self.build_model(start)
        self.critic: Critic | None = None
        self.tokens_per_sample = config.masked.num_input_tokens + config.masked.num_target_tokens

    def build_model(self, start: WarmStart | None) -> nn.Module:
        """A model for the layout, with a forward as `pipeline.stage2.loss` makes it.

        Fresh, or with the weights of the model that the run continues.
        """
        model = MaskedTransformer(self.layout, self.config.masked)
        if start:
            warm_start(model, start)
        return model

    def sample(self, index: int, rng: np.random.Generator, cursor: int) -> Masked:
        return masked_sample(self.reader, self.masking, index, rng)

    def eval_sample(self, index: int, rng: np.random.Generator) -> Masked:
        """Masks follow from the sample's index alone, so that every evaluation asks the same."""
        return masked_sample(self.reader, self.masking, index, rng)

    def collate(self, samples: list[Masked]) -> Batch:
        masked = self.config.masked
        sizes = masked.num_input_tokens, masked.num_target_tokens
        return collate(samples, self.layout, *sizes, weighing(masked, self.layout))

    def summarise(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Loss, and cross-entropy per target modality and date; on held-out samples also accuracy, and both
        by the number of modalities that a sample sees.
        """
        values = {"loss": float(sums["loss"] / sums["count"])}
        for i in self.layout.targets:
            stream = self.layout.streams[i]
            tokens = float(sums[f"tokens/{stream.name}"])
            if tokens:
                values[f"ce/{stream.part}"] = float(sums[f"ce/{stream.name}"]) / tokens
                if f"right/{stream.name}" in sums:
                    right = float(sums[f"right/{stream.name}"])
                    values[f"accuracy/{stream.part}"] = right / tokens
        return values | summarise_inputs(sums)

    def remarks(self, sums: Sums) -> Remarks:
        return Remarks()

    def identity(self) -> Mapping[str, Any]:
        tokens = {n: i["tokenizer"] for n, i in self.layout.token_info.items()}
        # Runs of before there were dates go on.
        without = {"init_from"} if self.config.masked.dates else {"init_from", "dates"}
        return {
            "masked": self.config.masked.model_dump(mode="json", exclude=without),
            "tokens": tokens,
            "window_m": self.layout.window_m,
            "views": self.layout.views.to_dict(),
            "statistics": {n: r.statistics._asdict() for n, r in self.reader.normalisers.items()},
            "dataset": self.dataset.fingerprint,
            "split": self.config.data.split,
        }

    def finish(self, folder: Path) -> None:
        assert isinstance(self.model, MaskedTransformer)
        save(self.model, self.reader.normalisers, folder / "artifact")

    def _start(self) -> WarmStart | None:
        """The model that this run continues, if any; told once, before its first step."""
        path = self.config.masked.init_from
        if path is None:
            return None
        rows = dict(self.dataset.modalities)
        start = plan_start(path, self.layout, self.config.masked, rows)
        if env_rank() == 0:
            say(f"{'stage2':<18} {start}")
        return start

    def _usable(self, split: str) -> np.ndarray:
        chosen = select(self.dataset, self.config.data, split)
        return chosen[self.reader.usable[chosen]]
