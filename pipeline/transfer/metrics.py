"""Metrics of a test split with 95 % confidence intervals, from what each sample contributes.

Samples, not pixels, are resampled: pixels of one image are no independent observations (Efron 1979; the
percentile interval). A resampling is how often each sample was drawn, [R, N]: sums over samples are one
product with it.

Shapes: N samples, R resamplings, K classes, C values per sample.
"""

import math
from collections.abc import Callable

import numpy as np

Values = dict[str, np.ndarray]
Score = dict[str, float]

HIGHER_IS_BETTER = {"accuracy", "f1", "miou", "map", "r2", "f1_micro"}
MAIN = {
    "classification": "accuracy",
    "multilabel": "map",
    "segmentation": "miou",
    "regression": "rmse",
}


def confusions(predicted: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts int64 [N, K, K] by true class (row) and predicted class (column) of each sample.

    Classes [N, ...]; a truth below 0 counts nowhere.
    """
    n = len(truth)
    truth, predicted = truth.reshape(n, -1), predicted.reshape(n, -1)
    known = truth >= 0
    sample = np.broadcast_to(np.arange(n)[:, None], truth.shape)
    flat = (sample * num_classes + truth) * num_classes + predicted
    counts = np.bincount(flat[known], minlength=n * num_classes**2)
    return counts.reshape(n, num_classes, num_classes)


def class_values(confusion: np.ndarray) -> Values:
    """accuracy, mIoU and macro F1 of [..., K, K], each [...].

    mIoU and F1 are means over the classes that the truth has (as in `pipeline.layers.scores`).
    """
    confusion = confusion.astype(np.float64)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    truth, predicted = confusion.sum(-1), confusion.sum(-2)
    there = truth > 0
    count = np.maximum(there.sum(-1), 1)
    iou = hits / np.maximum(truth + predicted - hits, 1)
    f1 = 2 * hits / np.maximum(truth + predicted, 1)
    total = np.maximum(truth.sum(-1), 1)
    return {
        "accuracy": hits.sum(-1) / total,
        "f1": (f1 * there).sum(-1) / count,
        "miou": (iou * there).sum(-1) / count,
    }


def regression_sums(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What each sample contributes, float64 [N, 5]: pixels, truth, its square, squared and absolute error.

    Values [N, ...]; where the truth is NaN nothing counts.
    """
    n = len(truth)
    y = truth.reshape(n, -1).astype(np.float64)
    known = np.isfinite(y)
    error = np.where(known, predicted.reshape(n, -1).astype(np.float64) - y, 0.0)
    y = np.where(known, y, 0.0)
    parts = (known, y, y**2, error**2, np.abs(error))
    return np.stack([part.sum(1).astype(np.float64) for part in parts], 1)


def regression_values(sums: np.ndarray) -> Values:
    """rmse, mae and r2 of [..., 5]."""
    count, y, y2, square, absolute = np.moveaxis(sums, -1, 0)
    count = np.maximum(count, 1)
    spread = np.maximum(y2 - y**2 / count, 1e-12)
    return {
        "rmse": np.sqrt(square / count),
        "mae": absolute / count,
        "r2": 1 - square / spread,
    }


def average_precision(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The area under precision and recall, step by step, of one class: [R].

    Scores [N], truth bool [N], weights [R, N] how often each sample counts. NaN without a positive.
    """
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # Samples of one score enter together.
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    weights = weights[:, order].astype(np.float64)
    hits = (weights * truth[order]).cumsum(1)[:, last]
    seen = weights.cumsum(1)[:, last]
    precision = hits / np.maximum(seen, 1)
    gained = np.diff(hits, axis=1, prepend=0.0)
    total = hits[:, -1]
    area = (gained * precision).sum(1) / np.maximum(total, 1)
    return np.where(total > 0, area, np.nan)


def multilabel_values(scores: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Values:
    """Macro mAP, and macro and micro F1 of scores above 0: scores and truth [N, K], weights [R, N]."""
    truth = truth > 0.5
    precision = [
        average_precision(scores[:, k], truth[:, k], weights) for k in range(truth.shape[1])
    ]
    guess = scores > 0
    hits = weights @ (guess & truth)
    both = weights @ guess + weights @ truth
    there = weights @ truth > 0
    f1 = 2 * hits / np.maximum(both, 1)
    with np.errstate(invalid="ignore"):
        stacked = np.stack(precision)
        known = np.isfinite(stacked)
        mean = np.where(known, stacked, 0).sum(0) / np.maximum(known.sum(0), 1)
    return {
        "map": mean,
        "f1": (f1 * there).sum(1) / np.maximum(there.sum(1), 1),
        "f1_micro": 2 * hits.sum(1) / np.maximum(both.sum(1), 1),
    }


def with_intervals(
    values: Callable[[np.ndarray], Values], num_samples: int, resamplings: int, seed: int
) -> dict[str, Score]:
    """{metric: {value, low, high}}; `values` makes metrics [R] from draws [R, N]."""
    exact = values(np.ones((1, num_samples)))
    found = {name: {"value": float(v[0])} for name, v in exact.items()}
    if resamplings and num_samples > 1:
        rng = np.random.default_rng([seed, num_samples])
        draws = rng.multinomial(num_samples, [1 / num_samples] * num_samples, size=resamplings)
        for name, drawn in values(draws.astype(np.float64)).items():
            low, high = np.nanpercentile(drawn, (2.5, 97.5))
            found[name] |= {"low": float(low), "high": float(high)}
    return found


def contributions(task: str, outputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """What a batch of samples adds to the metrics of a task: [N, C], to be put one after the other.

    `outputs` are logits [N, K] or [N, K, H, W], of regression values [N, 1, H, W]; `truth` are labels as
    `pipeline.transfer.target` has them.
    """
    if task == "multilabel":
        return np.concatenate([outputs, truth], 1).astype(np.float64)
    if task == "regression":
        return regression_sums(outputs, truth)
    return confusions(outputs.argmax(1), truth, outputs.shape[1]).reshape(len(truth), -1)


def summarise(
    task: str, added: np.ndarray, resamplings: int = 0, seed: int = 0
) -> tuple[dict[str, Score], np.ndarray | None]:
    """Metrics of all contributions [N, C], and the confusion matrix [K, K] of classes."""

    def values(weights: np.ndarray) -> Values:
        if task == "multilabel":
            scores, truth = np.split(added, 2, axis=1)
            return multilabel_values(scores, truth, weights)
        if task == "regression":
            return regression_values(weights @ added)
        return class_values((weights @ added).reshape(-1, k, k))

    k = math.isqrt(added.shape[1])
    found = with_intervals(values, len(added), resamplings, seed)
    has_matrix = task in ("classification", "segmentation")
    return found, added.sum(0).reshape(k, k) if has_matrix else None


def better(task: str, new: float, old: float | None) -> bool:
    """Whether a value of the task's main metric is better than another; NaN never is."""
    if old is None or not np.isfinite(old):
        return bool(np.isfinite(new))
    return new > old if MAIN[task] in HIGHER_IS_BETTER else new < old
