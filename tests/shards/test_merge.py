"""Several data sets made one, or read as one."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from shards.add import add_modalities
from shards.build import build, hold_alone
from shards.dataset import open_dataset
from shards.errors import ShardError
from shards.merge import merge
from shards.mixed import MixedDataset
from shards.verify import verify
from tests.shards.helpers import (
    config_for,
    contents,
    make_collection,
    move_out,
    run_json,
    stacked,
)


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    """Two data sets with different keys and modalities; places of the second lie elsewhere."""
    first = make_collection(tmp_path / "first", num=6)
    second = make_collection(tmp_path / "second", num=12)
    shutil.rmtree(second / "S1RTC")
    for number in range(6):
        for file in second.rglob(f"place{number}.tif"):
            file.unlink()
    for source, name in ((first, "a"), (second, "b")):
        build(config_for(source, tmp_path / name), quiet=True)
    return tmp_path / "a", tmp_path / "b"


def test_merged_data_sets_hold_every_sample_of_both(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "both"
    found = run_json("merge", out, *halves)
    assert found["samples"] == 12
    assert verify(out).errors == []
    both = open_dataset(out)
    assert both.split_names() == ("train", "val")
    for path in halves:
        member = open_dataset(path)
        for i, key in enumerate(member.keys):
            j = both.keys.index(key)
            assert both.location(j)[0] == member.location(i)[0]
            theirs, ours = (d.read(k, d.modalities) for d, k in ((member, i), (both, j)))
            assert theirs.keys() == ours.keys()
            for name, part in theirs.items():
                np.testing.assert_array_equal(part, ours[name])
    pixels = stacked(both, "DEM", "train")
    assert both.statistics["DEM"].mean[0] == pytest.approx(pixels.mean())
    assert both.statistics["DEM"].std[0] == pytest.approx(pixels.std())
    tar = next(out.rglob("*.tar"))
    assert tar.stat().st_nlink == 2
    assert merge(out, halves)["fingerprint"] == found["fingerprint"]
    with pytest.raises(ShardError, match="holds another data set"):
        merge(out, halves[:1])


def test_a_merge_refuses_repeated_keys_and_leaking_cells(
    halves: tuple[Path, Path], collection: Path, tmp_path: Path
) -> None:
    with pytest.raises(ShardError, match="keys come twice"):
        merge(tmp_path / "twice", [halves[0], halves[0]])
    source = Path(shutil.copytree(collection, tmp_path / "renamed"))
    for file in source.rglob("*.tif"):
        file.rename(file.with_name(f"x{file.name}"))
    build(config_for(source, tmp_path / "x", splits={"val": 1.0}), quiet=True)
    with pytest.raises(ShardError, match=r"lie in two splits.*--allow-leakage"):
        merge(tmp_path / "leaky", [halves[0], tmp_path / "x"])
    assert merge(tmp_path / "leaky", [halves[0], tmp_path / "x"], allow_leakage=True)


@pytest.fixture
def one_with_added(halves: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same, but the class maps of the second were added after its build."""
    first, _ = halves
    late = tmp_path / "late"
    move_out(tmp_path / "second", "LULC", late)
    out = tmp_path / "c"
    build(config_for(tmp_path / "second", out), quiet=True)
    add_modalities(open_dataset(out), config_for(late, out), quiet=True)
    return first, out


def test_a_merge_does_not_drop_what_was_added_unless_it_may(
    one_with_added: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ShardError, match=r"has had LULC added .*--without-added"):
        merge(tmp_path / "both", one_with_added)
    assert not (tmp_path / "both").exists()
    run_json("merge", tmp_path / "both", *one_with_added, "--without-added")
    both = open_dataset(tmp_path / "both")
    num = open_dataset(one_with_added[0]).present("LULC").sum()
    assert both.present("LULC").sum() == num
    assert verify(tmp_path / "both").errors == []


def test_statistics_of_a_mixture_count_added_modalities(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    late = tmp_path / "late"
    move_out(tmp_path / "second", "DEM", late)
    out = tmp_path / "c"
    build(config_for(tmp_path / "second", out), quiet=True)
    add_modalities(open_dataset(out), config_for(late, out), quiet=True)
    members = [open_dataset(halves[0]), open_dataset(out)]
    pixels = np.concatenate([stacked(member, "DEM", "train") for member in members], axis=1)
    found = MixedDataset(members).statistics["DEM"]
    np.testing.assert_allclose(found.mean, pixels.mean(1))
    np.testing.assert_allclose(found.std, pixels.std(1))


def test_cells_of_different_sizes_are_not_merged(halves: tuple[Path, Path], tmp_path: Path) -> None:
    build(config_for(tmp_path / "second", tmp_path / "c", split_cell_deg=0.5), quiet=True)
    with pytest.raises(ShardError, match=r"0\.25 in .*0\.5 in .*the same split_cell_deg"):
        merge(tmp_path / "both", [halves[0], tmp_path / "c"])


def test_a_merge_keeps_out_of_the_folder_of_a_build(
    halves: tuple[Path, Path], copy: Path, tmp_path: Path
) -> None:
    (copy / "manifest.json").unlink()
    before = contents(copy)
    with pytest.raises(ShardError, match="holds a build of its own"):
        merge(copy, halves)
    assert contents(copy) == before
    with hold_alone(tmp_path / "both"), pytest.raises(ShardError, match="is writing to"):
        merge(tmp_path / "both", halves)


def test_a_merge_that_was_stopped_goes_on_and_leaves_no_temporary(
    halves: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole"
    merge(whole, halves)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "both"
    with monkeypatch.context() as patch:
        patch.setattr("shards.merge.finish.finish", stop)
        with pytest.raises(KeyboardInterrupt):
            merge(out, halves)
    merge(out, halves)
    assert contents(out) == contents(whole)


def test_a_merge_copies_where_there_are_no_links(
    halves: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    merge(tmp_path / "both", halves)
    assert next((tmp_path / "both").rglob("*.tar")).stat().st_nlink == 1
    assert verify(tmp_path / "both").errors == []
