"""What nine million samples cost before the first pixel is read, and what a billion would.

    python benchmarks/scale.py [--samples 9090000] [--check] [--json FILE]

Each step runs in a process of its own, which prints its seconds and the memory it held at most, above
that of the imported libraries. Rows are made up, no pixel exists; plan, index, finish, select and
order are the product's own. With --check the exit status is 1 when a bar is missed: resuming at any
cursor takes less than 1 s, opening the index less than 50 ms, and the order holds no memory per
sample.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

NUM_PARTS = 9
PER_SHARD = 1024
BATCH = 4096
RANKS = 128
BILLION = 1_000_000_000


def listing_of(num: int) -> Any:
    """A listing as TerraMesh's would be: shards of 10,240 samples as blocks, places on land or sea."""
    import pyarrow as pa
    import pyarrow.compute

    from shards.sources.base import make_listing

    pc: Any = pyarrow.compute
    rng = np.random.default_rng(0)
    text = pa.large_string()
    numbers = pc.utf8_lpad(pa.array(np.arange(num)).cast(text), 8, padding="0")
    prefix, joint = pa.scalar("majortom_train", text), pa.scalar("_", text)
    keys = pc.binary_join_element_wise(prefix, numbers, joint)
    return make_listing(
        keys,
        block=np.arange(num) // 10_240,
        lon=rng.uniform(-180, 180, num),
        lat=np.degrees(np.arcsin(rng.uniform(-0.8, 0.8, num))),
        num_bytes=np.full(num, 2_300_000),
    )


def config_for(out: Path) -> Any:
    from configs.load import parse_config

    source = {"type": "synthetic"}
    return parse_config(
        {"kind": "shards", "source": source, "out": str(out), "samples_per_shard": PER_SHARD}
    )


def plan_step(num: int, folder: Path, timed: "Timer") -> None:
    """Splits by grid cell, order by block, shards and slots; written and read back."""
    from shards.plan import load_plan, plan, save_plan

    listing = listing_of(num)
    timed.begin()
    made = timed("plan", lambda: plan(listing, config_for(folder)))
    timed("plan: shards of it", lambda: len(made.shards))
    timed("plan: write parquet", lambda: save_plan(made, folder / "plan.parquet", {}))
    timed("plan: read parquet", lambda: load_plan(folder / "plan.parquet"))


def finish_step(num: int, folder: Path, timed: "Timer") -> None:
    """The end of a build: every shard's index and record become index.bin, samples.parquet, manifest.

    All shards here are links to one, so the disk is asked for its opens and not for its space.
    """
    from shards.codec import META_PART, part_name
    from shards.finish import Origin, finish
    from shards.plan import load_plan
    from shards.writer import RECORD_SUFFIX

    made, _ = load_plan(folder / "plan.parquet")
    rows = _rows()
    model = _model_shard(folder / "model", rows)
    for shard in made.shards:
        tar = folder / f"{shard.path}.tar"
        tar.parent.mkdir(exist_ok=True)
        for suffix in (".idx", RECORD_SUFFIX):
            tar.with_suffix(suffix).hardlink_to(model.with_suffix(suffix))
    parts = (*(part_name(row) for row in rows.values()), META_PART)
    origin = Origin(made.digest, {"split_cell_deg": 0.25}, {"type": "synthetic"})
    timed.begin()
    timed(
        f"finish: {len(made.shards)} shards to one data set",
        lambda: finish(folder, made.shards, list(made.counts), rows, parts, origin),
    )


def _rows() -> dict[str, Any]:
    from configs.registry import modality

    names = ("S2L1C", "S2L2A", "S2RGB", "S1GRD", "S1RTC", "DEM", "LULC", "NDVI")
    return {name: modality(name) for name in names}


def _model_shard(folder: Path, rows: dict[str, Any]) -> Path:
    """The index and the record of one shard of `PER_SHARD` samples, without its tar."""
    from shards.codec import META_PART, part_name
    from shards.files import write_atomic
    from shards.index import ENTRY, index_path, make_index
    from shards.keys import make_keys
    from shards.record import encode_record
    from shards.sample import SampleMeta
    from shards.stats import Statistics
    from shards.writer import RECORD_SUFFIX

    rng = np.random.default_rng(1)
    parts = (*(part_name(row) for row in rows.values()), META_PART)
    entries = np.zeros((PER_SHARD, len(parts)), ENTRY)
    entries["size"] = rng.integers(10_000, 900_000, entries.shape)
    entries["block"] = np.arange(entries.size).reshape(entries.shape)
    entries["digest"] = rng.integers(0, 2**63, entries.shape)
    present = rng.integers(1, 2 ** len(parts), PER_SHARD)
    keys = make_keys([f"majortom_train_{i:08d}" for i in range(PER_SHARD)])
    index = make_index(parts, 10**9, present, entries, keys)
    metas = [
        SampleMeta(
            lon=float(rng.uniform(-180, 180)),
            lat=float(rng.uniform(-80, 80)),
            crs="EPSG:32633",
            transform=(10.0, 0.0, float(i), 0.0, -10.0, 5e6),
            times=dict.fromkeys(("S2L2A", "S1GRD"), f"20{i % 8 + 15}-07-{i % 28 + 1:02d}"),
            source="terramesh",
            cloud=i / PER_SHARD,
        )
        for i in range(PER_SHARD)
    ]
    tar = folder / "shard.tar"
    write_atomic(index_path(tar), index.to_bytes())
    record = encode_record(index, metas, Statistics(rows).dump(), [], 0.25)
    write_atomic(tar.with_suffix(RECORD_SUFFIX), record)
    return tar


