"""Each check of sense finds the defect that is planted, and nothing else; a sound set has none."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.verify import verify
from tests.shards.flaws import SINGLE, told
from tests.shards.planted import DAY, build_planted, sample


def test_samples_that_make_sense_are_passed(tmp_path: Path) -> None:
    report = verify(build_planted(tmp_path / "set", [sample(i) for i in range(5)]))
    assert told(report) == []
    assert set(report.seconds) == {"sizes", "digests", "decode", "semantics", "total"}
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("name", SINGLE)
def test_what_is_strange_in_one_sample_is_told_once(name: str, tmp_path: Path) -> None:
    planted, severity, what = SINGLE[name]
    others = [sample(i) for i in (0, 2, 3)]
    report = verify(build_planted(tmp_path / "set", [planted, *others]))
    ((found, words),) = told(report)
    assert found == severity
    assert words.startswith(what)
    assert "in 1 of 4 samples, such as place1" in words
    assert report.ok == (severity == "warning")


def test_the_bound_on_days_is_the_users(tmp_path: Path) -> None:
    out = build_planted(tmp_path / "set", [SINGLE["window"][0]])
    assert verify(out, max_days=61).findings == []
    assert "more than 60 days apart" in verify(out, max_days=60).findings[0].what


def test_the_worst_sample_is_the_example(tmp_path: Path) -> None:
    days = ("2021-05-01", "2021-01-01", "2021-04-01")
    samples = [sample(i, times={"S2L2A": DAY, "S1GRD": day}) for i, day in enumerate(days)]
    (finding,) = verify(build_planted(tmp_path / "set", samples, samples_per_shard=1)).findings
    assert "in 3 of 3 samples, such as place1 (S1GRD and S2L2A: 203 days)" in finding.what


def change_column(out: Path, name: str, change: Callable[[list], list]) -> None:
    path = out / "samples.parquet"
    table = pq.read_table(path)
    column = table.column(name)
    values = pa.array(change(column.to_pylist()), column.type)
    pq.write_table(table.set_column(table.column_names.index(name), name, values), path)


def test_a_table_that_contradicts_its_samples_is_told(tmp_path: Path) -> None:
    out = build_planted(tmp_path / "set", [sample(i) for i in range(4)])
    change_column(out, "lon", lambda lon: [lon[0] + 2, *lon[1:]])
    ((severity, what),) = told(verify(out))
    assert severity == "error"
    assert "its lon and lat differ from those of 1 samples of" in what
    change_column(out, "split", lambda split: ["val", *split[1:]])
    assert "its splits differ from the manifest's" in told(verify(out))[0][1]


def test_a_key_that_comes_twice_is_told(tmp_path: Path) -> None:
    a, b = sample(0), sample(1)
    out = build_planted(tmp_path / "set", [a, b], {"train": [[a, b], [a]]})
    assert ("error", f"{out / 'samples.parquet'}: keys come twice: place0") in told(verify(out))
