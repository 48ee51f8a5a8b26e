"""Tokens -> what they stand for: maps in physical units, words, places, days."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.schema import Modality
from pipeline.stage1 import place_time
from pipeline.stage1.artifact import ImageTokenizer
from pipeline.stage1.text import TextTokenizer

Value = np.ndarray | str


def summarise(draws: Sequence[Sequence[Value]], row: Modality) -> list[Value]:
    """One value per sample from several draws.

    Continuous maps: their mean, the guess of least squared error. Class maps: the most frequent
    class per pixel. Everything else: the first draw.
    """
    if len(draws) == 1 or not row.is_map:
        return list(draws[0])
    maps = np.stack([np.stack([np.asarray(v) for v in draw]) for draw in draws])
    if row.kind == "image":
        return list(maps.mean(axis=0))
    votes = np.stack([(maps == c).sum(axis=0) for c in range(row.num_classes)])
    return list(votes.argmax(axis=0).astype(np.uint8))


def spread(draws: Sequence[Sequence[Value]], row: Modality) -> list[Value]:
    """How far the draws of a map are apart per pixel, float32 [C, H, W] per sample.

    Continuous maps: the standard deviation, in the modality's unit. Class maps: the share of the draws
    that is not of the most frequent class.
    """
    maps = np.stack([np.stack([np.asarray(v) for v in draw]) for draw in draws])
    if row.kind == "image":
        return list(maps.astype(np.float64).std(axis=0).astype(np.float32))
    most = np.max([(maps == c).sum(axis=0) for c in range(row.num_classes)], axis=0)
    return list((1 - most / len(maps)).astype(np.float32))


class Decoder:
    """The stage-1 tokenizer of one modality, as a stage-2 model's layout names it.

    `folder` is where it lies; None for places and dates, which need none.
    """

    def __init__(self, info: dict[str, Any], folder: Path | None, device: torch.device):
        self.kind, self._version = info["kind"], info["tokenizer"]
        self._tokenizer: ImageTokenizer | TextTokenizer | None = None
        if folder is None:
            return
        if self.kind == "text":
            self._tokenizer = TextTokenizer.from_pretrained(folder)
        else:
            self._tokenizer = ImageTokenizer.from_pretrained(folder, device)

    def encode(self, value: Value) -> np.ndarray:
        """A value -> its codes, int64 [N]: a map [C, H, W], a text, [lon, lat], or an ISO date."""
        if self.kind == "coordinates":
            assert isinstance(value, np.ndarray)
            return place_time.scheme_of(self._version).encode(value).astype(np.int64)
        if self.kind == "date":
            return place_time.date_tokens(str(value)).astype(np.int64)
        if isinstance(self._tokenizer, TextTokenizer):
            return self._tokenizer.encode(str(value)).astype(np.int64)
        assert self._tokenizer is not None
        return self._tokenizer.tokenize(np.asarray(value)[None])[0]

    def expected(self, probabilities: list[torch.Tensor]) -> list[Value]:
        """The map of least expected error from probabilities of codes, [N, V] per sample. For maps only.

        Images: decoded from the expected latents. Class maps: from the most likely codes, because a
        mean of latents is the latent of classes that nobody proposed.
        """
        assert isinstance(self._tokenizer, ImageTokenizer)
        stacked = torch.stack(probabilities)
        if self.kind == "classes":
            return list(self._tokenizer.decode(stacked.argmax(-1)))
        return list(self._tokenizer.decode_expected(stacked))

    def __call__(self, codes: list[np.ndarray]) -> list[Value]:
        """Codes per sample -> maps [C, H, W] in physical units, texts, [lon, lat], or ISO dates."""
        if self.kind == "coordinates":
            return [place_time.scheme_of(self._version).decode(c) for c in codes]
        if self.kind == "date":
            return [place_time.date_of(c) for c in codes]
        if isinstance(self._tokenizer, TextTokenizer):
            return [self._tokenizer.decode(c) for c in codes]
        assert self._tokenizer is not None
        return list(self._tokenizer.decode(torch.from_numpy(np.stack(codes))))
