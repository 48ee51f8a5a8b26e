"""What codes stand for on average, counted by hand."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch

from configs.load import parse_config
from configs.schema import DataConfig, ShardsConfig
from pipeline.data.views import Views
from pipeline.generate.readout import Readout
from pipeline.stage2.layout import Layout
from pipeline.stage2.samples import Content, SampleReader
from pipeline.stage2.streams import Stream
from shards import DamagedError, open_dataset
from shards.build import build

SIDE_PX, GRID, NUM_CODES = 24, (3, 3), 6
NAMES = ("DEM", "LULC")
LAYOUT = Layout(
    tuple(
        Stream(f"{n}@tok", n, "map", 9, True, True, 80.0, GRID, vocab_size=NUM_CODES) for n in NAMES
    ),
    SIDE_PX * 10,
    Views(),
)


class Coded(SampleReader):
    """Tokens by a rule that needs no training: of a patch, how high or of what class its corner is."""

    def content(self, index: int, view: int, only: Iterable[int] | None = None) -> Content:
        found = {}
        for i in only or ():
            patches = cut(self.truth(index, NAMES[i], view))
            corner = patches[:, 0, 0, 0].astype(np.int64)
            found[i] = np.clip(corner // 400 if NAMES[i] == "DEM" else corner, 0, NUM_CODES - 2)
        return Content(found)

    def truth(self, index: int, name: str, view: int) -> np.ndarray:
        return self.window(name, np.asarray(self.dataset.read(index, [name])[name]), view)


def cut(x: np.ndarray) -> np.ndarray:
    """[C, 24, 24] -> [9, C, 8, 8]."""
    return x.reshape(len(x), 3, 8, 3, 8).transpose(1, 3, 0, 2, 4).reshape(9, len(x), 8, 8)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Coded:
    out = tmp_path_factory.mktemp("readout") / "set"
    source = {"type": "synthetic", "num_samples": 60, "tile_px": SIDE_PX, "missing": 0.2}
    config = parse_config({"kind": "shards", "source": source, "out": str(out)})
    assert isinstance(config, ShardsConfig)
    build(config, quiet=True)
    return Coded(open_dataset(out), LAYOUT, {})


def readout(reader: Coded, name: str) -> Readout:
    found = learned(reader, NAMES.index(name))
    assert not found.is_empty
    return found


def learned(reader: Coded, stream: int) -> Readout:
    data = DataConfig(shards=str(reader.dataset.path))
    return Readout.of_training(reader, stream, LAYOUT.views.centre, data)


def training(reader: Coded, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes [M] and patches [M, C, 8, 8] of all training samples, height in metres, classes as shares."""
    stream, view = NAMES.index(name), LAYOUT.views.centre
    codes, patches = [], []
    for i in map(int, reader.dataset.select(split="train", require=[name])):
        codes.append(reader.content(i, view, [stream]).streams[stream])
        x = reader.truth(i, name, view)
        row = reader.dataset.modalities[name]
        of_classes = row.kind == "classes"
        patches.append(cut(np.arange(row.num_classes)[:, None, None] == x if of_classes else x))
    return np.concatenate(codes), np.concatenate(patches).astype(float)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_is_the_mean_of_what_its_code_stood_for(reader: Coded, name: str) -> None:
    codes, patches = training(reader, name)
    table = readout(reader, name).table.view(NUM_CODES, -1, 8, 8).numpy()
    mean = patches.mean(0)
    assert len(set(codes)) > 2
    for code in range(NUM_CODES):
        mine = patches[codes == code]
        expected = (mine.sum(0) + mean) / (len(mine) + 1)
        np.testing.assert_allclose(table[code], expected, rtol=1e-4, atol=1e-4)


def test_what_is_certain_is_the_decoders_and_what_is_not_is_the_mean(reader: Coded) -> None:
    found, codes = readout(reader, "DEM"), torch.arange(9) % NUM_CODES
    decoded = np.random.default_rng(0).normal(500, 100, (1, SIDE_PX, SIDE_PX)).astype(np.float32)
    certain = torch.nn.functional.one_hot(codes, NUM_CODES).float()
    np.testing.assert_array_equal(found.mix(decoded, certain), decoded)
    halves = certain * 0.5 + certain.roll(1, 1) * 0.5
    made = found.mix(decoded, halves)
    rows = found.table.numpy().reshape(NUM_CODES, 1, 8, 8)
    for number, (patch, before) in enumerate(zip(cut(made), cut(decoded), strict=True)):
        code = int(codes[number])
        mean = (rows[code] + rows[(code + 1) % NUM_CODES]) / 2
        np.testing.assert_allclose(patch, 0.25 * before + 0.75 * mean, rtol=1e-5)


def test_classes_of_uncertain_tokens_are_the_most_frequent_ones(reader: Coded) -> None:
    codes, patches = training(reader, "LULC")
    found = readout(reader, "LULC")
    shares = np.bincount(codes, minlength=NUM_CODES) / len(codes)
    rare = int(patches.mean((0, 2, 3)).argmin())
    decoded = np.full((1, SIDE_PX, SIDE_PX), rare, dtype=np.uint8)
    made = found.mix(decoded, torch.from_numpy(shares).repeat(9, 1))
    assert made.dtype == np.uint8
    # A guess that knows nothing but how often codes occur is the mean of all, but for what is the decoder's.
    votes = (1 - shares.max() ** 2) * patches.mean(0)
    votes[rare] += shares.max() ** 2
    ranked = np.sort(votes, 0)
    clear = ranked[-1] - ranked[-2] > 0.02
    assert clear.any()
    for patch in cut(made):
        np.testing.assert_array_equal(patch[0][clear], votes.argmax(0)[clear])


def test_without_tokens_there_is_none(reader: Coded) -> None:
    class Bare(Coded):
        def content(self, index: int, view: int, only: Iterable[int] | None = None) -> Content:
            return Content({})

    assert learned(Bare(reader.dataset, LAYOUT, {}), 0).is_empty


def test_damaged_samples_are_left_out(reader: Coded) -> None:
    class Damaged(Coded):
        def content(self, index: int, view: int, only: Iterable[int] | None = None) -> Content:
            if index % 2:
                raise DamagedError("a token file that cannot be read")
            return super().content(index, view, only)

    class Half(Coded):
        def content(self, index: int, view: int, only: Iterable[int] | None = None) -> Content:
            return Content({}) if index % 2 else super().content(index, view, only)

    found, expected = (learned(kind(reader.dataset, LAYOUT, {}), 0) for kind in (Damaged, Half))
    torch.testing.assert_close(found.table, expected.table)
