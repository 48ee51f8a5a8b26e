"""Each check of sense finds the defect that is planted, and nothing else; a sound set has none."""

import dataclasses
import datetime
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.registry import modality
from shards.build import build
from shards.checks import duplicates, looks
from shards.checks.drift import OFFSET_DAY, Drift, first_day, period_of, quantiles
from shards.checks.notes import NO_DAY, Columns
from shards.checks.pool import check_shards
from shards.checks.steps import find_steps
from shards.checks.table import Table
from shards.dataset import open_dataset
from shards.errors import ShardError
from shards.manifest import write_manifest
from shards.sample import Sample
from shards.splitting import make_splitting
from shards.verify import Report, verify
from tests.shards.helpers import source_config
from tests.shards.planted import DAY, PX, build_planted, image, place, sample
from tests.shards.test_dataset import flip_bit


def told(report: Report) -> list[tuple[str, str]]:
    return [(f.severity, f"{f.where}: {f.what}") for f in report.findings]


def test_samples_that_make_sense_are_passed(tmp_path: Path) -> None:
    report = verify(build_planted(tmp_path / "set", [sample(i) for i in range(5)]))
    assert told(report) == []
    assert set(report.seconds) == {"sizes", "digests", "decode", "semantics", "total"}
    json.dumps(report.to_dict(), allow_nan=False)


def constant() -> np.ndarray:
    return np.full((12, PX, PX), 700, np.int16)


def with_twin_bands() -> np.ndarray:
    array = image(1)
    array[5] = array[2]
    return array


def with_infinity() -> np.ndarray:
    array = image(1, "S1GRD")
    array[0, 0, 0] = -np.inf
    return array


SINGLE = {
    "ground": (sample(1, {"DEM": image(1, "DEM", 8)}), "error", "S2L2A, DEM: maps that cover"),
    "pixels": (
        sample(1, transform=(20.0, 0.0, 3e5, 0.0, -20.0, 5e6)),
        "warning",
        "meta: a transform whose pixels are not those of the 10 m grid",
    ),
    "centre": (
        sample(1, {"coordinates": np.array([16.0, 45.0])}, lon=16.0, lat=45.0),
        "warning",
        "meta: lon and lat more than half a tile from the centre of the transform",
    ),
    "crs": (sample(1, crs="EPSG:1"), "warning", "meta: a CRS that is not understood (EPSG:1)"),
    "coordinates": (
        sample(1, {"coordinates": np.array(place(1)[1:]) + 0.001}),
        "warning",
        "coordinates: coordinates that differ from lon and lat",
    ),
    "date": (sample(1, {"date": "2021-07-22"}), "warning", "date: a date that is no modality's"),
    "window": (
        sample(1, times={"S2L2A": DAY, "S1GRD": "2021-05-23"}),
        "warning",
        "times: modalities acquired more than 45 days apart in 1 of 4 samples, such as place1 "
        "(S1GRD and S2L2A: 61 days)",
    ),
    "epoch": (
        sample(1, times={"S2L2A": DAY, "DEM": "1970-01-01"}),
        "warning",
        "DEM: a day before 1972-07-23, in the future, or none at all",
    ),
    "future": (sample(1, times={"S2L2A": DAY, "DEM": "2999-01-01"}), "warning", "DEM: a day"),
    "no day": (sample(1, times={"S2L2A": DAY, "S1GRD": "soon"}), "warning", "S1GRD: a day"),
    "twins": (sample(1, {"S2L2A": with_twin_bands()}), "warning", "S2L2A: identical bands (B03, B06)"),
    "constant": (sample(1, {"S2L2A": constant()}), "warning", "S2L2A: a constant image"),
    "empty": (sample(1, {"S2L2A": constant() * 0}), "warning", "S2L2A: no valid pixel"),
    "infinite": (sample(1, {"S1GRD": with_infinity()}), "warning", "S1GRD: infinite values"),
}  # fmt: skip


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


