"""A trained tokenizer as others use it: a folder with weights, shape and statistics.

    ARTIFACT/
      model.safetensors    weights
      config.json          modality, levels, window, statistics, fingerprint of the weights

Weights and statistics travel together: a tokenizer under other statistics is silently wrong.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from configs import ConfigError
from configs.registry import BandStatistics
from configs.schema import Modality, TokenizerConfig
from pipeline.data.transforms import Normaliser
from pipeline.engine.artifact import read_record, read_weights, write_artifact
from pipeline.engine.errors import RunError
from pipeline.stage1.tokenizer import Tokenizer

VERSION = 1


class ImageTokenizer:
    """Physical maps in, codes out, and back. Frozen."""

    def __init__(self, model: Tokenizer, modality: Modality, statistics: BandStatistics | None):
        self.model, self.modality, self.statistics = model, modality, statistics
        self._normaliser = Normaliser(modality, statistics) if statistics else None

    @property
    def vocab_size(self) -> int:
        return self.model.quantizer.num_codes

    @property
    def window_m(self) -> float:
        """Side of the window the tokenizer works on, in metres."""
        assert self.modality.gsd_m is not None
        return self.model.size * self.modality.gsd_m

    @torch.no_grad()
    def tokenize(self, maps: np.ndarray) -> np.ndarray:
        """Maps in physical units [B, C, H, W] -> codes [B, N] int64."""
        if self._normaliser:
            maps = np.stack([self._normaliser.forward(m)[0] for m in maps])
        device = next(self.model.parameters()).device
        return self.model.tokenize(torch.from_numpy(maps).to(device)).cpu().numpy()

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> np.ndarray:
        """Codes [B, N] -> physical float32 [B, C, H, W], or classes uint8 [B, C, H, W]."""
        device = next(self.model.parameters()).device
        return self._maps(self.model.decode(codes.to(device)))

    @torch.no_grad()
    def decode_expected(self, probabilities: torch.Tensor) -> np.ndarray:
        """Maps as `decode` gives them, from probabilities of codes [B, N, V]."""
        device = next(self.model.parameters()).device
        return self._maps(self.model.decode_expected(probabilities.to(device)))

    def _maps(self, out: torch.Tensor) -> np.ndarray:
        out = out.float()
        if self._normaliser:
            return self._normaliser.inverse(out.cpu().numpy())
        return self.model.maps(out).to(torch.uint8).cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write the artifact; a folder appears under its name only when it is whole."""
        record = {
            "version": VERSION,
            "modality": self.modality.model_dump(mode="json"),
            "tokenizer": self.model.config.model_dump(mode="json"),
            "size_px": self.model.size,
            "statistics": self.statistics and self.statistics._asdict(),
        }
        write_artifact(folder, self.model.state_dict(), record)

    @classmethod
    def from_pretrained(cls, folder: Path, device: torch.device | str = "cpu") -> "ImageTokenizer":
        """Read what `save` wrote. Raises RunError when files are missing or damaged."""
        record = describe(folder)
        modality = Modality.model_validate(record["modality"])
        model = Tokenizer(
            modality, TokenizerConfig.model_validate(record["tokenizer"]), record["size_px"]
        )
        model.load_state_dict(read_weights(folder), strict=True)
        statistics = record["statistics"]
        bands = (
            BandStatistics(tuple(statistics["mean"]), tuple(statistics["std"]))
            if statistics
            else None
        )
        return cls(model.to(device).eval(), modality, bands)


def describe(folder: Path) -> dict[str, Any]:
    """config.json of an artifact. Raises RunError when there is none."""
    return read_record(folder, "tokenizer")


def fingerprint(folder: Path) -> str:
    """Names exactly these weights with exactly this shape and these statistics."""
    return xxhash.xxh3_64_hexdigest((folder / "config.json").read_bytes())


def named_tokenizer(path: Path, info: dict[str, Any]) -> Path:
    """The artifact in a folder that a user names (of a run, or itself), checked against a model's tokens.

    Raises RunError where there is none, ConfigError where it is one of other tokens.
    """
    folder = path / "artifact" if (path / "artifact").is_dir() else path
    record, name = describe(folder), info["modality"]
    if "vocabulary" in record:
        found = ("text", len(json.loads(record["vocabulary"])), None)
        expected = (info["kind"], info["vocab_size"], None)
    else:
        config = TokenizerConfig.model_validate(record["tokenizer"])
        side = record["size_px"] // config.patch_px
        found = (record["modality"]["name"], config.vocab_size, (side, side))
        expected = (name, info["vocab_size"], info["grid"] and tuple(info["grid"]))
    if found != expected:
        raise ConfigError(
            f"the tokenizer in {folder} is of another kind than the model's tokens of {name}: modality, "
            f"vocabulary and grid are {found} there and {expected} in the model"
        )
    if info["tokenizer"] not in (None, fingerprint(folder)):
        raise ConfigError(
            f"the tokenizer in {folder} is not the one whose tokens of {name} the model was trained on"
        )
    return folder


def tokenizer_folder(info: dict[str, Any], shards: Path) -> Path:
    """The artifact that made a token modality, as its manifest's `info` tells it, seen from its shards.

    Raises RunError when it is gone, or is another one.
    """
    folder = Path(os.path.normpath(shards / info["artifact"]))
    if not (folder / "config.json").is_file():
        raise RunError(
            f"the tokenizer of {info['modality']} is not in {folder} any more; restore it"
        )
    if fingerprint(folder) != info["tokenizer"]:
        raise RunError(
            f"the tokenizer in {folder} is not the one whose tokens the model was trained on; "
            "restore it, or tokenize and train stage 2 again"
        )
    return folder
