"""Tars that are cut: what lies before is used, and what may be lost is told and counted."""

import shutil
from pathlib import Path

import pytest

from shards.add import add_modalities
from shards.build import build
from shards.dataset import open_dataset
from shards.errors import ShardError
from shards.sample import Sample
from shards.sources.base import refs_of
from shards.verify import verify
from tests.shards.helpers import (
    config_for,
    make_collection,
    quarantine,
    source_config,
    tiny_array,
)
from tests.shards.webdataset_twin import dem, npy, source_of, write_tar


def cut_tar(folder: Path, num_bytes: int) -> Path:
    """Three samples of DEM and text, of which `num_bytes` are left; a member takes 1024."""
    members = [(f"k{i}.{s}", d) for i in range(3) for s, d in (("npy", npy(dem(i))), ("txt", b"t"))]
    path = write_tar(folder / "cut.tar", members)
    path.write_bytes(path.read_bytes()[:num_bytes])
    return path


def read_cut(path: Path) -> list[Sample]:
    source = source_of(path, {"npy": "DEM", "txt": "captions"})
    with pytest.warns(UserWarning, match=r"cut\.tar is cut or damaged.*what lies before is used"):
        refs = refs_of(source.listing())
    return [source.read(ref) for ref in refs]


def test_a_member_that_is_cut_is_a_fault_and_the_rest_is_used(tmp_path: Path) -> None:
    first, second = read_cut(cut_tar(tmp_path, 2 * 1024 + 700))
    assert set(first.parts) == {"DEM", "captions"}
    assert not first.faults
    assert "ends inside of k1.npy" in second.faults["DEM"]
    assert "may have been behind" in second.faults["captions"]
    assert not second.parts


@pytest.mark.parametrize("num_bytes", [3 * 1024, 3 * 1024 + 100])
def test_what_may_be_lost_behind_the_cut_is_a_fault(tmp_path: Path, num_bytes: int) -> None:
    first, second = read_cut(cut_tar(tmp_path, num_bytes))
    assert not first.faults
    assert set(second.parts) == {"DEM"}
    assert "k1.txt may have been behind" in second.faults["captions"]


def test_a_tar_that_is_cut_between_samples_is_a_fault_of_the_build(tmp_path: Path) -> None:
    path = cut_tar(tmp_path, 4 * 1024)
    members = {"npy": "DEM", "txt": "captions"}
    source: dict[str, object] = {"type": "webdataset", "urls": [str(path)], "members": members}
    out = tmp_path / "out"
    with (
        pytest.warns(UserWarning, match="what lies before is used"),
        pytest.raises(
            ShardError, match=r"k1\.tar: .*cut\.tar is cut.*samples may have been behind"
        ),
    ):
        build(source_config(source, out), quiet=True)
    result = build(source_config(source, out, max_bad=1), quiet=True)
    assert result is not None
    assert (result.num_samples, result.num_quarantined) == (2, 1)
    assert [(fault["key"], fault["part"]) for fault in quarantine(out)] == [("k1", "tar")]
    assert verify(out).ok


def test_what_is_added_of_a_cut_tar_is_told_too(tmp_path: Path) -> None:
    source = make_collection(tmp_path / "in", num=2)
    shutil.rmtree(source / "DEM")
    out = tmp_path / "out"
    build(config_for(source, out), quiet=True)
    path = write_tar(tmp_path / "late.tar", [("place0.npy", npy(tiny_array("DEM", 0)))])
    path.write_bytes(path.read_bytes()[: 512 + 1536])
    late = {"type": "webdataset", "urls": [str(path)], "members": {"npy": "DEM"}}
    told = pytest.warns(UserWarning, match="what lies before is used")
    with told, pytest.raises(ShardError, match=r"place0\.tar: .*late\.tar is cut"):
        add_modalities(open_dataset(out), source_config(late, out), quiet=True)
    with pytest.warns(UserWarning, match="what lies before is used"):
        (added,) = add_modalities(
            open_dataset(out), source_config(late, out, max_bad=1), quiet=True
        )
    assert (added.num_present, [f.part for f in added.faults]) == (1, ["tar"])
