"""What this machine can multiply, and how long things take on it."""

import statistics
import time
from collections.abc import Callable

import torch

Shape = tuple[int, int, int]
# Tells the faster type: where bf16 is emulated, large products would take minutes.
_SMALL: Shape = (512, 512, 512)


def synchronise(device: torch.device) -> None:
    """Wait for what was asked of a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(action: Callable[[], object], device: torch.device, rounds: int) -> float:
    """The median time of an action, after one to warm up."""
    times = []
    for number in range(rounds + 1):
        began = time.perf_counter()
        action()
        synchronise(device)
        if number:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def product_limit(
    precision: str, device: torch.device, shapes: tuple[Shape, ...], rounds: int = 5
) -> float:
    """Operations per second of the fastest of a few matrix products, each (rows, inner, columns)."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    best = 0.0
    for m, k, n in shapes:
        a, b = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
        a, b = a.to(dtype), b.to(dtype)
        best = max(best, 2 * m * k * n / seconds(lambda a=a, b=b: a @ b, device, rounds))
    return best


def faster_type(device: torch.device) -> str:
    """bf16 where the machine multiplies that faster than fp32."""
    in_bf16, in_fp32 = (product_limit(p, device, (_SMALL,)) for p in ("bf16", "fp32"))
    return "bf16" if in_bf16 > in_fp32 else "fp32"
