"""Late fusion as the training loop sees it: stage 2 with another model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from configs import ConfigError
from configs.schema import FusionRunConfig
from pipeline.fusion.artifact import save
from pipeline.fusion.latents import frozen_latents
from pipeline.fusion.model import LateFusion
from pipeline.stage2.objective import MaskedObjective
from pipeline.stage2.warm_start import WarmStart
from shards import SampleSet


class FusionObjective(MaskedObjective):
    """The same samples, masks and loss, for a model without attention."""

    def __init__(self, config: FusionRunConfig, dataset: SampleSet):
        self.fusion = config.fusion
        super().__init__(config, dataset)

    def build_model(self, start: WarmStart | None) -> nn.Module:
        if start:
            raise ConfigError("masked.init_from is stage 2's: late fusion starts afresh")
        tables = frozen_latents(self.layout, self.dataset.path)
        widths = {name: table.shape[1] for name, table in tables.items()}
        model = LateFusion(self.layout, self.config.masked, self.fusion, widths)
        model.set_latents(tables)
        return model

    def identity(self) -> Mapping[str, Any]:
        return {**super().identity(), "fusion": self.fusion.model_dump(mode="json")}

    def finish(self, folder: Path) -> None:
        assert isinstance(self.model, LateFusion)
        save(self.model, folder / "artifact")
