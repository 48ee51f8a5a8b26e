"""How far a build is, on stderr: a bar on a terminal, else a plain line every few seconds."""

import sys
import time
from types import TracebackType
from typing import Any

_EVERY_S = 5.0


class Progress:
    """Counts samples and bytes against what is to be done; rates are of this run only."""

    def __init__(self, num_samples: int, *, quiet: bool = False) -> None:
        self._total = num_samples
        self._done = 0
        self._bytes = 0
        self._start_s = self._shown_s = time.monotonic()
        self._quiet = quiet
        self._bar: Any = None
        if sys.stderr.isatty() and not quiet:
            self._bar, self._task = _rich_bar(num_samples)
            self._bar.start()

    def advance(self, num_samples: int, num_bytes: int) -> None:
        """Count finished samples and the bytes they take in their shards."""
        self._done += num_samples
        self._bytes += num_bytes
        if self._bar:
            self._bar.update(self._task, advance=num_samples, rates=self.rates())
        elif not self._quiet and time.monotonic() - self._shown_s >= _EVERY_S:
            self._shown_s = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)  # noqa: T201

    def line(self) -> str:
        """`shards: 120/512 samples, 85.1 samples/s, 24.0 MB/s, 5 s left`."""
        return f"shards: {self._done}/{self._total} samples, {self.rates()}"

    def rates(self) -> str:
        elapsed_s = max(time.monotonic() - self._start_s, 1e-9)
        rate = self._done / elapsed_s
        left = f"{(self._total - self._done) / rate:.0f} s left" if rate else "time left unknown"
        return f"{rate:.1f} samples/s, {self._bytes / elapsed_s / 1e6:.1f} MB/s, {left}"

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()


def _rich_bar(num_samples: int) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("shards"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("samples, {task.fields[rates]}"),
        console=Console(stderr=True),
    )
    return bar, bar.add_task("shards", total=num_samples, rates="")