def series(
    offset: float, name: str = "S2L2A", days: int = 40, source: Callable[[int], str] = str
) -> list[Sample]:
    """A sample every twelve days around the day of the offset, which half of them have."""
    samples = []
    for i in range(days):
        day = OFFSET_DAY + datetime.timedelta(12 * (i - days // 2) + 1)
        array = image(i, name)
        if day >= OFFSET_DAY:
            array = (array + offset).astype(array.dtype)
        samples.append(
            sample(i, {name: array, "date": day.isoformat()}, times={name: day.isoformat()})
        )
    return samples


@pytest.mark.parametrize(("offset", "advice"), [(1000, "take 1,000 from"), (-1000, "add 1,000 to")])
def test_the_offset_of_sentinel_2_is_found(offset: int, advice: str, tmp_path: Path) -> None:
    report = verify(build_planted(tmp_path / "set", series(offset)))
    (finding,) = report.warnings
    assert report.ok
    assert finding.where == "S2L2A"
    assert "from 2022-01-25 on its values are about " in finding.what
    assert ("higher" if offset > 0 else "lower") in finding.what
    assert "in 12 of 12 bands" in finding.what
    assert "(20 samples)" in finding.what
    assert advice in finding.todo
    assert "source.harmonise_s2=true" in finding.todo


def test_harmonised_images_are_passed_and_so_are_few(tmp_path: Path) -> None:
    assert verify(build_planted(tmp_path / "harmonised", series(0))).findings == []
    assert verify(build_planted(tmp_path / "few", series(1000, days=16))).findings == []


def test_the_advice_is_what_the_source_can_do() -> None:
    drift = drift_of(series(-1000))
    rows = {"S2L2A": modality("S2L2A")}
    for source, advice in (
        ({"type": "terramesh", "harmonise_s2": False}, "build again with source.harmonise_s2=true"),
        ({"type": "terramesh", "harmonise_s2": True}, "add 1,000 to"),
        ({"type": "synthetic"}, "has this offset on purpose"),
    ):
        (finding,) = find_steps(drift, rows, source)
        assert advice in finding.todo


def test_the_synthetic_earth_has_the_offset_and_it_is_said_honestly(tmp_path: Path) -> None:
    source = {
        "type": "synthetic",
        "num_samples": 96,
        "tile_px": 24,
        "modalities": ["S2L2A", "date"],
    }
    build(source_config(source, tmp_path / "set"), quiet=True)
    report = verify(tmp_path / "set")
    (finding,) = [f for f in report.warnings if "offset" in f.what]
    assert finding.where == "S2L2A"
    assert "on purpose" in finding.todo


def drift_of(samples: list[Sample], sources: tuple[str, ...] = ("planted",)) -> Drift:
    drift = Drift()
    for i, one in enumerate(samples):
        for name, part in one.parts.items():
            if name in one.meta.times and isinstance(part, np.ndarray):
                day = datetime.date.fromisoformat(one.meta.times[name])
                found = quantiles(part, modality(name))
                drift.add(name, one.key, day, sources[i % len(sources)], found)
    drift.pack()
    return drift


@pytest.mark.parametrize(("offset", "is_told"), [(0, False), (0.5, False), (30, True)])
def test_any_step_at_a_month_is_found_when_it_is_large(offset: float, is_told: bool) -> None:
    rows = {"S1GRD": modality("S1GRD")}
    found = find_steps(drift_of(series(offset, "S1GRD", days=80)), rows, {})
    assert bool(found) == is_told
    for finding in found:
        assert finding.what.startswith("from 2022-01-25 on its values differ")
        assert "data.filter.dates" in finding.todo


def test_a_source_unlike_the_others_is_named() -> None:
    samples = series(0, "S1GRD", days=90)
    for one in samples[2::3]:
        np.asarray(one.parts["S1GRD"])[:] += 40
    drift = drift_of(samples, ("a", "b", "c"))
    (finding,) = find_steps(drift, {"S1GRD": modality("S1GRD")}, {})
    assert finding.what.startswith("source 'c' differs from the others")
    assert (
        find_steps(drift_of(series(0, "S1GRD"), ("a", "b")), {"S1GRD": modality("S1GRD")}, {}) == []
    )


@pytest.mark.parametrize("name", ["S2L2A", "S1GRD"])
def test_quantiles_are_numpys_over_the_valid_pixels(name: str) -> None:
    row, array = modality(name), image(3, name)
    whole = quantiles(array, row)
    expected = np.quantile(array.reshape(len(array), -1), [0.02, 0.98], axis=1, method="lower").T
    np.testing.assert_array_equal(whole, expected.astype(np.float32))
    assert row.nodata is not None
    array[0] = row.nodata
    array[1, :4] = row.nodata
    part = quantiles(array, row)
    assert np.isnan(part[0]).all()
    expected = np.quantile(array[1, 4:], [0.02, 0.98], method="lower")
    np.testing.assert_array_equal(part[1], expected.astype(np.float32))
    # Of a large image a subsample: near the quantiles of all of it.
    large = np.random.default_rng(0).normal(0, 1, (2, 400, 500)).astype(np.float32)
    np.testing.assert_allclose(quantiles(large, modality("S1GRD")), [[-2.05, 2.05]] * 2, atol=0.2)


def test_periods_are_months_but_for_the_one_of_the_offset() -> None:
    days = [datetime.date(2021, 12, 1) + datetime.timedelta(i) for i in range(90)]
    begins = [first_day(period).isoformat() for period in sorted({period_of(day) for day in days})]
    assert begins == ["2021-12-01", "2022-01-01", "2022-01-25", "2022-02-01"]


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 11))
def test_sketches_do_not_depend_on_the_order_of_merging(order: list[int], cut: int) -> None:
    rng = np.random.default_rng(0)
    packed = []
    for shard in range(12):
        drift = Drift()
        for i in range(30):
            key = f"{shard}-{i}"
            drift.add("S1GRD", key, datetime.date(2020, 1, 1), "a", rng.random((2, 2)))
        drift.pack()
        packed.append(drift)
    merged = []
    for sequence in (range(12), order):
        sides = (Drift(), Drift())
        for place_, shard in enumerate(sequence):
            sides[place_ >= cut].merge(packed[shard])
        sides[0].merge(sides[1])
        (sketch,) = sides[0].periods.values()
        merged.append(sketch)
    assert merged[0].count == merged[1].count == 360
    assert len(merged[0].order) == 128
    np.testing.assert_array_equal(merged[0].values, merged[1].values)


