import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from configs.registry import modality
from shards.__main__ import main
from shards.build import build
from shards.index import index_path, member_layout, read_index
from shards.verify import Report, strange_values, verify
from tests.shards.helpers import config_for, write_tiff
from tests.shards.test_dataset import flip_bit


def first_tar(copy: Path) -> Path:
    return copy / "train" / "shard-000000.tar"


def edit(path: Path, change: Callable[[bytearray], object]) -> None:
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def errors(report: Report) -> str:
    return "\n".join(f"[{f.level}] {f.where}: {f.what} -> {f.todo}" for f in report.errors)


def test_a_whole_data_set_is_sound(built: Path) -> None:
    report = verify(built)
    assert report.findings == []
    assert (report.num_shards, report.num_samples) == (3, 10)
    members = sum(len(member_layout(read_index(p))) for p in built.glob("*/*.idx"))
    assert report.num_parts == members
    assert report.num_read == 3
    # Headers, padding and the ends of the tars are not data.
    whole = sum(p.stat().st_size for p in built.glob("*/*.tar"))
    assert whole / 2 < report.num_bytes < whole


def test_no_manifest_is_one_clear_error(tmp_path: Path) -> None:
    assert "no manifest" in errors(verify(tmp_path))


def test_a_cut_shard_is_told_by_its_size(copy: Path) -> None:
    tar = first_tar(copy)
    tar.write_bytes(tar.read_bytes()[:-512])
    assert f"[sizes] {tar}: " in errors(verify(copy, "sizes"))
    assert "two zero blocks expected" in errors(verify(copy, "walk"))


def test_a_missing_shard_and_a_missing_index_are_told(copy: Path) -> None:
    first_tar(copy).unlink()
    index_path(copy / "val" / "shard-000000.tar").unlink()
    told = errors(verify(copy, "sizes"))
    assert "train/shard-000000.tar: missing" in told
    assert "val/shard-000000.idx" in told
    assert "run the same build again" in told


def test_a_changed_header_is_told_by_the_walk(copy: Path) -> None:
    edit(first_tar(copy), lambda content: content.__setitem__(0, content[0] ^ 1))
    assert verify(copy, "sizes").ok
    assert "checksum" in errors(verify(copy, "walk"))


def test_swapped_members_are_told_by_the_walk(copy: Path) -> None:
    tar = first_tar(copy)
    (name, offset, _), (other, second, _), *_ = member_layout(read_index(index_path(tar)))

    def swap(content: bytearray) -> None:
        head, tail = content[offset - 512 : offset], content[second - 512 : second]
        content[offset - 512 : offset], content[second - 512 : second] = tail, head

    edit(tar, swap)
    told = errors(verify(copy, "walk"))
    assert f"{name} is there by the index" in told
    assert other in told


def test_junk_after_the_last_member_is_told(copy: Path) -> None:
    edit(first_tar(copy), lambda content: content.__setitem__(-1, 7))
    assert "two zero blocks expected" in errors(verify(copy, "walk"))


def test_a_flipped_bit_is_told_by_digests_with_its_place(copy: Path) -> None:
    tar = flip_bit(copy, "place4.S2L2A.b2")
    assert verify(copy, "walk").ok
    report = verify(copy)
    (finding,) = report.errors
    assert finding.level == "digests"
    assert finding.where == str(tar)
    assert "place4.S2L2A.b2: damaged bytes" in finding.what
    assert "run the same build again" in finding.todo


def test_following_the_advice_heals(copy: Path, collection: Path) -> None:
    tar = flip_bit(copy, "place4.S2L2A.b2")
    tar.unlink()
    index_path(tar).unlink()
    build(config_for(collection, copy), quiet=True)
    assert verify(copy).ok


def test_a_vector_may_hold_its_nodata_and_nothing_else_that_is_no_number() -> None:
    era5 = modality("ERA5")
    values = np.zeros(era5.num_bands, np.float32)
    values[3] = np.nan
    assert strange_values(values, era5) == []
    values[3] = np.inf
    assert strange_values(values, era5) == []
    strict = era5.model_copy(update={"nodata": None})
    assert strange_values(values, strict) == ["values out of range"]


