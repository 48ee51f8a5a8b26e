"""Which weights a backbone's name means now. Free of torch: a command that is done answers at once."""

import json
from pathlib import Path

import xxhash

from pipeline.engine.errors import RunError

TIMM = "timm:"
SCORES = "scores.json"


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


def made_with(out: Path, backbone: str) -> bool:
    """Whether the scores in a folder are of the weights that are there now.

    Weights that are gone were not trained anew: the scores stand.
    """
    try:
        now = backbone_digest(backbone)
    except RunError:
        return True
    try:
        return json.loads((out / SCORES).read_text()).get("backbone_digest") == now
    except (OSError, ValueError, AttributeError):
        return False
