"""A data set as its registry rows describe it, for a run whose shards are not there yet.

Windows of 224 pixels of 10 m, which is what public tokenizers of these modalities work on (TerraMind
cuts them from tiles of 264), or the next larger ones that divide into the patches of all modalities;
patches of the registry, vocabularies of the default tokenizers.
"""

import math
from collections.abc import Collection, Iterable
from typing import Any

from configs.registry import modality, modality_registry
from configs.schema import DataConfig, TokenizerConfig
from configs.schema.modality import undated
from pipeline.data.tokens import extra_name
from pipeline.stage1.tokenize import untrained_info

WINDOW_M = 2240


class AssumedData:
    """As much of a data set as layouts and models are made from, for some modalities."""

    def __init__(self, config: DataConfig, names: Collection[str], patch_px: dict[str, int]):
        self.path = config.shards
        self.modalities = modality_registry() | {name: modality(name) for name in names}
        self._patch_px = patch_px
        step = math.lcm(*(self._patch_m(name) for name in names))
        self.window_m = step * -(-WINDOW_M // step)

    @property
    def extras(self) -> Iterable[str]:
        return [extra_name(name) for name in self.modalities]

    def extra_manifest(self, name: str) -> dict[str, Any]:
        found = next(m for m in self.modalities if extra_name(m) == name)
        return {"info": self._tokens(found)}

    def _tokens(self, name: str) -> dict[str, Any]:
        row, default = self.modalities[name], TokenizerConfig()
        info = untrained_info(name, row) | {"tokenizer": "assumed"}
        if row.kind in ("coordinates", "date"):
            return info
        if row.kind == "text":
            text = default.text
            return info | {"num_tokens": text.max_tokens, "vocab_size": text.vocab_size}
        side = self.window_m // self._patch_m(name)
        return info | {
            "window_m": float(self.window_m),
            "grid": [side, side],
            "num_tokens": side * side,
            "vocab_size": default.vocab_size,
        }

    def _patch_m(self, name: str) -> int:
        """Side of a patch on the ground; 1 where there are none."""
        row = self.modalities[name]
        patch_px = self._patch_px.get(undated(name)[0], row.patch_px or 0)
        return round(patch_px * row.gsd_m) if patch_px and row.gsd_m else 1
