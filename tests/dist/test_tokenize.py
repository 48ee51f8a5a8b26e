"""Tokens of a shard set: the same for any number of ranks, resumable, never mixed."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.tokens import extra_name
from pipeline.data.views import Views
from pipeline.stage1.artifact import ImageTokenizer
from shards import open_dataset
from tests.dist.conftest import TINY_TOKENIZER
from tests.dist.ranks import Ranks, run_ranks

pytestmark = pytest.mark.dist


def argv(shards: Path, tokenizer: Path) -> list[str]:
    return [
        "pipeline", "tokenize", "--config", "configs/tokenize/small.yaml", f"data.shards={shards}",
        f"tokenizers.LULC={tokenizer}", "modalities=[date]",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(shards, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("lulc")
    run_ranks(
        ["pipeline", "train", "--config", "configs/stage1/small.yaml", "modality=LULC",
         f"out={out}", f"data.shards={shards}", *TINY_TOKENIZER],
        1, out / "logs",
    )  # fmt: skip
    return out


@pytest.fixture
def copy(shards, tmp_path) -> Path:
    """The shard set without tokens."""
    target = tmp_path / "shards"
    shutil.copytree(shards, target, ignore=shutil.ignore_patterns("extra"))
    return target


def files(shards: Path) -> dict[str, bytes]:
    root = shards / "extra"
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.tar"))}


def test_one_and_three_ranks_write_the_same_bytes(copy, tokenizer, tmp_path):
    run_ranks(argv(copy, tokenizer), 1, tmp_path / "one")
    alone = files(copy)
    shutil.rmtree(copy / "extra")
    run_ranks(argv(copy, tokenizer), 3, tmp_path / "three")
    assert files(copy) == alone


def test_tokens_are_those_of_the_artifact_and_missing_parts_stay_missing(copy, tokenizer, tmp_path):
    run_ranks(argv(copy, tokenizer), 1, tmp_path / "logs")
    dataset = open_dataset(copy)
    name = extra_name("LULC")
    artifact = ImageTokenizer.from_pretrained(tokenizer / "artifact")
    assert (dataset.present(name) == dataset.present("LULC")).all()
    assert not dataset.present("LULC").all(), "the fixture should lack some"
    for i in dataset.select(require=["LULC"])[:5]:
        parts = dataset.read(int(i), [name, "LULC"])
        codes, classes = parts[name], parts["LULC"]
        assert isinstance(codes, np.ndarray)
        assert isinstance(classes, np.ndarray)
        windows = Views().all(classes, dataset.modalities["LULC"], artifact.window_m)
        np.testing.assert_array_equal(codes, artifact.tokenize(windows))
        assert codes.dtype == np.uint16


def test_a_second_job_is_refused_on_every_rank_while_one_writes(copy, tokenizer, tmp_path):
    first = Ranks(argv(copy, tokenizer), 2, tmp_path / "first")
    lock = copy / "extra" / extra_name("date") / ".lock"
    first.wait_for(lock)
    # Held where it is, so that the second job meets it whatever the machine is busy with.
    first.signal(signal.SIGSTOP, 0)
    second = Ranks(argv(copy, tokenizer), 2, tmp_path / "second")
    assert second.wait() == [2, 2]
    assert "another tokenize is writing" in second.output()
    # Killed, the first leaves no lock behind.
    first.kill()
    run_ranks(argv(copy, tokenizer), 2, tmp_path / "third")
    assert (
        open_dataset(copy).present(extra_name("date")) == open_dataset(copy).present("date")
    ).all()


def test_tokens_of_another_tokenizer_are_not_mixed_in(copy, tokenizer, tmp_path):
    run_ranks(argv(copy, tokenizer), 1, tmp_path / "first")
    before = files(copy)
    other = tmp_path / "other"
    run_ranks(
        ["pipeline", "train", "--config", "configs/stage1/small.yaml", "modality=LULC",
         f"out={other}", f"data.shards={copy}", *TINY_TOKENIZER, "engine.seed=1"],
        1, tmp_path / "train",
    )  # fmt: skip
    ranks = Ranks(argv(copy, other), 1, tmp_path / "second")
    assert ranks.wait() == [2]
    assert "tok_LULC" in ranks.output()
    assert files(copy) == before
