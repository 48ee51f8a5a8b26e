"""Several dates of a modality in layouts, masks, samples and the encoder, and wishes that cannot be met."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from configs import ConfigError
from configs.schema import DataConfig, FusionRunConfig
from pipeline.evaluate.inputs import InputSet
from pipeline.inspection.assumed import AssumedData
from pipeline.stage2 import artifact
from pipeline.stage2.encoder import Encoder
from pipeline.stage2.layout import Layout, build_layout
from pipeline.stage2.masking import Selection, build_masking
from pipeline.stage2.samples import Content, Masked, SampleReader, collate, masked_sample
from tests.pipeline.dated import (
    CONFIG,
    DATES,
    DAYS,
    LAYOUT,
    NORMALISERS,
    ROWS,
    SHAPE,
    batch_of,
    config_of,
    layout_of,
    model_of,
)
from tests.pipeline.masking_layouts import count


def test_dates_are_streams_that_share_every_range():
    assert [s.name for s in LAYOUT.streams] == [
        "S1GRD@px", "S1GRD_t1@px", "S1GRD_t2@px", "DEM@px",
        "LULC@tok", "NDVI@tok", "NDVI_t1@tok", "NDVI_t2@tok", "captions@tok",
    ]  # fmt: skip
    one = layout_of(config_of({}))
    assert [s.name for s in LAYOUT.forms] == [s.name for s in one.streams]
    assert (LAYOUT.num_positions, LAYOUT.vocab_size) == (one.num_positions, one.vocab_size)
    for i, s in enumerate(LAYOUT.streams):
        first = one.streams[LAYOUT.form_of[i]]
        assert (s.modality, s.position_offset, s.vocab_offset) == (
            first.modality, first.position_offset, first.vocab_offset,
        )  # fmt: skip
    assert torch.equal(LAYOUT.positions(16), one.positions(16))
    assert Layout.from_dict(LAYOUT.to_dict()) == LAYOUT


def test_masks_leave_out_missing_dates_keep_budgets_and_hide_places_on_all_of_them():
    config = config_of(
        DATES, targets=["NDVI", "LULC"], num_input_tokens=6, num_target_tokens=5,
        masking=[{"kind": "tube", "share": 0.5, "alpha_target_by": {"NDVI_t1": 0}}],
    )  # fmt: skip
    layout = layout_of(config)
    masking = build_masking(config, layout)
    sizes = np.array([s.num_positions for s in layout.streams])
    there = np.random.default_rng(0)
    for seed in range(300):
        available = sizes * (there.random(len(sizes)) < 0.6)
        chosen = masking(np.random.default_rng(seed), available)
        for side in (chosen.inputs, chosen.targets):
            assert all(available[i] for i in side)
        seen = {int(p) for places in chosen.inputs.values() for p in places}
        asked = {int(p) for places in chosen.targets.values() for p in places}
        assert not seen & asked
        # Half of the 2 x 2 places of each map are hidden.
        readable = sum(available[i] for i in layout.inputs) // 2
        assert count(chosen.inputs) == min(6, readable)
        assert count(chosen.targets) == min(5, sum(available[i] for i in layout.targets) // 2)
        ndvi = [layout.index(n) for n in ("NDVI@tok", "NDVI_t2@tok", "LULC@tok")]
        if sum(available[i] for i in ndvi) // 2 >= 5:
            assert layout.index("NDVI_t1@tok") not in chosen.targets


class Earth:
    """A data set of one sample: the second date of S1GRD is missing, the day of NDVI_t1 is not told."""

    num_samples = 1
    modalities = ROWS | {f"S1GRD_t{n}": ROWS["S1GRD"].on_date(n) for n in (1, 2)}
    extras = ("tok_NDVI", "tok_NDVI_t1", "tok_NDVI_t2", "tok_LULC")
    parts: dict[str, np.ndarray]

    def __init__(self):
        rng = np.random.default_rng(0)
        image = rng.normal(-15, 5, (2, 224, 224)).astype(np.float32)
        self.parts = {
            "S1GRD": image,
            "S1GRD_t2": image + 3,
            "DEM": np.ones((1, 224, 224), np.int16),
        }
        for name in ("tok_NDVI", "tok_NDVI_t1", "tok_LULC"):
            self.parts[name] = rng.integers(0, 90, (1, 4)).astype(np.uint16)

    def present(self, name: str) -> np.ndarray:
        return np.array([name in self.parts])

    def read(self, _: int, names: set[str]) -> dict[str, np.ndarray]:
        return {n: self.parts[n] for n in names & self.parts.keys()}

    def meta(self, _: int) -> SimpleNamespace:
        return SimpleNamespace(times={"S1GRD": DAYS[0], "S1GRD_t2": DAYS[2], "NDVI": DAYS[0]})


def test_a_sample_is_read_date_by_date_with_the_statistics_of_its_modality():
    earth: Any = Earth()
    content = SampleReader(earth, LAYOUT, NORMALISERS).content(0, 0)
    names = {LAYOUT.streams[i].name: v for i, v in content.streams.items()}
    assert set(names) == {
        "S1GRD@px", "S1GRD_t2@px", "DEM@px", "LULC@tok", "NDVI@tok", "NDVI_t1@tok",
    }  # fmt: skip
    np.testing.assert_allclose(
        (names["S1GRD_t2@px"] - names["S1GRD@px"]).reshape(-1, 2).mean(0), [3 / 5, 3 / 6], rtol=1e-2
    )
    assert {LAYOUT.streams[i].name: day for i, day in content.days.items()} == {
        "S1GRD@px": DAYS[0], "S1GRD_t2@px": DAYS[2], "NDVI@tok": DAYS[0],
    }  # fmt: skip
    assert content.with_streams({}).days == content.days


def test_masks_follow_from_the_random_numbers_of_the_sample_alone():
    earth: Any = Earth()
    config = config_of(DATES, num_input_tokens=9, num_target_tokens=7)
    reader, masking = SampleReader(earth, LAYOUT, NORMALISERS), build_masking(config, LAYOUT)
    first, second = (
        masked_sample(reader, masking, 0, np.random.default_rng([5, 1])) for _ in range(2)
    )
    a, b = batch_of([first]), batch_of([second])
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


@torch.no_grad()
def test_the_encoder_is_given_dates_by_name_and_their_days(tmp_path):
    model = model_of().float().eval()
    artifact.save(model, NORMALISERS, tmp_path / "artifact")
    encoder = Encoder.from_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    images = {
        n: rng.normal(-15, 5, (2, 2, 224, 224)).astype(np.float32) for n in ("S1GRD", "S1GRD_t2")
    }
    days = {"S1GRD": [DAYS[0], None], "S1GRD_t2": [DAYS[1], DAYS[2]]}
    given = {n: torch.from_numpy(x) for n, x in images.items()}
    found = encoder(given, [-1], days=days)[0]
    earth: Any = Earth()
    reader = SampleReader(earth, LAYOUT, NORMALISERS)
    for row in range(2):
        earth.parts = {n: x[row] for n, x in images.items()}
        content = reader.content(0, 0)
        told = {LAYOUT.index(f"{n}@px"): days[n][row] for n in images if days[n][row]}
        sample = Masked(
            Content(content.streams, told),
            Selection({i: np.arange(4) for i in content.streams}, {}),
        )
        caught: list[torch.Tensor] = []
        handle = model.encoder_norm.register_forward_hook(lambda *a, c=caught: c.append(a[2]))
        model.encode(collate([sample], LAYOUT, 8, 1))
        handle.remove()
        expected = torch.cat([found[n][row] for n in images])
        torch.testing.assert_close(caught[0][0], expected, atol=1e-5, rtol=1e-5)
    for wrong, why in (
        ({"S1GRD": [DAYS[0]]}, "1 days of 2 samples"),
        ({"DEM": [None, None]}, "days of DEM, which is no input"),
        ({"S1GRD": ["today", None]}, "Invalid isoformat"),
    ):
        with pytest.raises(ValueError, match=why):
            encoder(given, days=wrong)


def test_evaluation_leaves_out_the_date_that_is_asked_for_and_no_other():
    given = InputSet("all", frozenset({"S1GRD", "NDVI"}))
    names = [LAYOUT.streams[i].name for i in given.streams(LAYOUT, "NDVI_t1")]
    assert names == ["S1GRD@px", "S1GRD_t1@px", "S1GRD_t2@px", "NDVI@tok", "NDVI_t2@tok"]


def test_wishes_that_cannot_be_met_are_told():
    stray: Any = {"masking": [{"kind": "dirichlet", "alpha_input_by": {"NDVI_t3": 1}}]}
    for dates, changes, why in (
        ({"S2L2A": 2}, {}, "dates names S2L2A, not among"),
        ({}, {"pixels": ["S1GRD_t1"]}, "is a date of S1GRD: name S1GRD, and it in `dates`"),
        ({"NDVI": 0}, {}, "greater than or equal to 1"),
        (DATES, stray, "NDVI_t3, which is no input"),
    ):
        with pytest.raises(ValueError, match=why):
            config_of(dates, **changes)
    with pytest.raises(ConfigError, match=r"captions: only maps have dates"):
        layout_of(config_of({"captions": 1}))
    with pytest.raises(ValueError, match="late fusion knows no days"):
        FusionRunConfig.model_validate(
            {"kind": "fusion", "out": "o", "data": {"shards": "s"},
             "engine": {"num_steps": 1, "global_batch": 1},
             "masked": SHAPE | {"pixels": [], "dates": {"NDVI": 2}}, "fusion": {}}
        )  # fmt: skip


def test_dates_that_the_shards_lack_are_told():
    data = AssumedData(DataConfig(shards="here"), CONFIG.on_dates(SHAPE["tokens"]), CONFIG.patch_px)
    with pytest.raises(ConfigError, match=r"here has no S1GRD_t1; .* masked.dates.S1GRD"):
        build_layout(CONFIG, data)
    names = [*CONFIG.on_dates(["S1GRD"]), "NDVI", "DEM"]
    with pytest.raises(ConfigError, match=r"no tokens of NDVI_t1; make them with .*tokenize"):
        build_layout(CONFIG, AssumedData(DataConfig(shards="here"), names, CONFIG.patch_px))


def test_patches_of_a_name_that_nothing_has_are_refused():
    """Those of a modality that is no input may stay in a configuration."""
    names = CONFIG.on_dates((*CONFIG.pixels, *CONFIG.tokens, *CONFIG.targets))
    data = AssumedData(DataConfig(shards="here"), names, CONFIG.patch_px)
    for name in ("S2L1C", "S2L2B"):
        config = CONFIG.model_copy(update={"patch_px": {**CONFIG.patch_px, name: 4}})
        if name == "S2L1C":
            assert build_layout(config, data) == build_layout(CONFIG, data)
            continue
        with pytest.raises(ConfigError, match="unknown modality 'S2L2B'"):
            build_layout(config, data)


def test_tokens_of_all_dates_are_of_one_tokenizer(monkeypatch):
    names = CONFIG.on_dates((*CONFIG.pixels, *CONFIG.tokens, *CONFIG.targets))
    data = AssumedData(DataConfig(shards="here"), names, CONFIG.patch_px)
    assumed = data.extra_manifest
    monkeypatch.setattr(
        data, "extra_manifest",
        lambda n: {"info": assumed(n)["info"] | ({"tokenizer": "other"} if n == "tok_NDVI_t2" else {})},
    )  # fmt: skip
    with pytest.raises(ConfigError, match="tokens of NDVI_t2 and of NDVI were made by different"):
        build_layout(CONFIG, data)
