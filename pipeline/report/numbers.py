"""Numbers as people read them."""

import math
from typing import TypeGuard

SHARES = {"accuracy", "miou", "codes_used"}
_SHORT_UNIT = 3
METRIC_TITLES = {
    "rmse": "RMSE", "mae": "MAE", "psnr": "PSNR, dB", "ssim": "SSIM", "angle_deg": "Angle, °",
    "accuracy": "accuracy", "miou": "mIoU",
}  # fmt: skip
HIGHER_IS_BETTER = {"psnr", "ssim", "accuracy", "miou"}


def number(value: object, digits: int = 3) -> str:
    """Significant digits without exponents where they fit a cell; `n/a` for what is no number."""
    if not _is_number(value):
        return "n/a"
    size = abs(value)
    if isinstance(value, int) or value == 0 or size >= 10**digits:
        return signed(value, ",.0f")
    if size < 1e-3:
        return signed(value, f".{digits - 1}e")
    return signed(value, f".{max(0, digits - 1 - math.floor(math.log10(size)))}f")


def signed(value: float, form: str = "g") -> str:
    """A number in a Python format, with a minus sign as it is printed."""
    return format(value, form).replace("-", "−")


def percent(share: object) -> str:
    """0.4213 -> `42.1 %`."""
    return f"{signed(100 * share, '.1f')} %" if _is_number(share) else "n/a"


def score(metric: str, value: object) -> str:
    """A score without its unit: shares in per cent, errors as numbers."""
    return percent(value) if metric in SHARES else number(value)


def unit(text: str) -> str:
    """The registry's unit as it is printed behind a number; the pure number's is empty."""
    return "" if text in ("1", "class") else text


def with_unit(value: object, name: str) -> str:
    """A number and its unit."""
    return f"{number(value)} {unit(name)}".strip()


def short_unit(text: str) -> str:
    """The unit where there is little room: one that is a phrase is left out."""
    return unit(text) if len(text) <= _SHORT_UNIT else ""


def counted(count: int, noun: str) -> str:
    """`1 sample`, `2 samples`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _is_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)