def test_a_source_per_sample_is_no_source_and_takes_no_memory() -> None:
    drift = drift_of(series(0, days=80), tuple(f"file{i}" for i in range(80)))
    assert drift.sources == {}
    assert drift.periods


def pairs_told(out: Path) -> list[tuple[str, str]]:
    return [(s, what) for s, what in told(verify(out)) if "pair" in what]


def two_splits(out: Path, one: Sample, two: Sample) -> Path:
    """Train and val, one sample of the two in each, and one more that has nothing to do with them."""
    other = sample(7)
    return build_planted(out, [one, two, other], {"train": [[one, other]], "val": [[two]]})


def renamed(number: int, key: str, **changes: object) -> Sample:
    return dataclasses.replace(sample(number, **changes), key=key)  # pyright: ignore


def test_equal_samples_warn_and_across_splits_they_are_an_error(tmp_path: Path) -> None:
    one, two = sample(1), renamed(1, "copy")
    same = build_planted(tmp_path / "one", [one, two, sample(2)])
    ((severity, what),) = pairs_told(same)
    assert severity == "warning"
    assert "1 pair of samples hold the same data, such as" in what
    across = pairs_told(two_splits(tmp_path / "two", one, two))
    assert [s for s, _ in across] == ["warning", "error"]
    assert "in two splits hold the same data" in across[1][1]
    assert across[1][1].endswith("place1 and copy in train and val")


def test_an_image_that_is_there_twice_is_told_though_the_rest_differs(tmp_path: Path) -> None:
    # At another place, so that neither the grid cell nor the coordinates give it away.
    two = sample(3, {"S2L2A": image(1)})
    across = pairs_told(two_splits(tmp_path / "set", sample(1), two))
    assert [s for s, _ in across] == ["warning", "error"]
    assert "have the same S2L2A, bit for bit, such as place1 and place3" in across[0][1]


def shifted(number: int, key: str, east_deg: float, **changes: object) -> Sample:
    """The same ground, or nearly, under another image."""
    transform, lon, lat = place(number)
    transform = (*transform[:2], transform[2] + east_deg * 78_000, *transform[3:])
    parts = {
        "S2L2A": image(99),
        "S1GRD": image(99, "S1GRD"),
        "coordinates": np.array([lon + east_deg, lat]),
    }
    moved = sample(number, parts, key, lon=lon + east_deg, transform=transform)
    return dataclasses.replace(moved, meta=dataclasses.replace(moved.meta, **changes))  # pyright: ignore


def test_one_acquisition_of_one_place_is_told(tmp_path: Path) -> None:
    product = {"S2L2A": "S2A_MSIL2A_20210723T132241"}
    one = sample(1, products=product)
    near = shifted(1, "near", 0.0002, products=product)
    far = shifted(1, "far", 0.01, products=product)
    later = shifted(1, "later", 0.0002, products={"S2L2A": "S2B_MSIL2A_20210723T133000"})
    ((severity, what),) = pairs_told(build_planted(tmp_path / "set", [one, near]))
    assert severity == "warning"
    assert "1 pair of samples show the same S2L2A acquisition of the same ground" in what
    assert pairs_told(build_planted(tmp_path / "far", [one, far])) == []
    assert pairs_told(build_planted(tmp_path / "later", [one, later])) == []


