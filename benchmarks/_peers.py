"""MosaicML streaming (MDS), litdata and Megatron-Energon as contenders.

MDS and litdata call no fsync, so every file gets one here before a writer's time ends. Energon has no
writer of its own: it reads webdataset's tars beside an index that `energon prepare` makes, untimed.

Each library is imported where it is used, because a missing one leaves the others their turn.
"""

import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import _webdataset
from benchmarks._workload import Batch, Workload, fill, key_of, make_durable, number_of


def write_mds(compression: str | None, workload: Workload, out: Path) -> None:
    """Columns of known type and shape, its fastest; shards of its default size, 64 MiB."""
    from streaming import MDSWriter

    columns = {
        name: f"ndarray:{dtype.name}:{','.join(map(str, shape))}"
        for name, (dtype, shape) in workload.layout.items()
    }
    columns |= {"key": "str", "meta": "json"}
    # It makes the folder itself.
    out.rmdir()
    with MDSWriter(out=str(out), columns=columns, compression=compression) as sink:
        for i in range(workload.num_samples):
            extra = {"key": key_of(i), "meta": workload.meta_json(i)}
            sink.write({**workload.arrays(i), **extra})
    make_durable(out)


def read_mds_by_number(workload: Workload, folder: Path, batch: Batch) -> Iterator[list[int]]:
    """`dataset[i]`, without the threads of its iterator."""
    dataset = _open_mds(folder)
    samples = (dataset[i] for i in range(workload.num_samples))
    return fill(batch, ((number_of(sample["key"]), sample) for sample in samples))


def read_mds_iterated(workload: Workload, folder: Path, batch: Batch) -> Iterator[list[int]]:
    """Its iterator, which keeps a state that can be resumed."""
    return fill(batch, ((number_of(sample["key"]), sample) for sample in _open_mds(folder)))


def write_litdata(workload: Workload, out: Path) -> None:
    """`Cache`, the writer inside `optimize`, without the processes around it; torch tensors."""
    import torch
    from litdata.streaming import Cache

    cache = Cache(str(out), chunk_bytes="64MB")
    for i in range(workload.num_samples):
        tensors = {name: torch.from_numpy(array) for name, array in workload.arrays(i).items()}
        cache[i] = {"key": key_of(i), "meta": json.dumps(workload.meta_json(i)), **tensors}
    cache.done()
    cache.merge()
    make_durable(out)


def read_litdata(workload: Workload, folder: Path, batch: Batch) -> Iterator[list[int]]:
    """Tensors over mapped chunks: decoding copies nothing."""
    samples = iter(_open_litdata(folder))
    return fill(batch, ((number_of(sample["key"]), sample) for sample in samples))


def read_energon(workload: Workload, folder: Path, batch: Batch) -> Iterator[list[int]]:
    """Raw bytes of webdataset's tars, made into arrays as for webdataset; no worker processes."""
    decode = _webdataset.npy_decoder(workload, batch.names, lower=False)
    return fill(batch, map(decode, _open_energon(folder)))


@functools.cache
def _open_mds(folder: Path) -> Any:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    return StreamingDataset(local=str(folder), shuffle=False, batch_size=1)


@functools.cache
def _open_litdata(folder: Path) -> Any:
    from litdata import StreamingDataset

    return StreamingDataset(str(folder), shuffle=False)


@functools.cache
def _open_energon(folder: Path) -> Any:
    from megatron import energon

    class RawEncoder(energon.DefaultTaskEncoder):
        decoder = None
        cookers = (energon.Cooker(energon.stateless(lambda sample: sample)),)

    if not (folder / ".nv-meta").exists():
        command = [sys.executable, "-m", "megatron.energon.cli.main", "prepare"]
        command += ["--non-interactive", "--no-progress", "--num-workers", "1"]
        command += ["--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset", str(folder)]
        subprocess.run(command, check=True)
    dataset = energon.get_train_dataset(
        folder,
        worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        task_encoder=RawEncoder(),
        repeat=False,
    )
    return energon.get_loader(dataset)
