"""All cells of one task with one backbone: fits, tests, lines of the record."""

import json
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from configs import ConfigError
from configs.schema import InputSet, TransferConfig
from pipeline.engine.metrics import say
from pipeline.evaluate.probes import neighbour_shares, standardise
from pipeline.transfer.backbone import Backbone
from pipeline.transfer.conditions import test_sets, train_sets
from pipeline.transfer.done import has_model, model_folder
from pipeline.transfer.feed import FrozenFeed, LiveFeed
from pipeline.transfer.fit import Fitted, Scale, fit, predict
from pipeline.transfer.heads import layers_for, make_head
from pipeline.transfer.metrics import MAIN, contributions, summarise
from pipeline.transfer.opening import open_backbone
from pipeline.transfer.record import (
    Cell,
    Line,
    append_results,
    cell_digest,
    cells,
    read_results,
)
from pipeline.transfer.saved import save_model
from pipeline.transfer.sheets import write_sheet
from pipeline.transfer.subsets import fraction, shots
from pipeline.transfer.task import LabelledSamples, Task


@dataclass(frozen=True)
class _Trained:
    """What a cell's fit left: a head (and its backbone) with the feed that shows it samples."""

    head: nn.Module
    backbone: Backbone
    feed: FrozenFeed | LiveFeed
    scale: Scale
    fitted: Fitted


