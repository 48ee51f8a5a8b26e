import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from shards import reading
from shards.dataset import Dataset, open_dataset
from shards.errors import DamagedError, ShardError
from shards.index import index_path, member_layout, read_index
from tests.shards.helpers import FILE_DTYPES, tiny_array


def flip_bit(built: Path, member: str) -> Path:
    """Change one bit in the middle of a member; returns its tar."""
    for tar in built.rglob("*.tar"):
        for name, offset, size in member_layout(read_index(index_path(tar))):
            if name == member:
                content = bytearray(tar.read_bytes())
                content[offset + size // 2] ^= 4
                tar.write_bytes(content)
                return tar
    raise AssertionError(f"no member {member}")


def checksum(dataset: Dataset) -> list[int]:
    return [int(np.sum(dataset.read(i, ["DEM"])["DEM"])) for i in range(dataset.num_samples)]


def test_samples_come_back_as_they_were_written(dataset: Dataset) -> None:
    for i, key in enumerate(dataset.keys):
        number = int(key.removeprefix("place"))
        parts = dataset.read(i, dataset.modalities)
        expected = {n for n in FILE_DTYPES if not (n == "S1RTC" and number % 3 == 0)}
        expected -= {"LULC"} if number % 4 == 1 else set()
        assert set(parts) == expected | {"coordinates", "date"}
        for name in expected:
            np.testing.assert_array_equal(
                parts[name], tiny_array(name, number).astype(dataset.modalities[name].dtype)
            )
        assert parts["date"] == "2021-07-23"


def test_samples_are_in_manifest_order(dataset: Dataset) -> None:
    order = {split: s for s, split in enumerate(dataset.manifest["splits"])}
    where = [dataset.location(i) for i in range(dataset.num_samples)]
    assert where == sorted(where, key=lambda w: (order[w[0]], w[1], w[2]))
    assert dataset.splits.tolist() == [split for split, *_ in where]


def test_select_filters_by_split_and_presence(dataset: Dataset) -> None:
    everything = dataset.select()
    assert everything.dtype == np.int64
    assert everything.tolist() == list(range(10))
    both = dataset.select("train", require=["S1RTC", "LULC"])
    assert both.tolist() == [
        i
        for i in range(10)
        if dataset.splits[i] == "train" and {"S1RTC", "LULC"} <= set(dataset.read(i, FILE_DTYPES))
    ]
    assert 0 < len(both) < len(dataset.select("train"))


def test_unknown_names_are_answered_with_known_ones(dataset: Dataset) -> None:
    with pytest.raises(ShardError, match="no split 'test'; it has train, val"):
        dataset.select("test")
    with pytest.raises(ShardError, match=r"no modality 'S2'; it holds S2L2A"):
        dataset.read(0, ["S2"])
    with pytest.raises(ShardError, match="no extra 'tok'"):
        dataset.extra_manifest("tok")
    with pytest.raises(IndexError):
        dataset.read(10, ["DEM"])


def test_only_the_wanted_bytes_are_read(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    read = reading.TarFiles.read_into

    def counting(self, path: str, size: int, offset: int, buffers: list[memoryview]) -> None:
        sizes.append(sum(map(len, buffers)))
        read(self, path, size, offset, buffers)

    monkeypatch.setattr(reading.TarFiles, "read_into", counting)
    monkeypatch.setattr(reading, "_MAX_GAP_BYTES", 0)
    dataset.read(0, ["DEM", "date"])
    assert len(sizes) == 2
    assert sum(sizes) < 24 * 24 * 2 + 200
    monkeypatch.setattr(reading, "_MAX_GAP_BYTES", 1 << 20)
    everything = dataset.read(0, dataset.modalities)
    assert len(sizes) == 3
    assert "DEM" in everything


def test_arrays_are_read_into_the_callers_where_they_fit(dataset: Dataset) -> None:
    names = ("S2L2A", "DEM", "coordinates")
    expected = dataset.read(2, names)
    batch = {n: np.zeros((2, *expected[n].shape), expected[n].dtype) for n in names}  # type: ignore
    wrong = {n: np.zeros((1, 2, 3)) for n in names}
    found = dataset.read(2, names, into={n: batch[n][1] for n in names})
    other = dataset.read(2, names, into=wrong)
    for name in names:
        assert np.shares_memory(found[name], batch[name])  # type: ignore
        np.testing.assert_array_equal(batch[name][1], expected[name])
        np.testing.assert_array_equal(other[name], expected[name])


def test_rows_come_from_the_manifest_not_from_todays_registry(copy: Path) -> None:
    rows = open_dataset(copy).modalities
    assert list(rows) == ["S2L2A", "S1RTC", "DEM", "LULC", "coordinates", "date"]
    assert rows["S1RTC"].nodata is not None
    assert np.isnan(rows["S1RTC"].nodata)


def test_a_folder_without_a_manifest_is_not_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no manifest.*shards build"):
        open_dataset(tmp_path)


def test_an_edited_manifest_is_told(copy: Path) -> None:
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace('"num_quarantined": 0', '"num_quarantined": 1'))
    with pytest.raises(ShardError, match="digest does not fit"):
        open_dataset(copy)


@pytest.mark.parametrize("file", ["train/shard-000000.tar", "index.bin"])
def test_a_truncated_file_is_told_before_the_first_read(copy: Path, file: str) -> None:
    path = copy / file
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(ShardError, match=f"{path}.*same build again"):
        open_dataset(copy)


def test_in_a_truncated_shard_the_whole_samples_still_read(copy: Path) -> None:
    tar = copy / "train/shard-000000.tar"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    dataset = open_dataset(copy, verify=False)
    assert set(dataset.read(0, ["DEM"])) == {"DEM"}
    with pytest.raises(DamagedError, match="behind its end"):
        dataset.read(3, ["DEM"])


def test_a_flipped_bit_names_file_offset_and_sample(copy: Path) -> None:
    tar = flip_bit(copy, "place4.S2L2A.b2")
    dataset = open_dataset(copy)
    i = dataset.keys.index("place4")
    with pytest.raises(
        DamagedError, match=rf"{tar}, sample place4: offset \d+, S2L2A\.b2: .*digest"
    ):
        dataset.read(i, ["S2L2A"])
    assert set(dataset.read(i, ["DEM"])) == {"DEM"}


def test_threads_forks_and_pickles_read_the_same(dataset: Dataset) -> None:
    expected = checksum(dataset)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(checksum, [dataset] * 8)) == [expected] * 8
    assert checksum(pickle.loads(pickle.dumps(dataset))) == expected
    context = multiprocessing.get_context("fork")
    parent, child = context.Pipe()
    process = context.Process(target=lambda: child.send(checksum(dataset)))
    process.start()
    assert parent.poll(30)
    assert parent.recv() == expected
    process.join()


def test_few_files_stay_open(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_MAX_OPEN_FILES", 1)
    expected = checksum(dataset)
    assert checksum(dataset) == expected
    assert len(dataset._own._files._open) == 1


def test_the_manifest_is_plain_json(built: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads((built / "manifest.json").read_text(), parse_constant=refuse)
