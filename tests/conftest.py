"""What every test may use."""

from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine takes as long as it takes: no example fails for its time. The same examples on every run:
# a commit passes everywhere or nowhere. `make search` looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, print_blob=True)
settings.load_profile("repeatable")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def root() -> Path:
    """The checkout: commands run from here find `configs/` and all packages."""
    return ROOT
