from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.dataset import Dataset, open_dataset
from shards.errors import DamagedError, ShardError
from shards.extra import ExtraWriter
from shards.verify import verify
from tests.shards.test_dataset import flip_bit

INFO = {"tokenizer": "abc", "vocab_size": 15360, "levels": (8, 8)}


def tokens_of(dataset: Dataset, i: int) -> np.ndarray | None:
    """Distinct tokens for every sample that has S1RTC."""
    return np.full((4, 4), 100 + i, np.uint16) if dataset.present("S1RTC")[i] else None


def write(dataset: Dataset, writer: ExtraWriter, shards: list[tuple[str, str]]) -> None:
    for split, name in shards:
        samples = dataset.shard_samples(split, name)
        writer.write_shard(f"{split}/{name}", [tokens_of(dataset, i) for i in samples])


def test_an_extra_is_read_like_any_modality(copy: Path) -> None:
    dataset = open_dataset(copy)
    writer = ExtraWriter(dataset, "tok_S1RTC", INFO)
    write(dataset, writer, list(dataset.shards))
    assert open_dataset(copy).extras == (), "an extra exists when it is committed"
    writer.commit()
    again = open_dataset(copy)
    assert again.extras == ("tok_S1RTC",)
    assert again.fingerprint == dataset.fingerprint
    assert again.extra_manifest("tok_S1RTC")["info"]["vocab_size"] == 15360
    np.testing.assert_array_equal(again.present("tok_S1RTC"), dataset.present("S1RTC"))
    for i in again.select(require=["tok_S1RTC"]):
        parts = again.read(i, ["tok_S1RTC", "DEM"])
        np.testing.assert_array_equal(parts["tok_S1RTC"], tokens_of(dataset, i))
        assert np.asarray(parts["tok_S1RTC"]).dtype == np.uint16
    assert "tok_S1RTC" not in again.read(int(np.argmin(again.present("S1RTC"))), ["tok_S1RTC"])
    assert verify(copy).ok


def test_an_extra_is_resumed_shard_by_shard(copy: Path) -> None:
    dataset = open_dataset(copy)
    first, *others = dataset.shards
    write(dataset, ExtraWriter(dataset, "tok", INFO), [first])
    writer = ExtraWriter(dataset, "tok", INFO)
    assert writer.done_shards() == {"/".join(first)}
    with pytest.raises(ShardError, match="shards are missing"):
        writer.commit()
    write(dataset, writer, others)
    assert writer.commit() == ExtraWriter(dataset, "tok", INFO).commit()


def test_shards_that_lack_parts_are_taken_back_and_written_anew(copy: Path) -> None:
    dataset = open_dataset(copy)
    writer = ExtraWriter(dataset, "tok", INFO)
    first, *others = dataset.shards
    samples = dataset.shard_samples(*first)
    writer.write_shard("/".join(first), [None] * len(samples))
    write(dataset, writer, others)
    writer.commit()
    has = [i for i in samples if dataset.present("S1RTC")[i]]
    assert writer.lacking(dataset.present("S1RTC")) == {"/".join(first): has}
    writer.discard(["/".join(first)])
    assert open_dataset(copy).extras == (), "half an extra is none, and stops nobody"
    assert writer.done_shards() == {"/".join(shard) for shard in others}
    write(dataset, writer, [first])
    writer.commit()
    assert writer.lacking(dataset.present("S1RTC")) == {}
    np.testing.assert_array_equal(open_dataset(copy).present("tok"), dataset.present("S1RTC"))
    assert verify(copy).ok


def test_parts_of_different_makers_never_mix(copy: Path) -> None:
    dataset = open_dataset(copy)
    ExtraWriter(dataset, "tok", INFO)
    with pytest.raises(ShardError, match=r"'abc'.*'xyz'"):
        ExtraWriter(dataset, "tok", INFO | {"tokenizer": "xyz"})
    # Where from here the tokenizer lies is no part of what it is: runs may be moved.
    ExtraWriter(dataset, "tok", INFO | {"artifact": "../../elsewhere/artifact"})


@pytest.mark.parametrize(
    ("misuse", "told"),
    [
        (lambda d: ExtraWriter(d, "tok.x", {}), "cannot name an extra"),
        (lambda d: ExtraWriter(d, "DEM", {}), "has had DEM since it was built"),
        (lambda d: ExtraWriter(d, "t", {}).write_shard("train/shard-000000", []), "4 samples, 0"),
        (lambda d: ExtraWriter(d, "t", {}).write_shard("train/shard-9", []), "no shard"),
    ],
)
def test_misuse_is_told(copy: Path, misuse: Callable[[Dataset], object], told: str) -> None:
    with pytest.raises(ShardError, match=told):
        misuse(open_dataset(copy))


def test_an_extra_of_another_data_set_is_refused(copy: Path) -> None:
    dataset = open_dataset(copy)
    writer = ExtraWriter(dataset, "tok", INFO)
    write(dataset, writer, list(dataset.shards))
    dataset.fingerprint = "of another data set"
    writer.commit()
    with pytest.raises(ShardError, match="made for another data set"):
        open_dataset(copy)


def test_damage_in_an_extra_is_told(copy: Path) -> None:
    dataset = open_dataset(copy)
    writer = ExtraWriter(dataset, "tok", INFO)
    write(dataset, writer, list(dataset.shards))
    writer.commit()
    i = int(dataset.select(require=["S1RTC"])[0])
    flip_bit(copy / "extra", f"{dataset.keys[i]}.tok.npy")
    with pytest.raises(DamagedError, match="extra/tok"):
        open_dataset(copy).read(i, ["tok"])
    assert not verify(copy).ok