def noisy(number: int, key: str, day: str = DAY) -> Sample:
    """The scene of sample `number` under other light, with other noise, 800 m beside it."""
    moved = shifted(number, key, 0.01)
    noise = np.random.default_rng(5).normal(0, 10, (12, PX, PX))
    parts = moved.parts | {"S2L2A": (image(number) * 1.1 + noise).astype(np.int16), "date": day}
    where = dataclasses.replace(moved.meta, times={"S2L2A": day})
    return dataclasses.replace(moved, parts=parts, meta=where)


def test_images_that_look_alike_are_told_unless_days_make_them_a_series(tmp_path: Path) -> None:
    out = build_planted(tmp_path / "set", [sample(1), noisy(1, "again"), sample(2)])
    ((severity, what),) = pairs_told(out)
    assert severity == "warning"
    assert "have S2L2A images that look alike, such as" in what
    assert pairs_told(build_planted(tmp_path / "b", [sample(1), noisy(1, "b", "2021-07-28")])) == []
    across = pairs_told(two_splits(tmp_path / "two", sample(1), noisy(1, "again")))
    assert [s for s, _ in across] == ["warning", "warning"]
    assert across[1][1].endswith("in train and val")


def test_without_places_the_look_itself_is_the_place(tmp_path: Path) -> None:
    nowhere: dict[str, object] = {"lon": None, "lat": None, "crs": None, "transform": None}
    one, two = (
        dataclasses.replace(
            s,
            parts={"S2L2A": s.parts["S2L2A"]},
            meta=dataclasses.replace(s.meta, **nowhere),  # pyright: ignore[reportArgumentType]
        )
        for s in (sample(1), noisy(1, "again"))
    )
    ((_, what),) = pairs_told(build_planted(tmp_path / "set", [one, two]))
    assert "look alike" in what


def test_flat_images_and_small_ones_look_like_nothing() -> None:
    row = modality("S2L2A")
    assert looks.look_of(constant(), row) == looks.NO_LOOK
    assert looks.look_of(np.zeros((12, PX, PX), np.int16), row) == looks.NO_LOOK
    assert looks.look_of(image(1)[:, :7], row) == looks.NO_LOOK
    look = looks.look_of(image(1), row)
    assert look.bit_count() == 32
    holed = image(1)
    holed[:, :3, :3] = 0
    assert (look ^ looks.look_of(holed, row)).bit_count() <= 2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_pairs_that_look_alike_are_those_of_comparing_all_with_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num = 60
    base = rng.integers(1, 2**63, 4).astype(np.uint64)
    look = base[rng.integers(0, 4, num)]
    for _ in range(3):
        look ^= np.uint64(1) << rng.integers(0, 64, num).astype(np.uint64)
    lon = np.where(rng.random(num) < 0.2, np.nan, rng.integers(0, 3, num) * 1.0)
    day = np.where(rng.random(num) < 0.5, NO_DAY, rng.integers(0, 2, num)).astype(np.int32)
    nothing = np.zeros(num, np.uint64)
    columns = Columns(look, day, nothing, lon, lon)
    table = Table(lon, np.zeros(num), nothing)
    keys = [str(i) for i in range(num)]
    twins = duplicates.Twins(keys, table, columns, nothing, "S2L2A", 160.0, 0.25)
    found = duplicates.alike_pairs(twins)
    expected = {
        (i, j)
        for i in range(num)
        for j in range(i + 1, num)
        if lon[i] == lon[j]
        and int(look[i] ^ look[j]).bit_count() <= 2
        and (day[i] == day[j] or NO_DAY in (day[i], day[j]))
    }
    placed = ~np.isnan(lon)
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert {pair for pair in pairs if placed[list(pair)].all()} == expected
    assert all(look[i] == look[j] for i, j in pairs if not placed[[i, j]].all())


