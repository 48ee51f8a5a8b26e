"""The error as a trained network sees it."""

import math
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.stage1.encoder import Encoder

NUM_DEPTHS = 4


class PerceptualLoss(nn.Module):
    """1 - cosine similarity of a frozen encoder's features, averaged over depths and patches.

    As in ml-4m (perceptual loss on blocks 2, 5, 8 and 11 of a ViT-B); the network here is a trained
    tokenizer's encoder of the same modality, which knows its bands. It is taken over: frozen, in
    evaluation mode, and no submodule of this one, so that no checkpoint, optimizer or sharding meets it.
    It follows `.to(device)` and casts. Its positions fix the size of the window.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self._encoder = (encoder.eval().requires_grad_(False),)
        depth = len(encoder.blocks)
        # Evenly spread, the last one included; all of them where there are few.
        self.depths = sorted(
            {math.ceil(depth * i / NUM_DEPTHS) - 1 for i in range(1, NUM_DEPTHS + 1)}
        )

    @property
    def encoder(self) -> Encoder:
        """The frozen network."""
        return self._encoder[0]

    def forward(self, prediction: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
        """Normalised images [B, C, H, W], valid [B, H, W] -> [B], from 0 to 2.

        Invalid pixels of the prediction are the truth's; 0 for a sample without a valid pixel.
        """
        seen = torch.where(valid[:, None], prediction, truth.to(prediction.dtype))
        with torch.no_grad():
            goals = self.features(truth)
        apart = [
            1 - F.cosine_similarity(found.float(), goal.float(), dim=-1).mean(1)
            for found, goal in zip(self.features(seen), goals, strict=True)
        ]
        return torch.where(valid.any((1, 2)), torch.stack(apart).mean(0), 0.0)

    def features(self, x: Tensor) -> list[Tensor]:
        """What the blocks of interest give: [B, N, D] each, shallow to deep."""
        found: list[Tensor] = []

        def keep(_block: nn.Module, _inputs: Any, output: Tensor) -> None:
            found.append(output)

        # Hooks of one call: a deep copy of the model carries none that report to the original.
        handles = [self.encoder.blocks[i].register_forward_hook(keep) for i in self.depths]
        try:
            self.encoder(x)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Self:
        self.encoder._apply(fn)
        return super()._apply(fn, *args, **kwargs)
