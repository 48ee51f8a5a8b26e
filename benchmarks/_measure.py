"""Time contenders fairly: a process of its own for each library, in turn, round after round."""

import functools
import importlib
import multiprocessing
import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks._workload import Batch, Workload

# Short readings repeat whole passes over the samples until this much time is over.
_MIN_S = 1.0
_WARM_SAMPLES = 16


@dataclass(frozen=True)
class Contender:
    """One way to do a section's work.

    `run` names a function of a module in this folder, `module.function`; `arguments` come before the
    workload. It is found in the process where it runs, so that no process imports what others need.
    `share` of the samples is enough for a slow one. Of several limits the fastest counts.
    """

    name: str
    host: str
    role: Literal["ours", "peer", "limit", "info"]
    run: str
    arguments: tuple[Any, ...] = ()
    dataset: str = ""
    share: float = 1.0


@dataclass(frozen=True)
class Run:
    """One timed run."""

    num_samples: int
    seconds: float
    cpu_s: float


@dataclass
class Result:
    """All runs of one contender."""

    contender: Contender
    runs: list[Run] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Samples per second of each round."""
        return [run.num_samples / run.seconds for run in self.runs]

    @property
    def rate(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rates)

    @property
    def cpu_ms(self) -> float:
        """Median CPU milliseconds a sample, all threads."""
        return statistics.median(run.cpu_s / run.num_samples for run in self.runs) * 1e3


class Hosts:
    """One process for each library and one for us, started when first needed."""

    def __init__(self) -> None:
        self._pools: dict[str, ProcessPoolExecutor] = {}

    def call(self, host: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function of this module in the host's process."""
        if host not in self._pools:
            context = multiprocessing.get_context("spawn")
            self._pools[host] = ProcessPoolExecutor(1, context, initializer=_quieten)
        return self._pools[host].submit(function, *arguments).result()

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown()


def import_package(name: str) -> None:
    """In a host: raises what importing the package raises."""
    importlib.import_module(name)


def make(contender: Contender, workload: Workload, out: Path) -> None:
    """Write a contender's data set, untimed, for those who read it."""
    out.mkdir(parents=True)
    _function(contender)(workload, out)


def warm_write(contender: Contender, workload: Workload, out: Path) -> None:
    """A few samples, untimed: imports and first touches are over before the clock starts."""
    few = Workload(workload.folder, min(_WARM_SAMPLES, workload.num_samples), workload.num_distinct)
    time_write(contender, few, out)
    _touch(workload)


def time_write(contender: Contender, workload: Workload, out: Path) -> Run:
    """Write into an empty folder on a disk that is at rest, and remove it."""
    out.mkdir(parents=True)
    touch_memory(workload.num_samples * workload.sample_bytes)
    os.sync()
    run = _Clock()
    _function(contender)(workload, out)
    result = run.stop(workload.num_samples)
    shutil.rmtree(out)
    return result


def touch_memory(num_bytes: int) -> None:
    """Use that much memory and give it back.

    A virtual machine may hand free memory back to its host, and take longer to get it again than
    the disk takes to write it.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    pages = np.empty(min(num_bytes, free // 2), np.uint8)
    pages[:: os.sysconf("SC_PAGE_SIZE")] = 1


def time_build(contender: Contender, workload: Workload, out: Path) -> Run:
    """Run a build in processes of its own; it returns its samples and what its own clock says."""
    out.mkdir(parents=True)
    os.sync()
    run = _Clock()
    num_samples, seconds = _function(contender)(out)
    result = Run(num_samples, seconds, run.stop(num_samples).cpu_s)
    shutil.rmtree(out)
    return result


def warm_read(
    contender: Contender, workload: Workload, folder: Path, names: tuple[str, ...]
) -> None:
    """One pass, untimed, in which every array is compared with what was written."""
    batch = _batch(workload, names)
    seen: list[int] = []
    for numbers in _function(contender)(workload, folder, batch):
        for b, number in enumerate(numbers):
            expected = workload.arrays(number)
            for name, rows in batch.arrays.items():
                # As bytes, because some pixels are NaN.
                if not np.array_equal(rows[b].view(np.uint8), expected[name].view(np.uint8)):
                    raise RuntimeError(f"{contender.name}: sample {number}, {name} differs")
        seen += numbers
    if sorted(seen) != list(range(workload.num_samples)):
        raise RuntimeError(f"{contender.name}: read {len(seen)} of {workload.num_samples} samples")


def time_read(
    contender: Contender, workload: Workload, folder: Path, names: tuple[str, ...]
) -> Run:
    """Fill the batch with every sample, again and again for a second."""
    batch = _batch(workload, names)
    function = _function(contender)
    num_samples = 0
    run = _Clock()
    while run.elapsed_s < _MIN_S:
        for numbers in function(workload, folder, batch):
            num_samples += len(numbers)
    return run.stop(num_samples)


class _Clock:
    """Wall and CPU seconds from now on, threads and finished children included."""

    def __init__(self) -> None:
        self._cpu_s, self._wall_s = _cpu_s(), time.perf_counter()

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._wall_s

    def stop(self, num_samples: int) -> Run:
        return Run(num_samples, self.elapsed_s, _cpu_s() - self._cpu_s)


def _cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _function(contender: Contender) -> Callable[..., Any]:
    module, _, name = contender.run.partition(".")
    function = getattr(importlib.import_module(f"benchmarks.{module}"), name)
    return functools.partial(function, *contender.arguments)


@functools.cache
def _batch(workload: Workload, names: tuple[str, ...]) -> Batch:
    return Batch(workload, names)


def _touch(workload: Workload) -> None:
    for i in range(workload.num_distinct):
        for array in workload.arrays(i).values():
            array.max()


def _quieten() -> None:
    # Libraries print what they do; our own standard output may be read by a program.
    os.dup2(2, 1)
