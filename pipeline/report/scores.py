"""Rows of the score table: generated maps beside a trivial guess and beside the tokens' ceiling."""

from dataclasses import dataclass

import numpy as np

from configs.schema import Modality
from pipeline.data.transforms import measured_pixels
from pipeline.report import numbers
from pipeline.report.collect import Found
from pipeline.report.files import Record


@dataclass(frozen=True)
class ScoreRow:
    """One target and metric of one task.

    `climatology` is what place and season usually look like, NaN where that was not scored; `tokens` the
    truth after a trip through its own tokens.
    """

    source: str
    target: str
    metric: str
    unit: str
    model: float
    baseline: float
    baseline_name: str
    tokens: float
    num_samples: int
    climatology: float = float("nan")

    @property
    def higher_is_better(self) -> bool:
        return self.metric in numbers.SHARES

    @property
    def better(self) -> bool:
        """Better than the baseline; a score that is not a number is not."""
        if self.higher_is_better:
            return self.model > self.baseline
        return self.model < self.baseline

    @property
    def verdict(self) -> str:
        """`better, −41 % error` or `not better, −3.2 points`."""
        word = "better" if self.better else "not better"
        if self.higher_is_better:
            points = 100 * (self.model - self.baseline)
            return (
                f"{word}, {numbers.signed(points, '+.1f')} points" if np.isfinite(points) else word
            )
        change = self.model / self.baseline - 1 if self.baseline else float("nan")
        return (
            f"{word}, {numbers.signed(100 * change, '+.0f')} % error"
            if np.isfinite(change)
            else word
        )

    @property
    def way(self) -> float | None:
        """Share of the way from the baseline to the tokens' ceiling; None where there is no way."""
        room = self.tokens - self.baseline
        if not np.isfinite(room) or (room > 0) != self.higher_is_better or room == 0:
            return None
        way = (self.model - self.baseline) / room
        return float(way) if np.isfinite(way) else None


def score_rows(found: Found) -> list[ScoreRow]:
    """All scores of all finished tasks."""
    rows = []
    for task in found.generations:
        for target, metrics in (task.scores.get("scores") or {}).items():
            row = found.modality(target)
            rows += [
                ScoreRow(
                    source=" + ".join(task.source),
                    target=target,
                    metric=metric,
                    unit=numbers.unit(row.unit) if row and metric not in numbers.SHARES else "",
                    model=_value(ways, "model"),
                    baseline=_value(ways, "baseline"),
                    baseline_name=str((task.scores.get("baselines") or {}).get(target, "baseline")),
                    tokens=_value(ways, "tokens"),
                    num_samples=int(task.scores.get("num_samples") or 0),
                    climatology=_value(ways, "climatology"),
                )
                for metric, ways in metrics.items()
            ]
    return rows


def picture_score(guess: np.ndarray, truth: np.ndarray, row: Modality) -> str:
    """How close one map [C, H, W] is to its truth, over pixels that carry a measurement."""
    valid = measured_pixels(truth, row)
    if not valid.any():
        return "no valid pixel"
    if row.kind == "classes":
        return f"{100 * float((guess == truth)[:, valid].mean()):.0f} % right"
    error = guess[:, valid].astype(np.float64) - truth[:, valid]
    rmse = float(np.sqrt((error**2).mean()))
    return f"RMSE {numbers.number(rmse)} {numbers.short_unit(row.unit)}".strip()


def _value(ways: Record, name: str) -> float:
    value = ways.get(name)
    return float(value) if isinstance(value, int | float) else float("nan")
