"""Scores of classes and codes from counts that add up over batches and ranks.

Images have theirs in `image_scores`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def confusion_matrix(predicted: Tensor, truth: Tensor, valid: Tensor, num_classes: int) -> Tensor:
    """Counts [K, K] int64 of pixels by true class (row) and predicted class (column).

    Class maps [B, C, H, W], of which all C count alike; valid [B, H, W].
    """
    where = valid[:, None].expand_as(truth)
    pairs = truth[where].long() * num_classes + predicted[where].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def miou(confusion: Tensor, ignore: int | None = None) -> float:
    """Mean intersection over union over the classes that occur in the truth.

    `confusion[t, p]` counts pixels of true class t predicted as p. A class that is absent from the
    truth is left out of the mean; its false positives still count against the others' union.
    """
    confusion = confusion.double()
    hits = confusion.diag()
    truth, predicted = confusion.sum(1), confusion.sum(0)
    present = truth > 0
    if ignore is not None:
        present[ignore] = False
    iou = hits / (truth + predicted - hits).clamp(min=1)
    return float(iou[present].mean()) if present.any() else float("nan")


def class_scores(
    confusion: Tensor, names: Mapping[int, str], ignore: int | None = None
) -> dict[str, float]:
    """Accuracy, mIoU and mean F1, and per class as `iou/water`, `f1/water`.

    `names` gives the class of each value; the classes that occur in the truth are listed and averaged.
    F1 is twice the hits over the sum of true and predicted pixels (the Dice coefficient).
    """
    scores = {"accuracy": accuracy(confusion), "miou": miou(confusion, ignore)}
    confusion = confusion.double()
    hits, truth, predicted = confusion.diag(), confusion.sum(1), confusion.sum(0)
    found = {name: v for v, name in names.items() if v != ignore and truth[v] > 0}
    iou = hits / (truth + predicted - hits)
    f1 = 2 * hits / (truth + predicted)
    scores["f1"] = float(f1[list(found.values())].mean()) if found else float("nan")
    scores |= {f"iou/{name}": float(iou[v]) for name, v in found.items()}
    return scores | {f"f1/{name}": float(f1[v]) for name, v in found.items()}


def accuracy(confusion: Tensor) -> float:
    """Share of pixels whose class is right."""
    total = confusion.sum()
    return float(confusion.diag().sum() / total) if total else float("nan")


def code_usage(counts: Tensor) -> dict[str, float]:
    """Share of codes that occur, and perplexity: how many equally likely codes would be as varied."""
    total = counts.sum()
    if not total:
        return {"codes_used": 0.0, "perplexity": 0.0}
    p = counts.double() / total
    entropy = -(p[p > 0] * p[p > 0].log()).sum()
    return {
        "codes_used": float((counts > 0).double().mean()),
        "perplexity": float(entropy.exp()),
    }
