"""Numbers as people read them."""

import math

SHARES = {"accuracy", "miou", "codes_used"}
METRIC_TITLES = {"rmse": "RMSE", "mae": "MAE", "accuracy": "accuracy", "miou": "mIoU"}


def number(value: object, digits: int = 3) -> str:
    """Significant digits without exponents where they fit a cell; `n/a` for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "n/a"
    if isinstance(value, int) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.{digits - 1}e}"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    zeros = 0 if whole or value == 0 else -math.floor(math.log10(abs(value))) - 1
    return f"{value:.{max(0, digits - whole + zeros)}f}"


def percent(share: object) -> str:
    """0.4213 -> `42.1 %`."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share):
        return "n/a"
    return f"{100 * share:.1f} %"


def score(metric: str, value: object) -> str:
    """A score without its unit: shares in per cent, errors as numbers."""
    return percent(value) if metric in SHARES else number(value)


def unit(text: str) -> str:
    """The registry's unit as it is printed behind a number; the pure number's is empty."""
    return "" if text in ("1", "class") else text


def with_unit(value: object, name: str) -> str:
    """A number and its unit."""
    return f"{number(value)} {unit(name)}".strip()


def counted(count: int, noun: str) -> str:
    """`1 sample`, `2 samples`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
