"""How a model is looked at while it trains: probes of its features, and what it generates."""

from typing import Literal

from pydantic import Field, model_validator

from configs.schema.base import Frozen
from configs.schema.evaluate import ProbeConfig


class SheetConfig(Frozen):
    """A sheet of held-out samples, always the same ones: `target` made from `source`, beside the truth."""

    source: tuple[str, ...] = Field(min_length=1)
    target: tuple[str, ...] = Field(min_length=1)
    num_samples: int = Field(default=4, gt=0)
    estimate: Literal["draw", "expected"] = "expected"


class MonitorConfig(Frozen):
    """Every `every_steps` steps (0: never) and after the last one, one rank looks and the others wait.

    Classifiers tell `probes.labels` from the frozen features of samples that show all other modalities; a
    `sheet` is generated, by stage 2 alone.
    Training goes on as if nobody had looked; `num_train`, `num_test` and `num_samples` bound what it costs.
    """

    every_steps: int = Field(default=0, ge=0)
    probes: ProbeConfig = ProbeConfig()
    sheet: SheetConfig | None = None
    batch: int = Field(default=32, gt=0)

    @model_validator(mode="after")
    def _something_to_see(self) -> "MonitorConfig":
        if self.every_steps and not self.probes.labels and self.sheet is None:
            raise ValueError("name `probes.labels` or a `sheet`: there would be nothing to see")
        return self
