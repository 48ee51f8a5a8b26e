"""The cluster, brought up once per session, and a tiny stage-2 run to put on it."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import packages
from tests.cluster.jobs import Routes
from tests.cluster.network import NODES
from tests.cluster.slurm_cluster import SlurmCluster
from tests.dist import conftest as dist
from tests.dist.ranks import run_ranks
from tests.dist.test_training import curve

Curve = dict[int, float]

shards = dist.shards
tiny_stage2 = dist.tiny_stage2


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[SlurmCluster]:
    if (reason := packages.why_not()) is not None:
        pytest.skip(f"no Slurm cluster on this machine: {reason}")
    # So that a killed session takes its cluster down, as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with SlurmCluster() as cluster:
        yield cluster
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def cluster(running_cluster) -> Iterator[SlurmCluster]:
    """The cluster with an empty queue and both nodes idle, before and after a test."""
    yield running_cluster
    running_cluster.command("scancel", "--full", f"--user={os.geteuid()}")
    running_cluster.command("scancel", "--signal=KILL", f"--user={os.geteuid()}")
    for node in NODES:
        running_cluster.revive(node)


@pytest.fixture
def routes(cluster, tmp_path) -> Routes:
    return Routes(cluster, tmp_path)


@pytest.fixture(scope="session")
def tokens(shards, tmp_path_factory) -> Path:
    """The shard set with tokens of height, place and date."""
    out = tmp_path_factory.mktemp("stage1")
    run_ranks(
        ["pipeline", "train", "--config", "configs/stage1/small.yaml", "modality=DEM",
         f"out={out / 'DEM'}", f"data.shards={shards}", *dist.TINY_TOKENIZER],
        1, out / "logs",
    )  # fmt: skip
    run_ranks(
        ["pipeline", "tokenize", "--config", "configs/tokenize/small.yaml", f"data.shards={shards}",
         f"tokenizers.DEM={out / 'DEM'}"],
        1, out / "logs",
    )  # fmt: skip
    return shards


@pytest.fixture
def run(tiny_stage2, tmp_path) -> tuple[list[str], Path]:
    """The command line of a stage-2 run of seconds, ZeRO-2 in fp32, and its folder."""
    out = tmp_path / "run"
    names = "[DEM,coordinates,date]"
    changes = [
        f"masked.tokens={names}", f"masked.targets={names}", "engine.zero_stage=2",
        "engine.precision=fp32", "engine.num_steps=60", "engine.global_batch=8",
        "engine.checkpoint.every_steps=10",
    ]  # fmt: skip
    return ["pipeline", *tiny_stage2(out), *changes], out


@pytest.fixture(scope="session")
def undisturbed(tokens, tmp_path_factory) -> Callable[[list[str]], Curve]:
    """The loss curve of two local ranks that nothing happened to. The same for every test."""
    found: list[Curve] = []

    def get(argv: list[str]) -> Curve:
        if not found:
            folder = tmp_path_factory.mktemp("undisturbed")
            run_ranks([*argv, f"out={folder / 'run'}"], 2, folder / "logs")
            found.append(curve(folder / "run"))
        return found[0]

    return get
