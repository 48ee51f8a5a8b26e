"""Stage 1 as the training loop sees it: windows of one modality, and what a finished run leaves."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs import ConfigError
from configs.schema import Stage1Config
from pipeline.data.loader import Batch
from pipeline.data.selection import readable, select
from pipeline.data.transforms import (
    Normaliser,
    cut,
    flip_and_turn,
    prepare,
    statistics_for,
    window_start,
)
from pipeline.layers.scores import accuracy, code_usage, miou
from pipeline.stage1.artifact import ImageTokenizer
from pipeline.stage1.tokenizer import Tokenizer
from shards import SampleSet

NUM_PICTURES = 4
Window = tuple[np.ndarray, np.ndarray]


class TokenizerObjective:
    """Train one image or class tokenizer on the samples that have the modality."""

    def __init__(self, config: Stage1Config, dataset: SampleSet):
        self.config, self.dataset = config, dataset
        name = config.modality
        if name not in dataset.modalities:
            have = ", ".join(dataset.modalities)
            raise ConfigError(f"modality={name}: {dataset.path} has {have}")
        self.row = dataset.modalities[name]
        self.indices = select(dataset, config.data, config.data.split, [name])
        if not len(self.indices):
            raise ConfigError(
                f"no sample of {dataset.path} in split {config.data.split!r} has {name} and passes "
                "data.filter"
            )
        self.eval_indices = select(dataset, config.data, config.data.eval_split, [name])
        self.normaliser = None
        if self.row.kind == "image":
            self.normaliser = Normaliser(self.row, statistics_for(dataset, name, config.data))
        size = config.tokenizer.crop_px or self._smallest_side()
        self.model: nn.Module = Tokenizer(self.row, config.tokenizer, size)
        grid = self.model.grid
        self.tokens_per_sample = grid[0] * grid[1]
        assert self.row.gsd_m is not None
        self.window_m = size * self.row.gsd_m

    def sample(self, index: int, rng: np.random.Generator) -> Window:
        """One window, at random, in a random symmetry of the square."""
        x = self._read(index)
        x = self._window(x, rng.random(), rng.random())
        pixels, valid = self._prepare(x)
        if self.config.tokenizer.augment:
            pixels, valid = flip_and_turn((pixels, valid), rng)
        return pixels, valid

    def eval_sample(self, index: int, rng: np.random.Generator) -> Window:
        """The window in the centre, as it is."""
        return self._prepare(self._centre(index))

    def collate(self, samples: list[Window]) -> Batch:
        """X [B, C, H, W] float32 (class maps uint8), valid [B, H, W] bool."""
        x, valid = zip(*samples, strict=True)
        return {"x": torch.from_numpy(np.stack(x)), "valid": torch.from_numpy(np.stack(valid))}

    def summarise(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Loss; on held-out samples also errors in physical units, class scores and code usage."""
        values = {"loss": float(sums["loss"] / sums["count"])}
        if "codes" in sums:
            values |= code_usage(sums["codes"])
        if "confusion" in sums:
            nodata = None if self.row.nodata is None else int(self.row.nodata)
            values |= {
                "accuracy": accuracy(sums["confusion"]),
                "miou": miou(sums["confusion"], ignore=nodata),
            }
        if "square" in sums and self.normaliser is not None:
            std = torch.tensor(self.normaliser.statistics.std, dtype=torch.float64)
            mse = (sums["square"] / sums["pixels"] * std**2).mean()
            values |= {
                "rmse": float(mse.sqrt()),
                "mae": float((sums["absolute"] / sums["pixels"] * std).mean()),
            }
        return values

    def identity(self) -> Mapping[str, Any]:
        return {
            "modality": self.config.modality,
            "tokenizer": self.config.tokenizer.model_dump(mode="json", exclude={"text"}),
            "size": self.model.size,
            "statistics": self.normaliser and self.normaliser.statistics._asdict(),
            "dataset": self.dataset.fingerprint,
            "split": self.config.data.split,
        }

    def finish(self, folder: Path) -> None:
        """Write the artifact and a few held-out reconstructions."""
        assert isinstance(self.model, Tokenizer)
        statistics = self.normaliser.statistics if self.normaliser else None
        tokenizer = ImageTokenizer(self.model, self.row, statistics)
        tokenizer.save(folder / "artifact")
        chosen = self.eval_indices if len(self.eval_indices) else self.indices
        device = next(self.model.parameters()).device
        truth, restored = [], []
        self.model.eval()
        for x in itertools.islice(readable(chosen, self._centre), NUM_PICTURES):
            pixels, _ = self._prepare(x)
            codes = self.model.tokenize(torch.from_numpy(pixels)[None].to(device))
            truth.append(x)
            restored.append(tokenizer.decode(codes)[0])
        np.savez_compressed(
            folder / "reconstructions.npz", truth=np.stack(truth), restored=np.stack(restored)
        )

    def _read(self, index: int) -> np.ndarray:
        x = self.dataset.read(index, [self.config.modality])[self.config.modality]
        assert isinstance(x, np.ndarray)
        return x

    def _centre(self, index: int) -> np.ndarray:
        return self._window(self._read(index), 0.5, 0.5)

    def _window(self, x: np.ndarray, down: float, right: float) -> np.ndarray:
        """The window whose corner lies at these shares of the room around it."""
        gsd = self.row.gsd_m
        assert gsd is not None
        sides = zip(x.shape[1:], (down, right), strict=True)
        try:
            top, left = (window_start(n * gsd, self.window_m, share) for n, share in sides)
        except ValueError as error:
            raise ConfigError(
                f"{self.dataset.path}, {self.row.name}: {error}; set tokenizer.crop_px"
            ) from error
        return cut(x, self.row, top, left, self.window_m)

    def _prepare(self, x: np.ndarray) -> Window:
        return prepare(x, self.row, self.normaliser)

    def _smallest_side(self) -> int:
        """Side of the first sample's tile: data sets are cut to one size unless crop_px says less."""
        sides = readable(self.indices, lambda i: min(self._read(i).shape[1:]))
        found = next(sides, None)
        if found is None:
            raise ConfigError(f"no sample of {self.dataset.path} can be read; verify the data set")
        return found
