"""Real samples that lie beside a checkout: no repository may hold them."""

import os
from pathlib import Path

import pytest

_FOLDER = Path(__file__).parents[2] / "shared" / "data"


def real_samples(*parts: str) -> Path:
    """A folder of them. Without it a test is skipped, or fails where REAL_SAMPLES names it, as in CI."""
    told = os.environ.get("REAL_SAMPLES")
    folder = Path(told or _FOLDER).joinpath(*parts)
    if not folder.is_dir():
        (pytest.fail if told else pytest.skip)(f"no real samples in {folder}")
    return folder
