"""Probes and generated sheets of a model that is still training: what `pipeline.engine.monitor` calls.

RUN/metrics.jsonl           {"step", "monitor": {"linear/LULC", "knn/LULC", "most_frequent/LULC", "seconds"}}
RUN/monitor/step-00000200/  what `python -m pipeline generate` writes, without scores
"""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from torch import nn

from configs.schema import FusionRunConfig, GenerateConfig, MaskedRunConfig, SheetConfig
from configs.schema.modality import undated
from pipeline.evaluate.labels import label_row
from pipeline.evaluate.probing import Showing, given_for, labelled_tokens, represent
from pipeline.evaluate.subject import Subject
from pipeline.evaluate.watcher import Watcher, probed
from pipeline.fusion.model import LateFusion
from pipeline.generate.run import generate_samples
from pipeline.generate.trained import Trained
from pipeline.stage1.artifact import tokenizer_folder
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.objective import MaskedObjective

FOLDER = "monitor"


class RunMonitor(Watcher[MaskedTransformer | LateFusion]):
    """A `Monitor` of one run. Raises ConfigError or RunError for what could never be seen."""

    def __init__(self, config: MaskedRunConfig, objective: MaskedObjective):
        super().__init__(config.monitor, cast(MaskedTransformer | LateFusion, objective.model))
        self._config, self._objective = config, objective
        self._rows = [label_row(objective.dataset, name) for name in config.monitor.probes.labels]
        self._given = [
            given_for(objective.layout, row, config.monitor.probes)[0] for row in self._rows
        ]
        self._drawing: Trained | None = None  # of the copy, with decoders and all that looks share
        if config.monitor.sheet is not None:
            self._check(config.monitor.sheet)

    def see(
        self, step: int, model: MaskedTransformer | LateFusion, progress: Callable[[], None]
    ) -> dict[str, float]:
        """Accuracies of probes; a sheet goes to the run's folder."""
        config, reader = self._config, self._objective.reader
        kind = "fusion" if isinstance(config, FusionRunConfig) else "stage2"
        subject = Subject(kind, model, reader.normalisers)
        showing = Showing(config.masked.num_input_tokens, config.monitor.batch, 0)
        values: dict[str, float] = {}
        for row, given in zip(self._rows, self._given, strict=True):
            progress()
            labelled = labelled_tokens(reader, row, config.data, config.monitor.probes)
            values |= probed(labelled, represent(subject, given, showing))
        if config.monitor.sheet is not None:
            progress()
            self._draw(config.monitor.sheet, model, step)
        return values

    def _draw(self, sheet: SheetConfig, model: nn.Module, step: int) -> None:
        config = self._config
        asked = GenerateConfig(
            kind="generate", run=config.out, out=sheet_folder(config.out, step), data=config.data,
            source=sheet.source, target=sheet.target, split=config.data.eval_split,
            num_samples=sheet.num_samples, num_pictures=sheet.num_samples, estimate=sheet.estimate,
            batch=config.monitor.batch, num_calibration=0,
        )  # fmt: skip
        if self._drawing is None:
            self._drawing = self._trained(model)
        generate_samples(asked, self._drawing, self._objective.dataset, judged=False)

    def _trained(self, model: nn.Module) -> Trained:
        assert isinstance(model, MaskedTransformer)  # the schema refuses sheets of other models
        device = next(model.parameters()).device
        whole = model, self._objective.reader.normalisers
        return Trained(self._config.out, device, model=whole)

    def _check(self, sheet: SheetConfig) -> None:
        """What is drawn from and what is drawn are streams of the model, whose tokenizers are there."""
        trained = self._trained(self._objective.model)
        trained.sources(sheet.source)
        for name in trained.targets(sheet.target):
            info = self._objective.layout.token_info[undated(name)[0]]
            if info["artifact"] is not None:
                tokenizer_folder(info, Path(self._config.data.shards))


def sheet_folder(run: Path, step: int) -> Path:
    """Where the sheet of a step is."""
    return run / FOLDER / f"step-{step:08d}"
