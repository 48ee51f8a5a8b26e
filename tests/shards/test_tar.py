import gc
import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.codec import decode_part
from shards.dataset import Dataset
from shards.errors import DamagedError, SampleError, ShardError
from shards.index import committed, index_path, member_layout, read_index
from shards.tar import END, check_key, escape_key, header, parse_header
from shards.writer import ShardWriter
from tests.shards.helpers import ROOT


def tars(built: Path) -> list[Path]:
    return sorted(built.glob("*/*.tar"))


# WebDataset leaves the closing of its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_webdataset_reads_every_sample(dataset: Dataset) -> None:
    webdataset = pytest.importorskip("webdataset")
    seen = {}
    for tar in tars(dataset.path):
        stream = webdataset.WebDataset(str(tar), shardshuffle=False).decode()
        seen |= {sample["__key__"]: sample for sample in stream}
    gc.collect()
    assert set(seen) == set(dataset.keys)
    for i, key in enumerate(dataset.keys):
        ours = dataset.read(i, dataset.modalities)
        theirs = seen[key]
        np.testing.assert_array_equal(theirs["coordinates.npy"], ours["coordinates"])
        assert theirs["meta.json"]["lon"] == dataset.meta(i).lon
        assert theirs["date.txt"] == ours["date"]
        # WebDataset writes all suffixes in lower case.
        maps = {n for n in ours if dataset.modalities[n].is_map}
        assert {n for n in theirs if n.endswith(".b2")} == {f"{n.lower()}.b2" for n in maps}
        for name in maps:
            stored = decode_part("b2", theirs[f"{name.lower()}.b2"])
            np.testing.assert_array_equal(stored, ours[name])


def test_tarfile_agrees_with_the_index(built: Path) -> None:
    for tar in tars(built):
        with tarfile.open(tar) as archive:
            found = [(m.name, m.offset_data, m.size) for m in archive]
            assert all((m.mtime, m.uid, m.gid, m.mode) == (0, 0, 0, 0o644) for m in archive)
        assert found == member_layout(read_index(index_path(tar)))
        assert tar.read_bytes().endswith(END)


def test_header_bytes_equal_those_of_tarfile() -> None:
    info = tarfile.TarInfo("place1.S2L2A.b2")
    info.size = 1234567
    reference = info.tobuf(tarfile.USTAR_FORMAT)
    ours = header("place1.S2L2A.b2", 1234567)
    # Device numbers are empty for regular files here, zeros there; so are the checksums over them.
    assert ours[:148] == reference[:148]
    assert ours[156:329] == reference[156:329]
    assert parse_header(ours) == parse_header(reference) == ("place1.S2L2A.b2", 1234567)


@given(st.text())
def test_any_text_escapes_to_a_usable_key(text: str) -> None:
    if text and text.isprintable():
        check_key(escape_key(text))


@given(st.text(), st.text())
def test_escaping_keeps_different_texts_different(a: str, b: str) -> None:
    assert (escape_key(a) == escape_key(b)) == (a == b)


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "a b", "a\nb"])
def test_keys_that_would_break_readers_are_rejected(key: str, tmp_path: Path) -> None:
    with (
        ShardWriter(tmp_path / "s.tar", ["a.txt"]) as writer,
        pytest.raises(SampleError, match="key"),
    ):
        writer.add(key, {"a.txt": b"x"})


def test_a_name_too_long_for_ustar_is_rejected() -> None:
    with pytest.raises(SampleError, match="shorter key"):
        header("k" * 95 + ".S2L2A.b2", 0)


def test_a_key_comes_only_once(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s.tar", ["a.txt"]) as writer:
        writer.add("k", {"a.txt": b"x"})
        with pytest.raises(SampleError, match="twice"):
            writer.add("k", {"a.txt": b"y"})


def test_damaged_headers_are_told() -> None:
    block = bytearray(header("k.a.txt", 1))
    block[0] ^= 1
    with pytest.raises(DamagedError, match="checksum"):
        parse_header(bytes(block))
    with pytest.raises(DamagedError, match="ends"):
        parse_header(b"short")


def test_a_shard_does_not_exist_before_its_commit(tmp_path: Path) -> None:
    tar = tmp_path / "s.tar"
    with ShardWriter(tar, ["a.txt"]) as writer:
        writer.add("k", {"a.txt": b"x"})
        assert committed(tar) is None
        assert all(p.name.startswith(".") for p in tmp_path.iterdir())
        writer.commit()
    index = committed(tar)
    assert index is not None
    assert index.keys == ("k",)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.idx", "s.tar"]


def test_leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with ShardWriter(tmp_path / "s.tar", ["a.txt"]) as writer:
            writer.add("k", {"a.txt": b"x"})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_the_next_writer_sweeps_what_a_killed_one_left(tmp_path: Path) -> None:
    for name in (".s.tar.tmp-elsewhere-1", ".s.idx.tmp-elsewhere-1", ".s.json.tmp-elsewhere-1"):
        (tmp_path / name).write_bytes(b"half")
    with ShardWriter(tmp_path / "s.tar", ["a.txt"]) as writer:
        writer.commit()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.idx", "s.tar"]


@given(st.data())
def test_no_bit_of_an_index_can_flip_unnoticed(built: Path, data: st.DataObject) -> None:
    source = index_path(tars(built)[0])
    content = bytearray(source.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    damaged = built.parent / "flipped.idx"
    damaged.write_bytes(content)
    with pytest.raises(ShardError, match="flipped"):
        read_index(damaged)


@given(st.data())
def test_no_cut_index_is_taken_for_a_whole_one(built: Path, data: st.DataObject) -> None:
    content = index_path(tars(built)[0]).read_bytes()
    cut = built.parent / "cut.idx"
    cut.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ShardError, match="same build again"):
        read_index(cut)


def test_absent_parts_are_cleared_bits_and_zero_records(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s.tar", ["a.txt", "b.txt"]) as writer:
        writer.add("k", {"b.txt": b"x"})
        index = writer.commit()
    assert index.present.tolist() == [0b10]
    assert index.entries[0, 0].tolist() == (0, 0, 0)
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "s.tar").read_bytes())) as archive:
        assert archive.getnames() == ["k.b.txt"]


OPEN_MANY = """
import resource, sys
from pathlib import Path
from shards.index import read_index

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
kept = [read_index(path) for path in Path(sys.argv[1]).glob("*.idx")]
print(sum(len(index.keys) for index in kept))
"""


def test_indices_of_more_shards_than_files_may_be_open_are_read(
    built: Path, tmp_path: Path
) -> None:
    for number in range(100):
        shutil.copy(built / "train" / "shard-000000.idx", tmp_path / f"shard-{number:06d}.idx")
    command = [sys.executable, "-c", OPEN_MANY, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "400\n", done.stderr
