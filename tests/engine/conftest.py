"""The process as a run of one rank."""

import os
import socket

import pytest

from pipeline.engine import distributed
from pipeline.engine.distributed import World


@pytest.fixture(autouse=True)
def _no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and a busy disk takes seconds to flush what they write."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """This process as the only rank; processes that other tests start know nothing of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}
    for name, value in (place | {"MASTER_PORT": port}).items():
        monkeypatch.setenv(name, str(value))
    # DeepSpeed looks for garbage at each start, which takes longer here than all else in a test.
    monkeypatch.setattr("gc.collect", lambda *_: 0)
    return distributed.start("cpu")