class Bench:
    """All cells of one task."""

    def __init__(
        self, config: TransferConfig, source: LabelledSamples, device: torch.device, digest: str
    ):
        self._config, self._source, self._device, self._digest = config, source, device, digest
        self._offered = source.offered() if config.backbone.startswith("timm:") else {}
        self._backbone = self._open(config.seeds[0])
        self._task = Task(source, self._backbone, config.cache_gb / 2)
        have = self._task.bands
        self._backbone.expect(list(have), config.merge)
        self._train_sets, self._test_sets = train_sets(config, have), test_sets(config, have)
        self._name = f"transfer {source.name}"
        self._frozen: tuple[int, FrozenFeed] | None = None
        if "knn" in config.protocols and self._task.target.is_map:
            say(f"{self._name}: kNN tells classes of samples, no maps: left out")

    def run(self) -> list[str]:
        """Make what is not there yet; the digests of all cells of this configuration."""
        done = {line["cell"] for line in read_results(self._config.out)}
        found = []
        for cell in cells(self._config, self._source.name, list(self._train_sets)):
            if cell.protocol == "knn" and self._task.target.is_map:
                continue
            digest = cell_digest(
                cell, self._config, self._digest, self._source.fingerprint, self._test_sets
            )
            found.append(digest)
            if digest in done and self._kept(cell, digest):
                say(f"{self._name}: {cell.name} already done")
                continue
            self._make(cell, digest)
        return found

    def _kept(self, cell: Cell, digest: str) -> bool:
        """Whether the cell's model is there, where it has one and it was asked for."""
        if not self._config.keep_models or cell.protocol == "knn":
            return True
        return has_model(self._config.out, cell.name, digest)

    def _make(self, cell: Cell, digest: str) -> None:
        started = time.perf_counter()
        given = self._train_sets[cell.train_on]
        places = np.intersect1d(self._subset(cell), self._task.with_input("train", given))
        val = self._task.with_input("val", given)
        if not len(places) or not len(val):
            raise ConfigError(
                f"tasks.{cell.task}: {len(places)} training and {len(val)} validation samples have any of "
                f"what train_on.{cell.train_on} gives; give more, or more labels"
            )
        if cell.protocol == "knn":
            trained, outputs = None, self._neighbours(cell, given, places)
            added = {n: contributions(self._task.target.type, *both) for n, both in outputs.items()}
        else:
            trained = self._fit(cell, given, places, val)
            added = {n: self._test(trained, test) for n, test in self._test_sets.items()}
        seconds = time.perf_counter() - started
        lines = [
            self._line(cell, digest, name, found, len(places), trained, seconds)
            for name, found in added.items()
            if len(found)
        ]
        if trained is not None:
            self._keep(cell, digest, given, trained)
        append_results(self._config.out, lines)
        main = MAIN[self._task.target.type]
        told = f"{main} {lines[0]['metrics'][main]['value']:.4f}" if lines else "no test sample"
        say(f"{self._name}: {cell.name}: {told} ({seconds:.0f} s)")

    def _subset(self, cell: Cell) -> np.ndarray:
        strata = self._task.strata()
        if cell.shots is not None:
            return shots(strata, cell.shots, cell.seed)
        assert cell.share is not None
        if cell.share == 1:
            return np.arange(len(strata))
        published = self._source.samples.subset(cell.share)
        if published is not None:
            return np.flatnonzero(np.isin(self._source.indices["train"], published))
        return fraction(strata, cell.share, cell.seed)

    def _fit(
        self, cell: Cell, given: InputSet, places: np.ndarray, val: np.ndarray
    ) -> _Trained:  # fmt: skip
        task, config, tuned = self._task, self._config, cell.protocol == "finetune"
        backbone = self._ready(cell.seed) if tuned else self._twin(cell.seed)
        head = self._head(backbone, cell.seed)
        layers = layers_for(task.config.head, backbone.depth)
        if tuned:
            feed = LiveFeed(
                task, backbone, layers, self._device,
                modality_dropout=config.fit.modality_dropout, augment=config.fit.augment,
            )  # fmt: skip
        else:
            feed = self._features(cell.seed)
            feed.keep("train", given, task.with_input("train", given))
            feed.keep("val", given, val)
        scale = Scale.of(task, places)
        learns = backbone if tuned else None
        fitted = fit(
            head, learns, feed, task, given, places, val, config.fit, scale, cell.seed
        )  # fmt: skip
        return _Trained(head, backbone, feed, scale, fitted)

    def _test(self, trained: _Trained, given: InputSet) -> np.ndarray:
        """Contributions of the test samples that have any of what is given."""
        places = self._task.with_input("test", given)
        if not len(places):
            return np.empty((0, 1))
        if isinstance(trained.feed, FrozenFeed):
            trained.feed.keep("test", given, places)
        return predict(
            trained.head, trained.feed, self._task, "test", places, given, self._config.fit.batch,
            trained.scale,
        )  # fmt: skip

    def _neighbours(
        self, cell: Cell, given: InputSet, places: np.ndarray
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Shares of the nearest training samples, and the truth, per set of test inputs."""
        task, feed = self._task, self._features(cell.seed)
        feed.keep("train", given, task.with_input("train", given))
        classes, found = task.label_batch("train", places), {}
        if task.target.type == "classification":
            classes = nn.functional.one_hot(classes, task.target.num_outputs)
        for name, test in self._test_sets.items():
            asked = task.with_input("test", test)
            if not len(asked):
                continue
            feed.keep("test", test, asked)
            known, shown = standardise(
                feed.vectors("train", given, places).cpu(), feed.vectors("test", test, asked).cpu()
            )
            # Rounded: shares that are equal but for the order of a sum are one score to mAP.
            votes = neighbour_shares(known, classes, shown, self._config.neighbours).float()
            if task.target.type == "multilabel":
                # As a logit does, 0 parts what a sample has from what it has not.
                votes = votes - 0.5
            found[name] = votes.numpy(), task.label_batch("test", asked).numpy()
        return found

    def _line(
        self,
        cell: Cell,
        digest: str,
        test_on: str,
        added: np.ndarray,
        num_train: int,
        trained: _Trained | None,
        seconds: float,
    ) -> Line:
        metrics, confusion = summarise(
            self._task.target.type, added, self._config.bootstrap, cell.seed
        )
        line: dict[str, Any] = {
            "cell": digest, "name": cell.name, "task": cell.task, "type": self._task.target.type,
            "backbone": self._config.backbone, "kind": self._backbone.kind,
            "init": self._config.init, "merge": self._config.merge,
            "protocol": cell.protocol, "head": self._task.config.head,
            "train_on": cell.train_on, "test_on": test_on, "labels": cell.labels,
            "share": cell.share, "shots": cell.shots, "seed": cell.seed,
            "num_train": num_train, "num_test": len(added),
            "metrics": {n: {k: _finite(v) for k, v in s.items()} for n, s in metrics.items()},
            "seconds": round(seconds, 2),
        }  # fmt: skip
        if trained is not None:
            fitted = trained.fitted
            line |= {"best_step": fitted.best_step, "steps": fitted.steps}
            line["history"] = [{k: _finite(v) for k, v in h.items()} for h in fitted.history]
        if confusion is not None:
            line["confusion"] = confusion.astype(np.int64).tolist()
            line["classes"] = list(self._task.target.names)
        if self._task.target.is_map:
            line["label"] = json.loads(self._task.target.row.model_dump_json())
        return line

    def _keep(self, cell: Cell, digest: str, given: InputSet, trained: _Trained) -> None:
        """A sheet of the first seed, and the model where asked for."""
        if cell.seed == self._config.seeds[0] and self._task.target.is_map:
            path = self._config.out / "sheets" / f"{cell.name}.npz"
            write_sheet(path, self._task, trained.head, trained.feed, given, trained.scale)
        if self._config.keep_models:
            save_model(
                model_folder(self._config.out, cell.name), self._config, cell, digest, self._task,
                trained.head, trained.backbone, trained.scale, given,
            )  # fmt: skip

    def _open(self, seed: int) -> Backbone:
        fresh = seed if self._config.init == "random" else None
        return open_backbone(self._config.backbone, self._offered, self._device, fresh).eval()

    def _ready(self, seed: int) -> Backbone:
        backbone = self._open(seed)
        backbone.expect(self._task.modalities, self._config.merge)
        return backbone

    def _twin(self, seed: int) -> Backbone:
        """The frozen backbone of a seed: one for all, but for random twins."""
        return self._features(seed).backbone

    def _features(self, seed: int) -> FrozenFeed:
        key = seed if self._config.init == "random" else 0
        if self._frozen is None or self._frozen[0] != key:
            # Cells come seed by seed: the features of an earlier twin are not asked for again.
            self._frozen = None
            known = self._config.init == "pretrained" or seed == self._config.seeds[0]
            backbone = self._backbone if known else self._ready(seed)
            backbone.requires_grad_(False)
            feed = FrozenFeed(
                self._task, backbone, layers_for(self._task.config.head, backbone.depth),
                self._device, pooled=not self._task.target.is_map, batch=self._config.fit.batch,
                limit_gb=self._config.cache_gb / 2,
            )  # fmt: skip
            self._frozen = key, feed
        return self._frozen[1]

    def _head(self, backbone: Backbone, seed: int) -> nn.Module:
        target = self._task.target
        doublings = 0
        if target.is_map:
            side = min(self._task.labels["train"][0].shape[-2:])
            grid = min(
                h // i.patch_px
                for i, (h, _) in (
                    (a.intake, a.size(self._task.window_m)) for a in self._task.adapters.values()
                )
            )
            doublings = max(0, round(math.log2(side / max(grid, 1))))
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            head = make_head(
                self._task.config.head, is_map=target.is_map, width=backbone.width,
                num_outputs=target.num_outputs, num_doublings=doublings,
            )  # fmt: skip
        return head.to(self._device)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
