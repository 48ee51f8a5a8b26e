"""Stage 1: the shape of one modality's tokenizer."""

import math
from typing import Literal

from pydantic import Field

from configs.schema.base import Frozen


class WordPieceConfig(Frozen):
    """WordPiece vocabulary for text modalities, trained on the train split (or loaded from `path`)."""

    vocab_size: int = Field(default=1024, gt=16)
    max_tokens: int = Field(default=32, gt=2)
    path: str | None = None


class TokenizerConfig(Frozen):
    """A ViT encoder, a finite scalar quantizer, a ViT decoder.

    `patch_px` and `crop_px` default to the registry's patch and to the whole tile. The vocabulary
    has `prod(levels)` codes, one per patch. `loss` defaults to L1 for images; class maps always
    use cross-entropy.
    """

    patch_px: int | None = Field(default=None, gt=0)
    crop_px: int | None = Field(default=None, gt=0)
    width: int = Field(default=192, gt=0)
    encoder_depth: int = Field(default=4, gt=0)
    decoder_depth: int = Field(default=4, gt=0)
    heads: int = Field(default=3, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    levels: tuple[int, ...] = (8, 8, 8, 6, 5)
    loss: Literal["l1", "l2", "huber"] = "l1"
    augment: bool = True
    text: WordPieceConfig = WordPieceConfig()

    @property
    def vocab_size(self) -> int:
        return math.prod(self.levels)
