"""Scores from sums that add up over batches and ranks: errors, accuracy, mIoU, code usage."""

from torch import Tensor


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
