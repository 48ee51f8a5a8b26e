"""What a run leaves for others: a folder that appears whole, with weights and a record of what they are.

FOLDER/
model.safetensors    weights; floating-point ones in fp32
config.json          the record, and the digest of the weights
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.engine.errors import RunError
from pipeline.engine.lifecycle import file_digest, write_atomic
from shards.files import fsync_folder

WEIGHTS, RECORD = "model.safetensors", "config.json"
_DIGEST = "weights_xxh3"


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `folder` when the block ends without an error."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    fsync_folder(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    fsync_folder(folder.parent)


def write_artifact(folder: Path, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write weights and what `record` says of them; what was there before stays until they are whole."""
    kept = {
        name: (v.float() if v.is_floating_point() else v).detach().cpu().contiguous()
        for name, v in weights.items()
    }
    with new_folder(folder) as temporary:
        save_file(kept, temporary / WEIGHTS)
        record = {**record, _DIGEST: file_digest(temporary / WEIGHTS)}
        write_atomic(temporary / RECORD, json.dumps(record, indent=1))


def read_record(folder: Path, what: str = "model") -> dict[str, Any]:
    """config.json of an artifact. Raises RunError when there is none."""
    path = folder / RECORD
    if not path.is_file():
        raise RunError(f"no {what} in {folder}; train it first: `python -m pipeline train`")
    return json.loads(path.read_text())


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All weights of an artifact. Raises RunError where they are gone or are not those of its record."""
    path, record = folder / WEIGHTS, json.loads((folder / RECORD).read_text())
    if not path.is_file():
        raise RunError(f"{path} is missing; train it again or restore the file")
    # Artifacts of earlier versions tell no digest.
    if _DIGEST in record and file_digest(path) != record[_DIGEST]:
        raise RunError(f"{path} is damaged: its digest is not the one in {RECORD}")
    return load_file(path)
