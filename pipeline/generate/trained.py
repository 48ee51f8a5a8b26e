"""A trained stage-2 run with all that belongs to it: streams by name, normalisers, stage-1 decoders."""

import difflib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs import ConfigError, load_config
from configs.schema import DataConfig, GenerateConfig, Modality, Stage2Config
from configs.schema.modality import undated
from pipeline.data.tokens import extra_name
from pipeline.data.transforms import Normaliser
from pipeline.generate.calibration import Calibration
from pipeline.generate.chain import Drawn
from pipeline.generate.decode import Decoder, Value, spread, summarise
from pipeline.generate.picking import Sampling
from pipeline.generate.readout import Readout
from pipeline.stage1.artifact import fingerprint, named_tokenizer, tokenizer_folder
from pipeline.stage2 import artifact
from pipeline.stage2.model import MaskedTransformer
from pipeline.stage2.samples import SampleReader
from shards import SampleSet, open_data


class Trained:
    """Raises RunError when the run has left no model, or when it is another kind of run.

    `run` may be the folder of a model itself, which knows no data. `tokenizers` are folders that a user
    names. `model` is what the run would leave, with its normalisers, where it is still training.
    """

    def __init__(
        self,
        run: Path,
        device: torch.device,
        tokenizers: Mapping[str, Path] | None = None,
        model: tuple[MaskedTransformer, dict[str, Normaliser]] | None = None,
    ):
        self._run, self._device, self._given = run, device, tokenizers or {}
        self.model, self.normalisers = model or artifact.load(artifact.find(run), device)
        self.layout = self.model.layout
        self._decoders: dict[str, Decoder] = {}
        self._readouts: dict[str, Readout] = {}
        self._calibrations: dict[str, Calibration] = {}

    @cached_property
    def config(self) -> Stage2Config:
        """What the run was made with. Raises ConfigError for a model that has been taken out of its run."""
        if not self._is_run:
            raise ConfigError(
                f"{self._run} is a model without its run, and does not tell where its tokenizers are: write "
                "--tokenizer MODALITY=FOLDER (tokenizers.MODALITY=FOLDER)"
            )
        config = load_config(self._run / "config.yaml", kind="stage2")
        assert isinstance(config, Stage2Config)
        return config

    @cached_property
    def shards(self) -> Path:
        """The shard set whose tokens the model was trained on; tokenizers are found from there."""
        return Path(self.config.data.shards)

    def training_set(self) -> SampleSet | None:
        """The shard set that the model was trained on, where it is still there."""
        is_there = self._is_run and self.shards.is_dir()
        return open_data(self.config.data) if is_there else None

    @property
    def _is_run(self) -> bool:
        return (self._run / "config.yaml").is_file()

    def decoder(self, name: str) -> Decoder:
        """The stage-1 tokenizer of a modality, the same on all dates."""
        if name not in self._decoders:
            base = undated(name)[0]
            info = self.layout.token_info.get(base)
            if info is None:
                raise ConfigError(f"the model of {self._run} knows no tokens of {name}")
            self._decoders[name] = Decoder(info, self._folder(base, info), self._device)
        return self._decoders[name]

    def _folder(self, name: str, info: dict[str, Any]) -> Path | None:
        """Where the tokenizer of a modality is; None where it needs none."""
        if name in self._given:
            return named_tokenizer(self._given[name], info)
        if info["artifact"] is not None:
            return tokenizer_folder(info, self.shards)
        if info["tokenizer"] is not None:
            return None
        if info["kind"] in ("coordinates", "date"):
            raise ConfigError(
                f"{name}: its tokens in the model of {self._run} are words of a vocabulary that was not "
                "imported with it; leave it out of sources and targets"
            )
        raise ConfigError(
            f"the model of {self._run} was imported, and its weights do not tell the tokenizer of {name}: "
            f"write --tokenizer {name}=FOLDER (tokenizers.{name}=FOLDER), what `python -m pipeline "
            "import-tokenizer` wrote or a run of stage 1"
        )

    def reads(self, dataset: SampleSet, name: str) -> bool:
        """Whether a data set has tokens of a modality that are the model's."""
        if extra_name(name) not in dataset.extras:
            return False
        made_by = dataset.extra_manifest(extra_name(name))["info"]["tokenizer"]
        base = undated(name)[0]
        info = self.layout.token_info[base]
        folder = None if info["tokenizer"] else self._folder(base, info)
        return made_by == (fingerprint(folder) if folder else info["tokenizer"])

    def sources(self, names: tuple[str, ...]) -> list[int]:
        """Streams that modalities enter by: pixels where the model takes them, else tokens."""
        layout, found = self.layout, []
        known = [layout.streams[i].part for i in layout.inputs]
        for name in names:
            exact = _known(name, known, "source", "takes")
            found.append(next(i for i in layout.inputs if layout.streams[i].part == exact))
        return found

    def targets(self, names: tuple[str, ...]) -> dict[str, int]:
        """Token streams that modalities are generated in."""
        layout, found = self.layout, {}
        known = [layout.streams[i].part for i in layout.targets]
        for name in names:
            exact = _known(name, known, "target", "generates")
            found[exact] = next(i for i in layout.targets if layout.streams[i].part == exact)
        return found

    def learn_readouts(self, reader: SampleReader, names: Iterable[str], data: DataConfig) -> None:
        """Look through training samples for what codes of targets stand for: expected maps then err less.

        Done once per target: weights of the model have no part in it.
        """
        for name, stream in self.targets(tuple(names)).items():
            is_map = self.layout.streams[stream].kind == "map"
            if name not in self._readouts and is_map and self.reads(reader.dataset, name):
                view = self.layout.views.centre
                self._readouts[name] = Readout.of_training(reader, stream, view, data)

    def calibrate(self, found: Mapping[str, Calibration]) -> None:
        """Take what was learned of expected maps from one set of sources; maps from others want their own."""
        self._calibrations = dict(found)

    def values(self, name: str, drawn: Drawn, row: Modality) -> tuple[list[Value], list[Value]]:
        """One value per sample, and per-pixel spread over the draws (empty where there is one)."""
        decoder = self.decoder(name)
        if drawn.expected is not None:
            maps = [np.asarray(x) for x in decoder.expected(drawn.expected)]
            readout, calibration = self._readouts.get(name), self._calibrations.get(name)
            if readout is not None and not readout.is_empty:
                maps = [readout.mix(x, p) for x, p in zip(maps, drawn.expected, strict=True)]
            if calibration is not None:
                maps = [calibration(x) for x in maps]
            return list[Value](maps), []
        draws = [decoder(codes) for codes in drawn.draws]
        apart = spread(draws, row) if len(draws) > 1 and row.is_map else []
        return summarise(draws, row), apart


def sampling(config: GenerateConfig, trained: Trained) -> Sampling:
    """How a configuration draws."""
    by = {trained.sources((name,))[0]: weight for name, weight in config.guidance_by.items()}
    return Sampling(
        config.steps, config.temperature, config.seed, config.num_draws, config.schedule,
        config.shape, config.top_k, config.top_p, config.guidance, by,
    )  # fmt: skip


def _known(name: str, known: list[str], role: str, does: str) -> str:
    if name in known:
        return name
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise ConfigError(f"{role} {name}: the model {does} {', '.join(dict.fromkeys(known))}{hint}")
