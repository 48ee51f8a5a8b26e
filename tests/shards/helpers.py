"""A tiny GeoTIFF collection, and ways to build it in this process, in another one, or under MPI."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio

from configs.load import parse_config
from configs.registry import modality
from configs.schema import ShardsConfig
from shards.dataset import Dataset

ROOT = Path(__file__).parents[2]
PX = 24
FILE_DTYPES = {"S2L2A": "int16", "S1RTC": "float64", "DEM": "int16", "LULC": "uint8"}


KILL = """
import os, pathlib, signal, sys
from shards.__main__ import main
from shards.sources.geotiff import GeoTiffSource

def deadly(function, after):
    calls = iter(range(10**9))
    def wrapped(*args, **kwargs):
        if next(calls) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped

what, after, *arguments = sys.argv[1:]
owner = {"read": GeoTiffSource, "rename": pathlib.Path}[what]
setattr(owner, what, deadly(getattr(owner, what), int(after)))
main(arguments)
"""
"""A command line that ends its process at the n-th call: `read|rename N ARGUMENTS`."""


def write_tiff(
    path: Path,
    array: np.ndarray,
    *,
    east_m: float = 500000.0,
    north_m: float = 5000000.0,
    crs: str | None = "EPSG:32633",
    nodata: float | None = None,
    tags: dict[str, str] | None = None,
    pixel_m: float = 10.0,
) -> None:
    """One GeoTIFF of `array` (C, H, W) whose upper left corner is at (east_m, north_m)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=array.shape[0],
        height=array.shape[1],
        width=array.shape[2],
        dtype=array.dtype,
        crs=crs,
        transform=rasterio.Affine(pixel_m, 0, east_m, 0, -pixel_m, north_m),
        nodata=nodata,
    ) as file:
        file.write(array)
        file.update_tags(**(tags or {}))


def tiny_array(name: str, number: int) -> np.ndarray:
    """Seeded pixels of one modality in the type its files have."""
    rng = np.random.default_rng([number, *name.encode()])
    shape = (modality(name).num_bands, PX, PX)
    dtype = FILE_DTYPES[name]
    if name == "LULC":
        return rng.integers(1, 10, shape).astype(dtype)
    if name == "S1RTC":
        return rng.normal(-12, 4, shape).astype(dtype)
    return rng.integers(1, 4000, shape).astype(dtype)


def make_collection(folder: Path, num: int = 10) -> Path:
    """`num` places about 0.4 degrees apart; every third lacks S1RTC, every fourth lacks LULC."""
    for number in range(num):
        for name in FILE_DTYPES:
            if (name == "S1RTC" and number % 3 == 0) or (name == "LULC" and number % 4 == 1):
                continue
            write_tiff(
                folder / name / f"place{number}.tif",
                tiny_array(name, number),
                east_m=300000.0 + 30000 * number,
                tags={"datetime": "2021-07-23T13:22:41"} if name == "S2L2A" else None,
            )
    return folder


def config_for(source: Path, out: Path, **changes: object) -> ShardsConfig:
    """A geotiff build of two or three shards."""
    values = {
        "kind": "shards",
        "source": {"type": "geotiff", "path": str(source)},
        "out": str(out),
        "samples_per_shard": 4,
        "splits": {"train": 0.8, "val": 0.2},
        **changes,
    }
    config = parse_config(values)
    assert isinstance(config, ShardsConfig)
    return config


def source_config(source: dict[str, object], out: Path, **changes: object) -> ShardsConfig:
    """A build from any source."""
    config = parse_config({"kind": "shards", "source": source, "out": str(out), **changes})
    assert isinstance(config, ShardsConfig)
    return config


def command_for(source: Path, out: Path, *overrides: str) -> list[str]:
    """Arguments of `python -m shards build` that mean the same as `config_for`."""
    return [
        "build",
        "--config",
        "configs/shards/geotiff.yaml",
        f"source.path={source}",
        f"out={out}",
        "samples_per_shard=4",
        "splits={train: 0.8, val: 0.2}",
        *overrides,
    ]


def run_shards(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m shards ...` as a user types it, from the checkout."""
    return subprocess.run(
        [sys.executable, "-m", "shards", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def run_json(*arguments: str | Path) -> dict:
    """What a command says with `--json`, which must end well."""
    done = run_shards(*map(str, arguments), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def mpi_command(num_ranks: int, arguments: Sequence[str]) -> list[str]:
    """`python ARGUMENTS` under mpiexec, on any machine: more ranks than cores, root allowed."""
    mpiexec = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert mpiexec, "no mpiexec: pip install .[mpi]"
    return [
        *(mpiexec, "--allow-run-as-root", "--oversubscribe", "-n", str(num_ranks)),
        *(sys.executable, *arguments),
    ]


def run_mpi(num_ranks: int, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run `mpi_command` to its end."""
    return subprocess.run(
        mpi_command(num_ranks, arguments), cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a data set by relative name, the lock aside."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != ".lock"
    }


def stacked(dataset: Dataset, name: str, split: str | None) -> np.ndarray:
    """All measured values of a modality, band by band: [C, pixels]."""
    parts = [np.asarray(dataset.read(int(i), [name])[name]) for i in dataset.select(split, [name])]
    return np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1).astype(np.float64)


def damage(path: Path) -> None:
    """Keep the listing as it is and make the pixels unreadable."""
    path.write_bytes(path.read_bytes()[:200] + bytes(path.stat().st_size - 200))


def quarantine(out: Path) -> list[dict[str, str]]:
    """What a build has left out."""
    return [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]


def move_out(source: Path, name: str, late: Path) -> None:
    """Take a modality's folder out of a collection, as if it came later, in a folder of its own."""
    late.mkdir()
    shutil.move(source / name, late / name)
