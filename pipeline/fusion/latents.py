"""Frozen embeddings of codes: the latents that the quantizers of stage 1 decode them to.

Shapes: V codes of one stream, L latent width.
"""

from pathlib import Path

import torch
from torch import Tensor

from configs.schema import TokenizerConfig
from pipeline.stage1.artifact import ImageTokenizer, describe, tokenizer_folder
from pipeline.stage2.layout import Layout


def latent_widths(layout: Layout, shards: Path | None) -> dict[str, int]:
    """L of every table of `frozen_latents`, by the tokenizers' configurations alone, which are taken to be
    the default ones where there are no `shards`. Raises RunError as `frozen_latents` does.
    """
    widths = {}
    for stream in map(layout.streams.__getitem__, layout.inputs):
        if stream.kind == "map":
            config = TokenizerConfig()
            if shards is not None:
                folder = tokenizer_folder(layout.token_info[stream.modality], shards)
                config = TokenizerConfig.model_validate(describe(folder)["tokenizer"])
            widths[stream.name] = config.latent_width
    return widths


def frozen_latents(layout: Layout, shards: Path) -> dict[str, Tensor]:
    """Per input stream that is a map, its table of latents [V, L].

    Channels have mean 0 and deviation 1 over the codes: FSQ levels and VQ vectors come in different
    sizes. Raises RunError when a tokenizer is not where the tokens of `shards` say.
    """
    tables = {}
    for stream in map(layout.streams.__getitem__, layout.inputs):
        if stream.kind != "map":
            continue
        folder = tokenizer_folder(layout.token_info[stream.modality], shards)
        quantizer = ImageTokenizer.from_pretrained(folder).model.quantizer
        with torch.no_grad():
            latents = quantizer.decode(torch.arange(stream.vocab_size)).float()
        deviation = latents.std(0, correction=0).clamp(min=1e-6)
        tables[stream.name] = (latents - latents.mean(0)) / deviation
    return tables
