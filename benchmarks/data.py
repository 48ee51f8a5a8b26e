"""Our shards against webdataset, MDS, litdata, energon and TerraMesh's zarr, all in one run.

    python benchmarks/data.py                            every section, as tables
    python benchmarks/data.py --check                    exit status 1 when a bar is missed
    python benchmarks/data.py --only write,two           sections whose names start with these
    python benchmarks/data.py --json -                   for programs; tables go to standard error
    python benchmarks/data.py --folder DIR               on another disk; samples are kept for later
    python benchmarks/data.py --samples 512 --rounds 9   longer, where the machine is noisy

How it is kept fair
- Same samples for all: eight modalities of the synthetic Earth, 264 px, 5 MB, and the sample's meta
  data. SYNTHETIC: ratios of compressed sizes and codecs' speeds describe the generator's images.
- Every library works in one process of its own, without worker processes, and stays there, idle,
  while others have their turn. Contenders take turns round after round; a table says the median of
  the rounds, the least and the most. A ratio is one of medians.
- Ours compresses on as many threads as there are cores, because its builds do; what it does on one
  thread is in the table, too. Readers are given one thread. CPU time counts all threads.
- What a competent user would set is set; where there are two ways, both run and the faster counts.
- Every writer ends durable: webdataset, MDS and litdata call no fsync, so that one of every file and
  folder they wrote is added to their time. Ours does it by itself, and indexes, digests and commits
  besides; "whole build" also checks every sample and counts its statistics, which no peer does.
  Writing starts on a synced disk, and the result is removed.
- Every reader decodes to arrays and copies them into the same preallocated batch of 16 samples, from
  a page cache that is warm. Data sets are opened before. In a first, untimed pass every array is
  compared with the one that was written. Ours checks digests all the while; no peer does.
- Slow contenders get fewer of the samples: nothing they do depends on the number.
- Memory is touched beforehand, because a virtual machine may take longer to find its first page than
  to use it.

Limits are measured in the same rounds: the disk with fsync (buffered and O_DIRECT), `preadv` from
the page cache straight into the batch, and the codec alone (writing: on all cores; reading: on one).
In the tables limits and contenders that are shown for information only are in brackets.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, not as a module

import numpy as np
import typer

from benchmarks import _measure
from benchmarks._build import mpiexec
from benchmarks._limits import can_write_direct
from benchmarks._measure import Contender, Hosts, Result
from benchmarks._report import Row, document, judge, make_rows, table, versions
from benchmarks._sections import DATASETS, PACKAGES, SECTIONS, Section
from benchmarks._workload import Workload, make_samples

_MAX_DISTINCT = 64
# A build takes minutes and is long enough to be steady.
_MAX_BUILD_ROUNDS = 3
# The most that lies in the page cache at one time, in data sets of raw arrays.
_MOST_DATASETS = 6

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    check: Annotated[bool, typer.Option("--check", help="Hold ours against the bars.")] = False,
    json_path: Annotated[
        str, typer.Option("--json", metavar="FILE", help="Write JSON; - is standard output.")
    ] = "",
    samples: Annotated[int, typer.Option(min=16, help="Samples in a data set.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="How often all contenders run.")] = 5,
    only: Annotated[str, typer.Option(help="Sections, or how their names start.")] = "",
    folder: Annotated[Path | None, typer.Option(help="Where to work; kept afterwards.")] = None,
) -> None:
    """Measure reading and writing of samples, side by side with other libraries."""
    out = sys.stderr if json_path == "-" else sys.stdout
    chosen = _chosen(only)
    start_s = time.monotonic()
    rows: list[Row] = []
    print(", ".join(f"{name} {found}" for name, found in versions().items()), file=out)
    with _work_folder(folder) as work:
        workload = Workload(work, samples, min(samples, _MAX_DISTINCT))
        make_samples(workload)
        bench = _Bench(workload, rounds, out)
        try:
            for section in chosen:
                rows += bench.run(section)
        finally:
            bench.hosts.close()
    verdicts = judge(rows, chosen)
    if json_path:
        facts = {"samples": samples, "rounds": rounds, "cores": len(os.sched_getaffinity(0))}
        text = json.dumps(document(rows, verdicts, **facts), indent=1) + "\n"
        _ = sys.stdout.write(text) if json_path == "-" else Path(json_path).write_text(text)
    print(f"\n{time.monotonic() - start_s:.0f} s", file=out)
    if check:
        print(*verdicts, sep="\n", file=out)
        missed = [verdict.words for verdict in verdicts if not verdict.met]
        print(f"missed: {'; '.join(missed)}" if missed else "all bars are met", file=out)
        raise typer.Exit(1 if missed else 0)


class _Bench:
    """Runs sections; data sets and processes stay from one to the next."""

    def __init__(self, workload: Workload, rounds: int, out: TextIO) -> None:
        self.workload = workload
        self.rounds = rounds
        self.out = out
        self.hosts = Hosts()
        self._usable: dict[str, bool] = {}
        self._direct = can_write_direct(workload.folder)
        _measure.touch_memory(_MOST_DATASETS * workload.num_samples * workload.sample_bytes)

    def run(self, section: Section) -> list[Row]:
        """Measure one section and print its table."""
        contenders = [c for c in section.contenders if self._can_run(c)]
        kept = {c.dataset for c in contenders if c.dataset}
        for name in DATASETS.keys() - kept:
            for path in self.workload.folder.glob(f"set-{name}-*"):
                shutil.rmtree(path)
        for contender in contenders:
            self._warm(section, contender)
        results = [Result(c) for c in contenders]
        rounds = min(self.rounds, _MAX_BUILD_ROUNDS) if section.kind == "build" else self.rounds
        for _ in range(rounds):
            for result in results:
                result.runs.append(self._time(section, result.contender))
        layout = self.workload.layout
        sizes = [int(np.prod(layout[n][1])) * layout[n][0].itemsize for n in section.names]
        rows = make_rows(section, results, None if section.kind == "build" else sum(sizes))
        print(f"\n{section.name}: {section.title}, {rounds} rounds", file=self.out)
        print(table(rows), file=self.out)
        if section.note:
            print(section.note, file=self.out)
        self.out.flush()
        return rows

    def _can_run(self, contender: Contender) -> bool:
        """Whether its packages import; says so once for each host that lacks one."""
        if contender.name == "disk, O_DIRECT" and not self._direct:
            return False
        host = contender.host
        if host not in self._usable:
            self._usable[host] = host != "MPI" or mpiexec() is not None
            if not self._usable[host]:
                print(f"{host} is left out: no mpiexec", file=self.out)
            for package in PACKAGES.get(host, ()):
                try:
                    self.hosts.call(host, _measure.import_package, package)
                except Exception as error:
                    print(f"{host} is left out: import {package}: {error!r}", file=self.out)
                    self._usable[host] = False
        return self._usable[host]

    def _warm(self, section: Section, contender: Contender) -> None:
        workload = self._share(contender)
        if section.kind == "write":
            run = self.workload.folder / "out"
            self.hosts.call(contender.host, _measure.warm_write, contender, workload, run)
        if section.kind == "read":
            arguments = contender, workload, self._dataset(contender), section.names
            self.hosts.call(contender.host, _measure.warm_read, *arguments)

    def _time(self, section: Section, contender: Contender) -> _measure.Run:
        workload = self._share(contender)
        if section.kind == "read":
            arguments = contender, workload, self._dataset(contender), section.names
            return self.hosts.call(contender.host, _measure.time_read, *arguments)
        function = _measure.time_write if section.kind == "write" else _measure.time_build
        out = self.workload.folder / "out"
        return self.hosts.call(contender.host, function, contender, workload, out)

    def _dataset(self, contender: Contender) -> Path:
        """The data set a reader reads, written when it is first asked for."""
        workload = self._share(contender)
        path = self.workload.folder / f"set-{contender.dataset}-{workload.num_samples}"
        if not path.exists():
            writer = DATASETS[contender.dataset]
            self.hosts.call(writer.host, _measure.make, writer, workload, path)
        return path

    def _share(self, contender: Contender) -> Workload:
        num = max(1, round(self.workload.num_samples * contender.share))
        return Workload(self.workload.folder, num, self.workload.num_distinct)


def _chosen(only: str) -> list[Section]:
    starts = tuple(filter(None, only.split(","))) or ("",)
    chosen = [s for s in SECTIONS if s.name.startswith(starts)]
    unknown = [t for t in starts if not any(s.name.startswith(t) for s in SECTIONS)]
    if unknown:
        names = ", ".join(s.name for s in SECTIONS)
        raise typer.BadParameter(f"no section {', '.join(unknown)}; there are {names}")
    return chosen


@contextmanager
def _work_folder(folder: Path | None) -> Iterator[Path]:
    """The given folder, of which only the samples are kept, or one that is removed."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="benchmark-data-") as temporary:
            yield Path(temporary)
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder.resolve()
    finally:
        for path in (folder / "out", *folder.glob("set-*"), *folder.glob("samples-*.tmp")):
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    app()
