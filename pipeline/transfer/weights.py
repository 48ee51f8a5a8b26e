"""Which weights a backbone's name means now. Free of torch: a command that is done answers at once."""

from pathlib import Path

import xxhash

from pipeline.engine.errors import RunError

TIMM = "timm:"


def backbone_digest(text: str) -> str:
    """Names exactly these weights: hex digest of the artifact's files; of a timm model, of its name."""
    if text.startswith(TIMM):
        return xxhash.xxh3_64_hexdigest(text.encode())
    found = xxhash.xxh3_64()
    for path in sorted(artifact_folder(Path(text)).glob("*")):
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                found.update(block)
    return found.hexdigest()


def artifact_folder(path: Path) -> Path:
    """The folder of a run's model. Raises RunError where there is none."""
    for folder in (path, path / "artifact"):
        if (folder / "config.json").is_file():
            return folder
    raise RunError(
        f"no model in {path}; write backbone=RUN with a finished run, an artifact, or timm:NAME"
    )
