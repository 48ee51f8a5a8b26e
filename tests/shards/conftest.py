"""The tiny collection and its data set, made once; tests that damage things take a copy."""

import shutil
from pathlib import Path

import pytest

from shards.build import build
from shards.dataset import Dataset, open_dataset
from shards.sample import Sample
from shards.sources.base import refs_of
from tests.shards.helpers import config_for, make_collection
from tests.shards.synthetic_world import NUM_SAMPLES, source_of
from tests.shards.zarr_twins import make_terramesh


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="session")
def built(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "set"
    build(config_for(collection, out), quiet=True)
    return out


@pytest.fixture
def dataset(built: Path) -> Dataset:
    return open_dataset(built)


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """A data set to be damaged."""
    return Path(shutil.copytree(built, tmp_path / "copy"))


@pytest.fixture(scope="session")
def terramesh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_terramesh(tmp_path_factory.mktemp("terramesh"))


@pytest.fixture
def own_terramesh(terramesh: Path, tmp_path: Path) -> Path:
    """A TerraMesh to be damaged."""
    return Path(shutil.copytree(terramesh, tmp_path / "terramesh"))


@pytest.fixture(scope="session")
def world() -> list[Sample]:
    """All samples of a small synthetic Earth that lacks nothing."""
    source = source_of(num_samples=NUM_SAMPLES, missing=0)
    return [source.read(ref) for ref in refs_of(source.listing())]