def test_a_foreign_samples_table_is_told(copy: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = copy / "samples.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    assert "9 rows, the index 10 samples" in errors(verify(copy))
    pq.write_table(pa.concat_tables([table.slice(1), table.slice(0, 1)]), path)
    assert "its keys differ" in errors(verify(copy))
    present = table.column("present").to_numpy() ^ 1
    changed = table.set_column(
        table.column_names.index("present"), "present", [present.astype(np.uint32)]
    )
    pq.write_table(changed, path)
    assert "S2L2A is present by one, not the other" in errors(verify(copy))
    path.write_bytes(b"no parquet")
    assert "samples.parquet" in errors(verify(copy))


def test_one_cell_in_two_splits_is_told(copy: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = copy / "samples.parquet"
    table = pq.read_table(path)
    for name in ("lon", "lat"):
        same = pa.array([1.0] * len(table))
        table = table.set_column(table.column_names.index(name), name, same)
    pq.write_table(table, path)
    assert "grid cells of 0.25 degrees lie in two splits" in errors(verify(copy))


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("NDVI", [0.5, 0.25], []),
        ("NDVI", [0.5, 3.0], ["values outside -1 .. 1 1"]),
        ("NDVI", [0.5, np.inf], ["infinite values"]),
        ("NDVI", [np.nan, np.nan], ["no valid pixel"]),
        ("DEM", [12, -32768], []),
        ("DEM", [12, 12], []),
        ("LULC", [4, 4], []),
        ("S2RGB", [7, 7], ["a constant image"]),
        ("S2RGB", [7, 8], ["identical bands (R, G, B)"]),
        ("S1RTC", [-7, -8], ["identical bands (VV, VH)"]),
    ],
)
def test_strange_values_are_named(name: str, values: list[float], told: list[str]) -> None:
    row = modality(name)
    array = np.broadcast_to(np.array(values, row.dtype), (row.num_bands, 1, 2))
    assert strange_values(array, row) == told


def test_strange_values_are_warnings_that_count(tmp_path: Path) -> None:
    for name, value in (("a", 2.5), ("b", 3.5)):
        write_tiff(tmp_path / "in" / "NDVI" / f"{name}.tif", np.full((1, 4, 4), value))
    build(config_for(tmp_path / "in", tmp_path / "out", splits={"train": 1.0}), quiet=True)
    report = verify(tmp_path / "out")
    assert report.ok
    (warning,) = report.warnings
    assert (warning.where, warning.level) == ("NDVI", "decode")
    assert warning.what.startswith("values outside -1 .. 1 1 in 2 of 2 samples")


def test_a_damaged_index_of_the_data_set_is_told_and_the_shards_are_read(copy: Path) -> None:
    edit(copy / "index.bin", lambda content: content.__setitem__(-1, content[-1] ^ 1))
    report = verify(copy)
    (finding,) = report.errors
    assert (finding.level, finding.where) == ("sizes", str(copy / "index.bin"))
    assert report.num_read == 3


@pytest.mark.parametrize(("call", "told"), [("open", "cannot be opened"), ("preadv", "offset 0: ")])
def test_a_disk_that_cannot_read_is_an_error_of_its_shard(
    call: str, told: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(f"shards.checks.files.os.{call}", refuse)
    report = verify(copy, "walk")
    wrong = [f for f in report.errors if f.where == str(first_tar(copy))]
    assert wrong[0].what.startswith(told)
    assert "Input/output error" in wrong[0].what
    assert {f.where for f in report.errors} == {str(t) for t in copy.glob("*/*.tar")}


def test_the_options_reach_the_check(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*options: str) -> str:
        with pytest.raises(SystemExit):
            main(["verify", str(copy), "--quiet", *options])
        return "".join(capsys.readouterr())

    assert "sound (semantics; only 1 of 3 shards were read)" in run("--sample", "0.1")
    told = [json.loads(run("--json", "--sample", "0.4", "--seed", str(s))) for s in range(6)]
    assert {t["num_read"] for t in told} == {2}
    assert len({t["num_bytes"] for t in told}) > 1
    assert told[0]["seconds"]["total"] > 0
    assert json.loads(run("--json", "--jobs", "2"))["ok"] is True
    assert "write a share above 0" in run("--sample", "0")


def test_the_screen_is_not_flooded(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.cli.look._MAX_SHOWN", 3)
    first_tar(copy).write_bytes(bytes(first_tar(copy).stat().st_size))
    with pytest.raises(SystemExit):
        main(["verify", str(copy), "--level", "walk"])
    shown = capsys.readouterr().out
    assert shown.count("error: [walk]") == 3
    assert "more; --json gives all" in shown


def test_the_exit_status_tells(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for status, told in ((0, "sound"), (1, "NOT sound")):
        with pytest.raises(SystemExit) as left:
            main(["verify", str(copy)])
        assert left.value.code == status
        assert told in capsys.readouterr().out
        flip_bit(copy, "place4.S2L2A.b2")
