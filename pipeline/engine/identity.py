"""What a result was made of, as a digest: whether it still is what a command would make.

Free of torch: a command that is done answers at once.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import xxhash

from configs.schema import DataConfig
from pipeline.engine.errors import RunError

MADE_OF = "made_of"
"""Key of the digest in a result's record."""
_ADVICE = "name a finished run or an artifact"


def find(path: Path) -> Path:
    """The artifact that a path means: itself, or that of a run, which may have none yet."""
    return path if (path / "config.json").is_file() else path / "artifact"


def artifact_folder(path: Path, advice: str = _ADVICE) -> Path:
    """The folder of a run's model, or of an artifact itself. Raises RunError where there is none."""
    folder = find(path)
    if not (folder / "config.json").is_file():
        raise RunError(f"no model in {path}; {advice}")
    return folder


def model_digest(path: Path, advice: str = _ADVICE) -> str:
    """Names exactly these weights: hex digest of the files of a run's model, or of an artifact.

    Raises RunError where there is none.
    """
    found = xxhash.xxh3_64()
    for file_path in sorted(artifact_folder(path, advice).glob("*")):
        with file_path.open("rb") as file:
            while block := file.read(1 << 22):
                found.update(block)
    return found.hexdigest()


def digest_of(models: Iterable[Path], files: Iterable[Path], shards: str | None = None) -> str:
    """Of models by their weights, of files by size and time of change, of a local shard set by its content.

    Raises RunError or OSError for what is not there.
    """
    parts: list[object] = [model_digest(path) for path in models]
    for path in files:
        status = path.stat()
        parts.append([str(path), status.st_size, status.st_mtime_ns])
    if shards is not None and (manifest := Path(shards) / "manifest.json").is_file():
        parts.append(json.loads(manifest.read_text())["fingerprint"])
    return xxhash.xxh3_64_hexdigest(json.dumps(parts).encode())


def trained_on(run: Path, data: DataConfig) -> bool:
    """Whether a run's data is still what it was trained on; what is gone, or behind a URL, did not change."""
    found = []
    try:
        for folder in (data.shards, *(member.shards for member in data.mix)):
            manifest = json.loads((Path(str(folder)) / "manifest.json").read_text())
            found.append(manifest["fingerprint"])
        told = json.loads((run / "run.json").read_text())["dataset"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    if not data.mix:
        return told == found[0]
    # What reads shards takes a tenth of a second to import, and the launcher comes by here.
    from shards.mixed import mixed_fingerprint

    return told == mixed_fingerprint(found)


def is_made_of(marker: Path, digest: str) -> bool:
    """Whether a result's record says so."""
    try:
        return json.loads(marker.read_text()).get(MADE_OF) == digest
    except (OSError, ValueError, AttributeError):
        return False