def open_step(num: int, folder: Path, timed: "Timer") -> None:
    """What every rank does when training starts: open, select, find its place, read locations."""
    from configs.schema import SampleFilter
    from pipeline.data.order import Order
    from shards import open_dataset
    from shards.index import read_index

    timed.begin()
    timed("index: open", lambda: read_index(folder / "index.bin", verify=False))
    dataset = timed("data set: open", lambda: open_dataset(folder, verify=False))
    timed("select: split", lambda: dataset.select("train"))
    chosen = timed("select: split and 1 modality", lambda: dataset.select("train", ["S1GRD"]))
    where = SampleFilter.model_validate(
        {"region": (-10, 35, 30, 60), "dates": ("2018-01-01", "2021-01-01"), "max_cloud": 0.3}
    )
    timed("select: region, dates and cloud", lambda: dataset.select("train", where=where))
    order = timed("order: of a filtered selection", lambda: Order(chosen, 0))
    places = timed("order: its first batch", lambda: order.samples(np.arange(BATCH)))
    index = read_index(folder / "index.bin", verify=False)
    timed(f"index: entries of {BATCH} random samples", lambda: index.entries[places].copy())
    timed("index: key of a sample", lambda: dataset.keys[num // 2])
    timed("index: sample of a key", lambda: dataset.keys.index(dataset.keys[7]))
    timed("index: all digests", index.verify)


def order_step(num: int, folder: Path, timed: "Timer") -> None:
    """The stateless order over all samples: from nothing to the first batch, anywhere."""
    from pipeline.data.order import Order

    timed.begin()
    order = timed("order: start", lambda: Order(range(num), 7))
    cursors = np.random.default_rng(0).integers(0, 300 * num, 5)
    for cursor in cursors:
        batch = np.arange(int(cursor), int(cursor) + BATCH)
        timed("order: resume anywhere, first batch", lambda b=batch: order.samples(b))
    share = np.arange(BATCH // RANKS)
    timed(f"order: one rank's share of {BATCH} on {RANKS} ranks", lambda: order.samples(share))
    windowed = Order(range(num), 7, window=16 * PER_SHARD)
    timed("order: first batch, windows of 16 shards", lambda: windowed.samples(np.arange(BATCH)))


class Timer:
    """Runs things and keeps name, seconds and peak memory above the start, one row each."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._start_mb = 0.0

    def begin(self) -> None:
        """Count memory from here: imports and made-up rows are not what is measured."""
        self._start_mb = _peak_mb()

    def __call__(self, name: str, do: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = do()
        seconds = time.perf_counter() - begin
        self.rows.append(
            {"step": name, "seconds": seconds, "peak_mb": max(0.0, _peak_mb() - self._start_mb)}
        )
        return result


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


STEPS: dict[str, Callable[[int, Path, Timer], None]] = {
    "plan": plan_step,
    "finish": finish_step,
    "open": open_step,
    "order": order_step,
}


def run(name: str, num: int, folder: Path) -> list[dict[str, Any]]:
    """One step in a process of its own."""
    command = [sys.executable, __file__, "--step", name, "--samples", str(num)]
    done = subprocess.run(
        [*command, "--folder", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"step {name} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """The bars that the rows miss, in words."""
    found = []
    for row in rows:
        seconds, name = row["seconds"], row["step"]
        if "order: resume" in name and seconds >= 1:
            found.append(f"{name}: {seconds:.2f} s, 1 s allowed")
        if name == "index: open" and seconds >= 0.05:
            found.append(f"{name}: {1000 * seconds:.0f} ms, 50 ms allowed")
        if name == "order: start" and row["peak_mb"] > 1:
            found.append(f"{name}: {row['peak_mb']:.0f} MB, none allowed per sample")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--samples", type=int, default=9_090_000)
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        timer = Timer()
        STEPS[arguments.step](arguments.samples, arguments.folder, timer)
        print(json.dumps(timer.rows))
        return 0
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        jobs = [(name, arguments.samples) for name in STEPS] + [("order", BILLION)]
        for name, num in jobs:
            rows += [{"samples": num, **row} for row in run(name, num, Path(folder))]
    print(f"{'samples':>13}  {'seconds':>9}  {'peak MB':>8}  step")
    for row in rows:
        print(f"{row['samples']:13,}  {row['seconds']:9.4f}  {row['peak_mb']:8.0f}  {row['step']}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    bad = missed(rows)
    if arguments.check:
        print("all bars met" if not bad else "missed: " + "; ".join(bad))
    return 1 if arguments.check and bad else 0


if __name__ == "__main__":
    sys.exit(main())
