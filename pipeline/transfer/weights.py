"""Which weights a backbone's name means now. Free of torch: a command that is done answers at once."""

from pathlib import Path

import xxhash

from pipeline.engine import identity

TIMM = "timm:"
_ADVICE = "write backbone=RUN with a finished run, an artifact, or timm:NAME"


def backbone_digest(text: str) -> str:
    """Names exactly these weights: hex digest of the artifact's files; of a timm model, of its name.

    Raises RunError where there is no such artifact.
    """
    if text.startswith(TIMM):
        return xxhash.xxh3_64_hexdigest(text.encode())
    return identity.model_digest(Path(text), _ADVICE)


def artifact_folder(path: Path) -> Path:
    """The folder of a run's model. Raises RunError where there is none."""
    return identity.artifact_folder(path, _ADVICE)
