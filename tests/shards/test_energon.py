"""Our shards as Megatron-Energon reads them, after its own `prepare`."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards.codec import decode_part
from shards.dataset import open_dataset

energon = pytest.importorskip("megatron.energon")


@pytest.mark.filterwarnings("ignore")
def test_energon_reads_every_sample(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    for tar in (built / "train").glob("*.tar"):
        shutil.copy(tar, folder)
    command = [sys.executable, "-m", "megatron.energon.cli.main", "prepare", "--non-interactive"]
    command += ["--no-progress", "--num-workers", "1", "--split-ratio", "1,0,0"]
    subprocess.run([*command, "--sample-type", "CrudeWebdataset", str(folder)], check=True)

    class Raw(energon.DefaultTaskEncoder):
        decoder = None
        cookers = (energon.Cooker(energon.stateless(lambda sample: sample)),)

    stream = energon.get_train_dataset(
        folder,
        worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=0),
        batch_size=None,
        shuffle_buffer_size=None,
        max_samples_per_sequence=None,
        task_encoder=Raw(),
        repeat=False,
    )
    dataset = open_dataset(built)
    seen = {sample["__key__"].rpartition("/")[2]: sample for sample in energon.get_loader(stream)}
    expected = dataset.select("train")
    assert set(seen) == {dataset.keys[i] for i in expected}
    for i in expected:
        theirs = seen[dataset.keys[i]]
        for name, part in dataset.read(int(i), ["S2L2A", "DEM", "LULC"]).items():
            np.testing.assert_array_equal(decode_part("b2", theirs[f"{name}.b2"]), part)
