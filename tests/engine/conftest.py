"""The process as a run of one rank."""

import os

import pytest

from pipeline.engine import distributed
from pipeline.engine.distributed import World


@pytest.fixture(autouse=True)
def _no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and a busy disk takes seconds to flush what they write."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """This process as the only rank."""
    # DeepSpeed looks for garbage at each start, which takes longer here than all else in a test.
    monkeypatch.setattr("gc.collect", lambda *_: 0)
    return distributed.start("cpu")
