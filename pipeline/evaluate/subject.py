"""A trained model as evaluation sees it: stage 2 or late fusion, and its untrained twin.

Shapes: B batch, D width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from configs.schema import MaskedConfig
from pipeline.data.loader import Batch
from pipeline.data.transforms import Normaliser
from pipeline.engine.errors import RunError
from pipeline.fusion import artifact as of_fusion
from pipeline.fusion.model import LateFusion
from pipeline.stage2 import artifact as of_stage2
from pipeline.stage2.layout import Layout
from pipeline.stage2.model import MaskedTransformer


@dataclass(frozen=True)
class Subject:
    """A frozen model and the statistics of its pixels. `kind` is that of its configuration."""

    kind: Literal["stage2", "fusion"]
    model: MaskedTransformer | LateFusion
    normalisers: dict[str, Normaliser]

    @property
    def layout(self) -> Layout:
        return self.model.layout

    @property
    def masked(self) -> MaskedConfig:
        return self.model.masked if isinstance(self.model, LateFusion) else self.model.config

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @torch.no_grad()
    def represent(self, batch: Batch) -> Tensor:
        """One vector per sample from its visible tokens, [B, D].

        Of the transformer the mean of its encoded tokens; of late fusion what its streams say together.
        """
        if isinstance(self.model, LateFusion):
            return self.model.represent(batch).float()
        context = self.model.encode(batch)
        registers = self.masked.num_registers
        return mean_where(context.tokens[:, registers:], batch["in_stream"] >= 0)

    def untrained(self, seed: int) -> "Subject":
        """The same model with fresh weights, by which training can be told from architecture."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            twin: Any
            if isinstance(self.model, LateFusion):
                given = self.model
                twin = LateFusion(given.layout, given.masked, given.fusion, given.latent_widths)
                twin.latents.copy_(given.latents)
            else:
                twin = MaskedTransformer(self.layout, self.masked)
        return Subject(self.kind, twin.to(self.device).eval(), self.normalisers)


def mean_where(tokens: Tensor, real: Tensor) -> Tensor:
    """The mean [B, D] of those of the tokens [B, N, D] that are `real` [B, N]; zeros where none is."""
    share = real / real.sum(1, keepdim=True).clamp(min=1)
    return (tokens.float() * share[..., None]).sum(1)


def load_subject(run: Path, device: torch.device) -> Subject:
    """The model of a finished run, or of a folder itself. Raises RunError for none, or of another kind."""
    folder = of_stage2.find(run)
    record = of_fusion.describe(folder)
    if "fusion" in record:
        return Subject("fusion", of_fusion.load(folder, device), {})
    if "masked" in record and "layout" in record:
        model, normalisers = of_stage2.load(folder, device)
        return Subject("stage2", model, normalisers)
    held = "a MultiMAE" if "multimae" in record else "no model of tokens"
    raise RunError(f"{folder} holds {held}; name a run of stage 2 or of late fusion")
