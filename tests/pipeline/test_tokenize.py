"""Tokens of a shard set that is damaged, that has samples no token can name, or that others write to."""

from pathlib import Path

import numpy as np
import pytest

from configs import load_config
from configs.registry import BandStatistics, modality
from configs.schema import ShardsConfig, TokenizerConfig
from pipeline.__main__ import main
from pipeline.stage1.artifact import ImageTokenizer
from pipeline.stage1.tokenizer import Tokenizer
from shards import open_dataset
from shards.build import build
from shards.extra import ExtraWriter
from shards.files import try_lock
from shards.repair import repair
from tests.shards.test_dataset import flip_bit


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """16 synthetic samples in shards of 4, none of which lacks a date."""
    out = tmp_path / "shards"
    argv = [
        f"out={out}", "source.num_samples=16", "source.tile_px=24", "source.missing=0",
        "samples_per_shard=4",
    ]  # fmt: skip
    config = load_config("configs/shards/synthetic.yaml", argv)
    assert isinstance(config, ShardsConfig)
    build(config, quiet=True)
    return out


def tokenize(shards: Path, *more: str) -> int:
    config = "configs/tokenize/small.yaml"
    return main(
        [
            "tokenize",
            "--config",
            config,
            f"data.shards={shards}",
            "modalities=[date]",
            "device=cpu",
            *more,
        ]
    )


def written(shards: Path) -> dict[str, int]:
    """When each shard of tokens was made."""
    return {str(p): p.stat().st_mtime_ns for p in sorted((shards / "extra").rglob("*.tar"))}


def test_damaged_parts_get_their_tokens_once_they_are_whole_again(shards, capsys):
    key = open_dataset(shards).keys[0]
    flip_bit(shards, f"{key}.date.txt")
    assert tokenize(shards) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "damaged parts without tokens: 1 of date;" in last
    assert f"python -m shards repair {shards}" in last
    dataset = open_dataset(shards)
    assert np.flatnonzero(~dataset.present("tok_date")).tolist() == [0]
    faults = ExtraWriter(dataset, "tok_date", dataset.extra_manifest("tok_date")["info"]).faults()
    assert [(f.key, f.part) for f in faults] == [(key, "date")]
    before = written(shards)

    assert tokenize(shards) == 0, "the damage is still there: nothing is made anew"
    assert "damaged parts without tokens" in capsys.readouterr().out.splitlines()[-1]
    assert written(shards) == before

    repair(shards)
    assert tokenize(shards) == 0
    out = capsys.readouterr().out
    assert "shards anew, as damaged parts are whole again: 1" in out
    assert "without tokens" not in out
    after = written(shards)
    assert [path for path in after if after[path] != before[path]] == list(before)[:1]
    again = open_dataset(shards)
    assert again.present("tok_date").all()
    assert "tok_date" in again.read(0, ["tok_date"])


def test_a_sample_that_no_token_can_name_is_named(shards, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.stage1.place_time.FIRST_YEAR", 2100)
    assert tokenize(shards) == 2
    (told,) = capsys.readouterr().err.splitlines()
    key, tar = open_dataset(shards).locate(0)
    assert told.startswith(f"error: date of sample {key} in {tar} cannot be tokenized: ")
    assert "lies outside 2100..2199; correct it in the source" in told


def test_a_tile_smaller_than_the_tokenizer_s_window_is_named(shards, tmp_path, capsys):
    save_tokenizer("DEM", tmp_path / "DEM", 32)
    assert tokenize(shards, "modalities=[]", f"tokenizers.DEM={tmp_path / 'DEM'}") == 2
    (told,) = capsys.readouterr().err.splitlines()
    key, tar = open_dataset(shards).locate(0)
    assert told.startswith(f"error: DEM of sample {key} in {tar} cannot be tokenized: a window of ")
    assert "smaller tokenizer.crop_px" in told


def test_two_jobs_do_not_write_the_same_tokens(shards, capsys):
    folder = shards / "extra" / "tok_date"
    folder.mkdir(parents=True)
    with try_lock(folder / ".lock") as mine:
        assert mine
        assert tokenize(shards, "modalities=[coordinates,date]") == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert (
            told == f"error: another tokenize is writing date of {shards}; wait for it or stop it"
        )
        assert written(shards) == {}, "refused before anything is written"
        assert tokenize(shards, "modalities=[coordinates]") == 0, "other tokens are nobody's"
    assert tokenize(shards, "modalities=[coordinates,date]") == 0


def save_tokenizer(name: str, folder: Path, side: int) -> None:
    row = modality(name)
    config = TokenizerConfig(width=32, heads=2, encoder_depth=1, decoder_depth=1, crop_px=side)
    model = Tokenizer(row, config, side)
    ImageTokenizer(model, row, BandStatistics((0.0,), (1.0,))).save(folder / "artifact")
