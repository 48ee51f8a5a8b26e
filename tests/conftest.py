"""What every test may use."""

from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine takes as long as it takes: no example fails for its time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root() -> Path:
    """The checkout: commands run from here find `configs/` and all packages."""
    return ROOT
