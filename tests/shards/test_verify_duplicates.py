"""Samples that are there twice, in one split or across splits, later splits included."""

import dataclasses
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.registry import modality
from shards.checks import duplicates, looks
from shards.checks.notes import NO_DAY, Columns
from shards.checks.table import Table
from shards.dataset import open_dataset
from shards.manifest import write_manifest
from shards.sample import Sample
from shards.splitting import make_splitting
from shards.verify import verify
from tests.shards.flaws import constant, told
from tests.shards.planted import DAY, PX, build_planted, image, place, sample


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


@settings(max_examples=30)
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
