"""What every test may use."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root() -> Path:
    """The checkout: commands run from here find `configs/` and all packages."""
    return ROOT