def test_later_splits_are_held_to_the_same_rules(tmp_path: Path) -> None:
    out = build_planted(tmp_path / "set", [sample(1), shifted(1, "near", 0.01), sample(2)])
    dataset = open_dataset(out)
    make_splitting(dataset, "folds", {"a": 0.5, "b": 0.5}, 0.25, 0)
    assert verify(out).findings == []
    path = out / "splits" / "folds.json"
    split_of = np.array([key == "near" for key in dataset.keys], np.uint8)
    forge_splitting(path, dataset.fingerprint, split_of)
    ((severity, what),) = told(verify(out))
    assert severity == "error"
    assert what.startswith(f"{path}: 1 grid cells of 0.25 degrees lie in two splits")
    assert what.endswith("in a and b")


def forge_splitting(path: Path, fingerprint: str, split_of: np.ndarray) -> None:
    import xxhash

    path.with_suffix(".bin").write_bytes(split_of.tobytes())
    values = {
        "splits": ["a", "b"],
        "cell_deg": 0.25,
        "dataset": fingerprint,
        "content": xxhash.xxh3_64_hexdigest(split_of.tobytes()),
    }
    write_manifest(path, values)


def test_equal_samples_in_two_later_splits_are_an_error(tmp_path: Path) -> None:
    out = build_planted(tmp_path / "set", [sample(1), sample(3, {"S2L2A": image(1)})])
    (out / "splits").mkdir()
    dataset = open_dataset(out)
    forge_splitting(out / "splits" / "f.json", dataset.fingerprint, np.array([0, 1], np.uint8))
    (error,) = verify(out).errors
    assert error.where.endswith("splits/f.json")
    assert "bit for bit" in error.what


def test_later_splits_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    out = build_planted(tmp_path / "set", [sample(1), sample(2)])
    make_splitting(open_dataset(out), "folds", {"a": 0.5, "b": 0.5}, 0.25, 0)
    content = out / "splits" / "folds.bin"
    content.write_bytes(b"\1\1\1")
    assert "damaged" in told(verify(out))[0][1]
    content.unlink()
    ((severity, what),) = told(verify(out))
    assert (severity, "folds.bin" in what) == ("error", True)


@pytest.fixture(scope="module")
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards with something of everything, bytes included."""
    planted = [s for s, *_ in SINGLE.values()]
    samples = [dataclasses.replace(s, key=f"odd{i}") for i, s in enumerate(planted)]
    samples += series(1000, days=30)
    out = tmp_path_factory.mktemp("flawed") / "set"
    build_planted(out, samples, samples_per_shard=8)
    flip_bit(out, "odd1.S1GRD.b2")
    return out


def test_any_number_of_processes_finds_the_same(flawed: Path) -> None:
    alone, together = verify(flawed), verify(flawed, jobs=2)
    assert len(alone.findings) > 10
    assert {f.level for f in alone.findings} == {"digests", "decode", "semantics"}
    assert together.findings == alone.findings
    assert (together.num_parts, together.num_bytes) == (alone.num_parts, alone.num_bytes)


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        import os

        return os._exit, (1,)


def test_a_process_that_dies_is_told_and_waited_for_by_nobody() -> None:
    with pytest.raises(ShardError, match="smaller --jobs"):
        list(check_shards(None, [Deadly()] * 3, 2))  # pyright: ignore


def test_a_share_of_the_shards_is_read_the_same_for_the_same_seed(flawed: Path) -> None:
    some = verify(flawed, sample=0.3)
    assert (some.num_shards, some.num_read) == (6, 2)
    assert some.to_dict()["num_read"] == 2
    assert some.findings == verify(flawed, sample=0.3).findings
    drawn = {verify(flawed, "walk", sample=0.01, seed=seed).num_parts for seed in range(8)}
    assert len(drawn) > 1
    assert verify(flawed, "walk", sample=1e-9).num_read == 1


def test_all_shards_are_checked_for_size_whatever_is_read(flawed: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(flawed, tmp_path / "copy"))
    for tar in copy.glob("train/*.tar"):
        tar.write_bytes(tar.read_bytes()[:-512])
    report = verify(copy, sample=0.2)
    assert sum(f.level == "sizes" for f in report.errors) == 6


def test_a_shard_that_is_all_damage_does_not_fill_the_report(flawed: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(flawed, tmp_path / "copy"))
    tar = copy / "train" / "shard-000000.tar"
    tar.write_bytes(bytes(tar.stat().st_size))
    errors = [f for f in verify(copy, "walk").errors if f.where == str(tar)]
    assert len(errors) == 21
    assert errors[-1].what.endswith("more errors like these")
    tar.write_bytes(b"")
    errors = [f.what for f in verify(copy, "walk").errors if f.where == str(tar)]
    assert any("parts lie behind its end, the first is" in what for what in errors)
    assert len(errors) < 5
