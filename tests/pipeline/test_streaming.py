"""The stream of samples as training consumes it: any world, any readers, damage and mixtures."""

import itertools
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.schema import DataConfig, SampleFilter
from pipeline.data.loader import Loader, Slice
from pipeline.data.mixture import PERIOD, Mixture, deal
from pipeline.data.order import Order, permute, unpermute
from pipeline.data.selection import make_stream, select
from shards import DamagedError, MixedDataset, open_data, open_dataset
from shards.build import build
from shards.extra import ExtraWriter
from tests.pipeline.streams import take
from tests.shards.helpers import config_for, make_collection


@settings(max_examples=25)
@given(
    n=st.integers(1, 60),
    window=st.integers(0, 20),
    changes=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(4, 24), st.integers(1, 3)),
        min_size=1,
        max_size=4,
    ),
)
def test_any_change_of_ranks_readers_and_batch_loses_and_repeats_nothing(n, window, changes):
    order = Order(np.arange(n) * 7, seed=3, window=window)
    seen, cursor = [], 0
    for world, readers, batch, steps in changes:
        seen += take(order, world, batch, steps, cursor=cursor, readers=readers)
        cursor += steps * batch
    whole = take(order, 1, cursor, 1)
    assert seen == whole
    for epoch in range(cursor // n):
        assert sorted(i for i, _ in seen[epoch * n : (epoch + 1) * n]) == list(range(0, 7 * n, 7))


@given(n=st.integers(1, 500), key=st.integers(0, 2**63 - 1))
def test_unpermute_undoes_permute(n, key):
    places = np.arange(n)
    np.testing.assert_array_equal(unpermute(permute(places, n, key), n, key), places)


@given(n=st.integers(1, 300), window=st.integers(1, 50), seed=st.integers(0, 9))
def test_a_windowed_order_reads_one_stretch_after_the_other(n, window, seed):
    stream = Order(range(n), seed, window).samples(np.arange(n))
    assert sorted(stream) == list(range(n))
    if window < n:
        turns = stream // window
        assert np.count_nonzero(np.diff(turns)) == -(-n // window) - 1


def test_a_windowed_order_is_pinned_and_shuffles_on_both_levels():
    # A change here breaks the resumption of every run that exists.
    order = Order(range(10), seed=2, window=4)
    assert order.samples(np.arange(10)).tolist() == PINNED
    first, second = np.split(Order(range(4000), 0, 100).samples(np.arange(8000)), 2)
    assert (first // 100 != second // 100).mean() > 0.9
    inside = first.reshape(-1, 100) % 100
    assert len({tuple(row) for row in inside}) == 40


PINNED = [8, 9, 7, 4, 5, 6, 1, 2, 3, 0]


def test_a_run_of_indices_costs_no_memory_and_gives_the_same_stream():
    listed, ranged = Order(np.arange(5, 50), seed=1), Order(range(5, 50), seed=1)
    assert isinstance(listed.indices, range)
    positions = np.arange(200)
    np.testing.assert_array_equal(listed.samples(positions), ranged.samples(positions))
    assert len(Order(range(10**9), 0).samples(np.array([10**12]))) == 1


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_shares_of_a_mixture_are_kept_at_every_moment(weights):
    turns = deal(weights)
    shares = np.maximum(np.asarray(weights) / sum(weights), 1 / PERIOD)
    for s, share in enumerate(shares):
        so_far = np.cumsum(turns == s)
        # Rounding to the period's 4096 positions, and the schedule's own discrepancy.
        bound = 2 + len(weights) * (1 + np.arange(1, PERIOD + 1) / PERIOD)
        assert (np.abs(so_far - share * np.arange(1, PERIOD + 1)) <= bound).all()


def test_every_member_of_a_mixture_goes_through_its_own_epochs():
    mixture = Mixture([Order(range(10), 0), Order(range(10, 40), 1)], [1, 2])
    seen = mixture.samples(np.arange(3 * PERIOD)).tolist()
    for low, high in ((0, 10), (10, 40)):
        own = [i for i in seen if low <= i < high]
        for start in range(0, len(own) - (high - low) + 1, high - low):
            assert sorted(own[start : start + high - low]) == list(range(low, high))
    assert abs(sum(i < 10 for i in seen) / len(seen) - 1 / 3) < 0.001
    # Read in pieces it is the same stream.
    pieces = [mixture.samples(np.arange(s, s + 97)) for s in range(0, 97 * 40, 97)]
    assert np.concatenate(pieces).tolist() == seen[: 97 * 40]


def test_a_damaged_sample_is_replaced_alike_for_any_ranks_and_told():
    order = Order(range(20), seed=4)
    broken = {3, 11}

    def run(world: int, readers: int) -> tuple[list, Counter]:
        def read(index: int, rng: np.random.Generator, cursor: int) -> int:
            if index in broken:
                raise DamagedError(f"sample {index}")
            return index

        told: Counter = Counter()
        loaders = [
            Loader(order, read, lambda s: s, Slice(12, 0, r, world), readers=readers)  # type: ignore
            for r in range(world)
        ]
        seen = [
            i
            for step in itertools.islice(zip(*loaders, strict=True), 10)
            for micro in step
            for batch in micro
            for i in batch
        ]
        for loader in loaders:
            told.update((d.position, d.index, d.stand_in) for d in loader.take_damage())
            loader.close()
        return seen, told

    seen, told = run(1, 1)
    assert run(3, 2)[0] == seen
    assert len(seen) == 120
    assert not broken & set(seen)
    expected = order.samples(np.arange(120)).tolist()
    differing = {p for p, (a, b) in enumerate(zip(expected, seen, strict=True)) if a != b}
    assert differing == {p for p, i in enumerate(expected) if i in broken}
    # Batches read ahead may have been told of too.
    assert differing <= {position for position, *_ in told}


def test_a_data_set_that_is_all_damage_ends_with_its_reason():
    def read(index: int, rng: np.random.Generator, cursor: int) -> int:
        raise DamagedError("rotten")

    loader = Loader(Order(range(5), 0), read, lambda s: s, Slice(2, 0, 0, 1))  # type: ignore
    with pytest.raises(DamagedError, match=r"in a row are damaged.*rotten"):
        next(iter(loader))
    loader.close()


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("two")
    first = make_collection(folder / "first", num=8)
    second = make_collection(folder / "second", num=6)
    shutil.rmtree(second / "S2L2A")
    for source, name in ((first, "a"), (second, "b")):
        build(config_for(source, folder / name, splits={"train": 1.0}), quiet=True)
    return folder / "a", folder / "b"


def test_mixed_data_sets_read_as_one(two_sets: tuple[Path, Path]):
    a, b = map(open_dataset, two_sets)
    mixed = MixedDataset([a, b])
    assert mixed.num_samples == 14
    assert list(mixed.modalities) == list(a.modalities)
    assert mixed.present("S2L2A").tolist() == [True] * 8 + [False] * 6
    assert set(mixed.read(9, mixed.modalities)) == set(b.read(1, b.modalities))
    assert mixed.key(9) == b.keys[1]
    pixels = [np.asarray(d.read(i, ["DEM"])["DEM"]) for d in (a, b) for i in range(len(d))]
    together = np.concatenate([p.ravel() for p in pixels]).astype(np.float64)
    assert mixed.statistics["DEM"].mean[0] == pytest.approx(together.mean())
    assert mixed.statistics["DEM"].std[0] == pytest.approx(together.std())
    both = mixed.select("train", ["S2L2A"])
    assert both.tolist() == a.select("train", ["S2L2A"]).tolist()


def test_tokens_of_one_tokenizer_mix_wherever_their_sets_lie(
    two_sets: tuple[Path, Path], tmp_path: Path
):
    sets = []
    for number, origin in enumerate(two_sets):
        folder = shutil.copytree(origin, tmp_path / str(number))
        dataset = open_dataset(folder)
        info = {"tokenizer": "abc", "artifact": "../" * (number + 1) + "run/artifact"}
        writer = ExtraWriter(dataset, "tok", info)
        for split, name in dataset.shards:
            tokens = [np.zeros(2, np.uint16) for _ in dataset.shard_samples(split, name)]
            writer.write_shard(f"{split}/{name}", tokens)
        writer.commit()
        sets.append(open_dataset(folder))
    assert MixedDataset(sets).extra_manifest("tok")["info"]["tokenizer"] == "abc"


def test_a_mixture_of_the_configuration_keeps_the_weights(two_sets: tuple[Path, Path]):
    config = DataConfig.model_validate(
        {"shards": two_sets[0], "weight": 3, "mix": [{"shards": two_sets[1], "weight": 1}]}
    )
    dataset = open_data(config)
    indices = select(dataset, config, "train")
    stream = make_stream(dataset, indices, config, seed=0)
    seen = stream.samples(np.arange(PERIOD))
    assert (seen < 8).mean() == 0.75
    assert set(seen.tolist()) == set(range(14))
    nothing = config.model_copy(update={"filter": SampleFilter(require=("S2L2A",))})
    with pytest.raises(ValueError, match=r"no sample of .*b passes the filter"):
        make_stream(dataset, select(dataset, nothing, "train"), nothing, seed=0)


def test_filters_ask_presence_place_day_and_cloud(two_sets: tuple[Path, Path]):
    dataset = open_dataset(two_sets[0])
    metas = [dataset.meta(i) for i in range(dataset.num_samples)]

    def chosen(**wanted: object) -> list[int]:
        return dataset.select(where=SampleFilter.model_validate(wanted)).tolist()

    everything = list(range(8))
    assert chosen() == everything
    assert chosen(require=["S1RTC"]) == np.flatnonzero(dataset.present("S1RTC")).tolist()
    one_of = dataset.present("S1RTC") | dataset.present("LULC")
    assert chosen(any_of=["S1RTC", "LULC"]) == np.flatnonzero(one_of).tolist()
    lons = [m.lon or 0.0 for m in metas]
    middle = float(np.median(lons))
    west = [i for i in everything if lons[i] <= middle]
    assert chosen(region=(-180, -90, middle, 90)) == west
    assert chosen(region=(170, -90, middle, 90)) == west
    assert chosen(dates=("2021-07-23", "2021-07-23")) == everything
    assert chosen(dates=("2021-07-24", "2022-01-01")) == []
    # Nothing says how cloudy these samples are.
    assert chosen(max_cloud=1.0) == []
