"""Train a head, alone or with its backbone, with early stopping.

A loop of its own, beside the engine's: a fit lasts seconds to minutes, hundreds of them make one table, and
each ends when validation says so. The engine's unit is a run with commits, ranks and votes, whose number of
steps is known; a fit's is a line of results.jsonl, and one that was cut off is simply made again.

Shapes: B batch, K outputs, H W pixels.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from configs.schema import FitConfig, InputSet
from pipeline.engine.errors import RunError
from pipeline.transfer.backbone import Backbone
from pipeline.transfer.feed import Feed
from pipeline.transfer.metrics import MAIN, better, contributions, summarise
from pipeline.transfer.target import IGNORED
from pipeline.transfer.task import Task

_WARMUP = 0.1


@dataclass(frozen=True)
class Scale:
    """What regression targets are standardised with, from the training labels; of classes nothing."""

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, task: Task, places: np.ndarray) -> "Scale":
        if task.target.type != "regression":
            return cls()
        values = np.concatenate([task.labels["train"][p].ravel() for p in places])
        values = values[np.isfinite(values)]
        return cls(float(values.mean()), float(values.std()) or 1.0)


@dataclass
class Fitted:
    """How a fit went. `history` has a line per evaluation."""

    best_step: int = 0
    best: float | None = None
    steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def loss_of(task: str, outputs: Tensor, labels: Tensor, scale: Scale) -> Tensor:
    """The mean loss over what counts: cross-entropy, or squared error of standardised values."""
    if task == "multilabel":
        return F.binary_cross_entropy_with_logits(outputs, labels)
    if task == "regression":
        known = torch.isfinite(labels)
        goal = (labels - scale.mean) / scale.std
        error = torch.where(known, outputs - goal, 0.0)
        return error.square().sum() / known.sum().clamp(min=1)
    return F.cross_entropy(outputs, labels, ignore_index=IGNORED)


def fit(
    head: nn.Module,
    backbone: Backbone | None,
    feed: Feed,
    task: Task,
    given: InputSet,
    places: np.ndarray,
    val: np.ndarray,
    config: FitConfig,
    scale: Scale,
    seed: int,
) -> Fitted:
    """Train on `places` of the training split, leave the weights that were best on `val`.

    `backbone` is given where it learns too, once the head has learned something. Raises RunError for a loss
    that is not finite.
    """
    modules = nn.ModuleList([head, backbone] if backbone else [head])
    optimizer = torch.optim.AdamW(_groups(head, backbone, config))
    rates = [group["lr"] for group in optimizer.param_groups]
    frozen = min(config.freeze_steps, config.num_steps // 4) if backbone else 0
    later = [p for p in backbone.parameters() if p.requires_grad] if backbone else []
    rng, found = np.random.default_rng([seed, len(places)]), Fitted()
    state = _copy(modules)
    order = _order(places, config.batch, rng)
    for step in range(1, config.num_steps + 1):
        modules.train()
        if step <= frozen and backbone is not None:
            backbone.eval()
        if step in (1, frozen + 1):
            for parameter in later:
                parameter.requires_grad_(step > frozen)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * _share(step, config.num_steps, frozen if group["late"] else 0)
        shown = feed.show("train", next(order), given, rng)
        size = _size(shown.labels, task)
        loss = loss_of(task.target.type, head(shown.maps, size), shown.labels, scale)
        if not torch.isfinite(loss):
            raise RunError(
                f"{task.name}: the loss is {loss.item()} at step {step}; lower fit.lr or fit.head_lr"
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        found.steps = step
        if step % config.eval_every and step < config.num_steps:
            continue
        modules.eval()
        added = predict(head, feed, task, "val", val, given, config.batch, scale)
        value = summarise(task.target.type, added)[0][MAIN[task.target.type]]["value"]
        found.history.append({"step": step, "loss": float(loss.detach()), "val": value})
        if better(task.target.type, value, found.best):
            found.best, found.best_step, state = value, step, _copy(modules)
        # A head that is as good as it gets alone is no reason to stop before the backbone has learned.
        elif step - max(found.best_step, frozen) >= config.patience * config.eval_every:
            break
    modules.load_state_dict(state)
    modules.eval()
    return found


@torch.no_grad()
def predict(
    head: nn.Module,
    feed: Feed,
    task: Task,
    split: str,
    places: np.ndarray,
    given: InputSet,
    batch: int,
    scale: Scale,
) -> np.ndarray:
    """What the samples of a split contribute to the metrics: [N, C]."""
    parts = []
    for start in range(0, len(places), batch):
        shown = feed.show(split, places[start : start + batch], given)
        outputs = outputs_of(head, shown.maps, _size(shown.labels, task), task, scale)
        parts.append(contributions(task.target.type, outputs, shown.labels.cpu().numpy()))
    return np.concatenate(parts)


@torch.no_grad()
def outputs_of(
    head: nn.Module, maps: list[Tensor], size: tuple[int, int], task: Task, scale: Scale
) -> np.ndarray:
    """Logits, or values in the target's unit: [B, K] or [B, K, H, W]."""
    outputs = head(maps, size).float()
    if task.target.type == "regression":
        outputs = outputs * scale.std + scale.mean
    return outputs.cpu().numpy()


def _size(labels: Tensor, task: Task) -> tuple[int, int]:
    return (labels.shape[-2], labels.shape[-1]) if task.target.is_map else (1, 1)


def _groups(
    head: nn.Module, backbone: Backbone | None, config: FitConfig
) -> list[dict[str, object]]:
    """Parameters by rate and decay: layers far from the head learn slowly, vectors do not decay.

    `late` marks those of the backbone.
    """
    found: dict[tuple[float, float, bool], list[nn.Parameter]] = {}

    def add(parameter: nn.Parameter, rate: float, late: bool) -> None:
        if parameter.requires_grad:
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            found.setdefault((rate, decay, late), []).append(parameter)

    for parameter in head.parameters():
        add(parameter, config.head_lr, False)
    if backbone is not None:
        for name, parameter in backbone.named_parameters():
            away = backbone.depth + 1 - backbone.level(name)
            add(parameter, config.lr * config.layer_decay**away, True)
    return [
        {"params": p, "lr": lr, "weight_decay": wd, "late": late}
        for (lr, wd, late), p in found.items()
    ]


def _order(places: np.ndarray, batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Batches for ever, in a new order each time all were seen; a rest that is too small is left out."""
    batch = min(batch, len(places))
    while True:
        mixed = rng.permutation(places)
        for start in range(0, len(mixed) - batch + 1, batch):
            yield mixed[start : start + batch]


def _share(step: int, num_steps: int, frozen: int = 0) -> float:
    """Of the full rate: warm-up, then a cosine; what was frozen joins it with a warm-up of its own."""
    warmup = max(1, round(_WARMUP * num_steps))
    joined = min(1.0, max(0, step - frozen) / warmup)
    return (
        joined * 0.5 * (1 + math.cos(math.pi * max(0, step - warmup) / max(1, num_steps - warmup)))
    )


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
