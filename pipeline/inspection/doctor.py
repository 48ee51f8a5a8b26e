"""`python -m pipeline doctor`: what this machine has, and what will not work on it.

Run on every node before a job that matters: `srun --ntasks-per-node=1 python -m pipeline doctor`.
Each finding is fine, a warning (something optional is missing, or slow) or a failure (training or shard
building would end with it).
"""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from configs.schema import DataConfig

Verdict = Literal["fine", "warning", "failure"]

_PACKAGES = ("torch", "deepspeed", "numpy", "blosc2", "h5py", "webdataset", "submitit", "rasterio")
_OPTIONAL = {
    "mpi4py": "shards are built in one process: pip install '.[mpi]'",
    "wandb": "engine.wandb does not work: pip install wandb",
    "zarr": "only tests of the zarr sources need it",
}
_MIN_FILES = 4096
_MIN_FREE_GB = 20


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice` says what to do where it is not fine."""

    topic: str
    verdict: Verdict
    found: str
    advice: str = ""


def examine(out: Path, shards: str = "") -> Iterator[Finding]:
    """Everything, in the order of a job's life: software, devices, network, storage, data."""
    yield Finding("host", "fine", f"{socket.gethostname()}, {platform.platform()}")
    yield Finding("python", "fine", platform.python_version())
    yield from _packages()
    yield _apex()
    yield _compiler()
    yield from _devices()
    yield from _arithmetic()
    yield _host_name()
    yield _mpi()
    yield _slurm()
    yield _open_files()
    yield _shared_memory()
    yield from _storage(out)
    if shards:
        yield _data(shards)


def _packages() -> Iterator[Finding]:
    # Asked to guess, DeepSpeed warns of each accelerator that it does not find.
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken package may raise anything
            yield Finding(name, "failure", f"{type(error).__name__}: {error}", f"reinstall {name}")
        else:
            yield Finding(name, "fine", importlib.metadata.version(name))
    for name, without in _OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            yield Finding(name, "warning", "not installed", without)
        else:
            yield Finding(name, "fine", importlib.metadata.version(name))


def _apex() -> Finding:
    if importlib.util.find_spec("apex") is None:
        return Finding(
            "apex", "fine", "not installed, not needed: torch's fused AdamW is the default"
        )
    try:
        importlib.import_module("apex.optimizers")
    except ImportError as error:
        return Finding(
            "apex", "warning", f"not NVIDIA Apex, or not built: {error}",
            "PyPI's `apex` is another project; remove it, or build https://github.com/NVIDIA/apex",
        )  # fmt: skip
    return Finding("apex", "fine", "NVIDIA Apex")


def _compiler() -> Finding:
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if missing:
        return Finding(
            "compiler", "warning", f"no {', '.join(missing)}",
            "torch.compile, muon and deepspeed_adam are compiled at start",
        )  # fmt: skip
    return Finding("compiler", "fine", f"g++, ninja{', nvcc' if shutil.which('nvcc') else ''}")


def _devices() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        listed = _run(["nvidia-smi", "-L"])
        if listed.startswith("GPU"):
            yield Finding(
                "GPU", "failure", f"{listed.count('GPU ')} there, torch {torch.__version__} sees none",
                "install a torch built for this driver's CUDA, or look at CUDA_VISIBLE_DEVICES",
            )  # fmt: skip
        else:
            yield Finding(
                "GPU", "warning", "none", "training runs on the CPU, for small models only"
            )
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        text = f"{properties.name}, {total / 1e9:.0f} GB, {free / 1e9:.0f} GB free"
        busy = free < 0.9 * total
        advice = "somebody else computes on it; see nvidia-smi" if busy else ""
        yield Finding(f"GPU {number}", "warning" if busy else "fine", text, advice)


def _arithmetic() -> Iterator[Finding]:
    """A product in bf16 against float64: a device that computes wrongly is worse than none."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device in [torch.device("cuda", n) for n in range(count)] or [torch.device("cpu")]:
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
        expected = a.bfloat16().double() @ b.bfloat16().double()
        got = (a.to(device, torch.bfloat16) @ b.to(device, torch.bfloat16)).cpu().double()
        error = float((got - expected).abs().max() / expected.abs().max())
        fine = error < 0.01
        yield Finding(
            f"bf16 on {device}", "fine" if fine else "failure", f"largest error {error:.1e}",
            "" if fine else "leave this node out: sbatch --exclude",
        )  # fmt: skip


def _host_name() -> Finding:
    name, began = socket.gethostname(), time.monotonic()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        return Finding(
            "host name", "warning", f"{name}: {error}", "set GLOO_SOCKET_IFNAME to an interface"
        )
    took_s = time.monotonic() - began
    if took_s > 2:
        return Finding(
            "host name", "warning", f"{address} after {took_s:.0f} s", "name look-ups are slow"
        )
    return Finding("host name", "fine", f"{name} is {address}")


def _mpi() -> Finding:
    if importlib.util.find_spec("mpi4py") is None:
        return Finding("MPI", "warning", "no mpi4py", "shards are built in one process")
    mpiexec = shutil.which("mpiexec")
    if mpiexec is None:
        return Finding(
            "MPI", "warning", "mpi4py, no mpiexec on PATH", "start ranks by srun --mpi=pmix"
        )
    version = _run([mpiexec, "--version"]).splitlines()
    if not version:
        return Finding("MPI", "warning", f"{mpiexec} does not answer", "reinstall MPI")
    return Finding("MPI", "fine", version[0])


def _slurm() -> Finding:
    if shutil.which("sbatch") is None:
        return Finding(
            "Slurm", "warning", "no sbatch on PATH", "only --cluster local and debug work here"
        )
    version = _run(["sbatch", "--version"]).strip()
    if not version:
        return Finding(
            "Slurm", "warning", "sbatch does not answer", "look at slurm.conf on this machine"
        )
    return Finding("Slurm", "fine", version)


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _MIN_FILES:
        return Finding("open files", "warning", f"at most {soft}", f"ulimit -n {min(hard, 65536)}")
    return Finding("open files", "fine", f"at most {soft}")


def _shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("/dev/shm", "warning", "none", "NCCL and MPI use it between ranks of a node")
    free_gb = shutil.disk_usage(folder).free / 1e9
    small = free_gb < 1
    advice = "containers: --shm-size=8g" if small else ""
    return Finding("/dev/shm", "warning" if small else "fine", f"{free_gb:.1f} GB free", advice)


def _storage(out: Path) -> Iterator[Finding]:
    """Room, inodes, and what the protocol of commits rests on: rename, fsync, locks."""
    topic = f"folder {out}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        usage, inodes = shutil.disk_usage(out), os.statvfs(out).f_favail
        room = usage.free / 1e9
        verdict: Verdict = "fine" if room > _MIN_FREE_GB else "warning"
        yield Finding(
            topic, verdict, f"{room:.0f} GB free", "" if verdict == "fine" else "make room"
        )
        if 0 < inodes < 10_000:
            yield Finding(topic, "warning", f"{inodes} inodes free", "make room: few files fit")
        yield Finding(topic, "fine", f"writes {_write_speed(out):.0f} MB/s, flushed and renamed")
    except OSError as error:
        yield Finding(
            topic, "failure", str(error), "runs commit here: give a folder that can be written"
        )
        return
    yield _lock(out, topic)


def _write_speed(out: Path) -> float:
    """MB/s of one committed file of 64 MB."""
    path = out / f".doctor-{socket.gethostname()}-{os.getpid()}.tmp"
    block = os.urandom(1 << 20)
    began = time.perf_counter()
    try:
        with path.open("wb") as file:
            for _ in range(64):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        path = path.rename(path.with_suffix(".done"))
        return 64 * 1.048576 / (time.perf_counter() - began)
    finally:
        path.unlink(missing_ok=True)


def _lock(out: Path, topic: str) -> Finding:
    import fcntl

    path = out / f".doctor-{socket.gethostname()}-{os.getpid()}.lock"
    try:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return Finding(
            topic, "warning", f"no locks: {error}",
            "two jobs in one run folder would not notice each other; mount with flock",
        )  # fmt: skip
    finally:
        path.unlink(missing_ok=True)
    return Finding(topic, "fine", "locks work")


def _data(shards: str) -> Finding:
    from shards import ShardError, open_data

    try:
        began = time.perf_counter()
        dataset = open_data(DataConfig(shards=shards), verify=False)
        count = min(64, len(dataset))
        for number in range(count):
            dataset.read(number * len(dataset) // count, list(dataset.modalities))
        rate = count / (time.perf_counter() - began)
    except (ShardError, OSError) as error:
        return Finding("shards", "failure", str(error), "python -m shards verify")
    return Finding(
        "shards", "fine", f"{len(dataset)} samples, {rate:.0f}/s by one thread, at random"
    )


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
