"""Stage 1 as the training loop sees it: windows of one modality, and what a finished run leaves."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from configs import ConfigError
from configs.registry import CLOUD_MASK
from configs.schema import Stage1Config
from pipeline.data.loader import Batch
from pipeline.data.selection import readable, select
from pipeline.data.transforms import (
    Normaliser,
    flip_and_turn,
    prepare,
    statistics_for,
    window_start,
)
from pipeline.engine.evaluation import spread
from pipeline.engine.lifecycle import write_atomic
from pipeline.engine.objective import Critic, Remarks
from pipeline.layers.scores import code_usage
from pipeline.stage1.artifact import ImageTokenizer
from pipeline.stage1.baseline import Baseline
from pipeline.stage1.clouds import ClearOf, Tile
from pipeline.stage1.encoder import Encoder
from pipeline.stage1.tokenizer import Teaching, Tokenizer
from shards import SampleSet

NUM_PICTURES = 4
_COLLAPSED = 0.01  # of the codes that could have occurred, where a tokenizer says next to nothing
_SIDES = 0x51DE5  # names the stream of random numbers that crop sides are drawn from
Window = tuple[np.ndarray, np.ndarray, int]


class TokenizerObjective:
    """Train one image or class tokenizer on the samples that have the modality.

    With `tokenizer.loss.clear_of`, pixels that the sample's cloud mask names are not valid: errors there
    count for no loss, no critic and no score. The encoder sees them in `x` as they are, because tokens
    are made of images with clouds, and statistics include them. A sample without the mask counts whole.
    """

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
        hidden = config.tokenizer.loss.clear_of
        self.clear_of = ClearOf(dataset, self.row, hidden, self.indices) if hidden else None
        self.eval_indices = select(dataset, config.data, config.data.eval_split, [name])
        self.normaliser = None
        if self.row.kind == "image":
            self.normaliser = Normaliser(self.row, statistics_for(dataset, name, config.data))
        size = config.tokenizer.crop_px or self._smallest_side()
        teaching = Teaching(
            self.normaliser.statistics if self.normaliser else None,
            config.engine.global_batch,
            self._perceptual(size),
        )
        self.model: nn.Module = Tokenizer(self.row, config.tokenizer, size, teaching)
        self.critic: Critic | None = None
        if self.model.critic is not None:
            self.critic = Critic(self.model.critic, config.tokenizer.gan.lr_ratio)
        self.judge = self.model.judge
        grid = self.model.grid
        self.tokens_per_sample = grid[0] * grid[1]
        assert self.row.gsd_m is not None
        self.size, self.gsd_m = size, self.row.gsd_m

    def sample(self, index: int, rng: np.random.Generator, cursor: int) -> Window:
        """One window, at random, in a random symmetry of the square; as large as the step's others."""
        tile = self._window(self._read(index), rng.random(), rng.random(), self._step_size(cursor))
        pixels, valid = self._prepare(tile)
        if self.config.tokenizer.augment:
            pixels, valid = flip_and_turn((pixels, valid), rng)
        return pixels, valid, int(rng.integers(2**62))

    def eval_sample(self, index: int, rng: np.random.Generator) -> Window:
        """The window in the centre, as it is."""
        pixels, valid = self._prepare(self._centre(index))
        return pixels, valid, int(rng.integers(2**62))

    def collate(self, samples: list[Window]) -> Batch:
        """X [B, C, H, W] float32 (class maps uint8), valid [B, H, W] bool, seed [B] int64."""
        x, valid, seeds = zip(*samples, strict=True)
        return {
            "x": torch.from_numpy(np.stack(x)),
            "valid": torch.from_numpy(np.stack(valid)),
            "seed": torch.tensor(seeds),
        }

    def summarise(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Means of losses and code usage; on held-out samples also scores in physical units."""
        count = sums["count"]
        losses = {"loss", "commitment", "reconstruction", "opinion"} & sums.keys()
        values = {name: float(sums[name] / count) for name in sorted(losses)}
        values |= {k: float(v / count) for k, v in sums.items() if k.startswith("critic.")}
        return values | self.judge.scores(sums)

    def remarks(self, sums: dict[str, Tensor]) -> Remarks:
        """How often each code occurred, and whether hardly any did."""
        perplexity = code_usage(sums["codes"])["perplexity"]
        least = _COLLAPSED * min(len(sums["codes"]), float(sums["codes"].sum()))
        if perplexity >= least:
            return Remarks({"codes": sums["codes"]})
        asks = "vq.dead_share" if self.config.tokenizer.quantizer == "vq" else "fsq.levels"
        warning = (
            f"the codes have collapsed: as varied as {_COLLAPSED:.0%} of {len(sums['codes'])}, or less; "
            f"try a smaller rate, or another tokenizer.{asks}"
        )
        return Remarks({"codes": sums["codes"]}, (warning,))

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
        """Write the artifact, a few held-out reconstructions, the resampling baseline, parameter counts."""
        assert isinstance(self.model, Tokenizer)
        statistics = self.normaliser.statistics if self.normaliser else None
        device = next(self.model.parameters()).device
        # A model of its own: under ZeRO-3 each use of the trained one is a matter of all ranks.
        frozen = Tokenizer(self.row, self.config.tokenizer, self.size)
        frozen.load_state_dict(self.model.state_dict())
        tokenizer = ImageTokenizer(frozen.to(device).eval(), self.row, statistics)
        tokenizer.save(folder / "artifact")
        chosen = self.eval_indices if len(self.eval_indices) else self.indices
        truth, restored = [], []
        for x, _ in itertools.islice(readable(chosen, self._centre), NUM_PICTURES):
            codes = torch.from_numpy(tokenizer.tokenize(x[None]))
            truth.append(x)
            restored.append(tokenizer.decode(codes)[0])
        pictures = {"truth": np.stack(truth), "restored": np.stack(restored)}
        plain = Baseline.at_rate(self.row, self.tokens_per_sample, tokenizer.vocab_size, self.size)
        if plain.cells:
            pictures["baseline"] = plain.restore(pictures["truth"])
        np.savez_compressed(folder / "reconstructions.npz", allow_pickle=False, **pictures)
        judged = readable(spread(self.eval_indices, self.config.engine.eval_samples), self._centre)
        record = plain.record((self._prepare(tile) for tile in judged), self.judge)
        write_atomic(folder / "baseline.json", json.dumps(record))
        parts = {"tokenizer": self.model, "critic": self.model.critic}
        counts = {k: sum(p.numel() for p in m.parameters()) for k, m in parts.items() if m}
        write_atomic(folder / "parameters.json", json.dumps(counts))

    def _read(self, index: int) -> Tile:
        names = {self.config.modality, *((CLOUD_MASK,) if self.clear_of else ())}
        parts = self.dataset.read(index, names)
        x = parts[self.config.modality]
        assert isinstance(x, np.ndarray)
        return Tile(x, self.clear_of(parts, *x.shape[1:]) if self.clear_of else None)

    def _centre(self, index: int) -> Tile:
        return self._window(self._read(index), 0.5, 0.5, self.size)

    def _step_size(self, cursor: int) -> int:
        """Side of the windows of the step that starts there: drawn, and the same on all ranks."""
        sizes = self.config.tokenizer.crops_px
        if not sizes:
            return self.size
        rng = np.random.Generator(np.random.Philox(key=[self.config.engine.seed ^ _SIDES, cursor]))
        return int(rng.choice(sizes))

    def _window(self, tile: Tile, down: float, right: float, size: int) -> Tile:
        """The window of `size` pixels whose corner lies at these shares of the room around it."""
        window_m = size * self.gsd_m
        sides = zip(tile.x.shape[1:], (down, right), strict=True)
        try:
            top, left = (window_start(n * self.gsd_m, window_m, share) for n, share in sides)
        except ValueError as error:
            raise ConfigError(
                f"{self.dataset.path}, {self.row.name}: {error}; set tokenizer.crop_px, crops_px"
            ) from error
        return tile.cut(self.row, top, left, window_m)

    def _perceptual(self, size: int) -> Encoder | None:
        """The encoder whose features reconstructions are compared in, where the loss asks for one."""
        loss, sizes = self.config.tokenizer.loss, {size, *self.config.tokenizer.crops_px}
        if not loss.perceptual or loss.perceptual_network is None:
            return None
        network = ImageTokenizer.from_pretrained(loss.perceptual_network / "artifact").model
        known = {network.size, *network.config.crops_px}
        if network.modality != self.row or not sizes <= known:
            raise ConfigError(
                f"tokenizer.loss.perceptual_network={loss.perceptual_network} knows windows of "
                f"{sorted(known)} px of {network.modality.name}; needed are {sorted(sizes)} px of "
                f"{self.row.name}"
            )
        return network.encoder

    def _prepare(self, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
        pixels, valid = prepare(tile.x, self.row, self.normaliser)
        return pixels, valid if tile.clear is None else valid & tile.clear[0]

    def _smallest_side(self) -> int:
        """Side of the first sample's tile: data sets are cut to one size unless crop_px says less."""
        sides = readable(self.indices, lambda i: min(self._read(i).x.shape[1:]))
        found = next(sides, None)
        if found is None:
            raise ConfigError(f"no sample of {self.dataset.path} can be read; verify the data set")
        return found
