"""Clouds in the mask of valid pixels: the right pixels, in step with crops and flips, for all that learns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import ConfigError, load_config
from configs.registry import modality
from configs.schema import Stage1Config
from pipeline.stage1.arms import VitArm
from pipeline.stage1.baseline import Baseline
from pipeline.stage1.clouds import ClearOf
from pipeline.stage1.objective import TokenizerObjective
from pipeline.stage1.tokenizer import Tokenizer
from shards import DamagedError, open_dataset
from shards.sample import Sample
from tests.shards.planted import build_planted, sample

PX, CROP = 36, 24
CLOUDS = (3, 4)
NODATA_AT = (14, 15)


def numbered(num_bands: int, px: int) -> np.ndarray:
    """An image whose pixels say where they are: 1 and up, row by row, in every band."""
    return np.tile(np.arange(1, px * px + 1, dtype=np.int16).reshape(1, px, px), (num_bands, 1, 1))


def mask_of(number: int) -> np.ndarray:
    """Classes 0 to 6 in specks; no cloud in the sample that is numbered 2, cloud only in 3."""
    if number in (2, 3):
        return np.full((1, PX, PX), 4 * (number == 3), np.uint8)
    return np.random.default_rng(number).integers(0, 7, (1, PX, PX), dtype=np.uint8)


def make_sample(number: int) -> Sample:
    s2 = numbered(12, PX)
    s2[:, *NODATA_AT] = 0
    parts = {"S2L2A": s2, "Landsat": numbered(7, PX // 3), "CloudMask": mask_of(number)}
    made = sample(number, parts)
    # The sample numbered 4 has no mask.
    keep = [name for name in parts if number != 4 or name != "CloudMask"]
    return Sample(made.key, {name: parts[name] for name in keep}, made.meta)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = [make_sample(number) for number in range(8)]
    split = {"train": [samples[:6]], "val": [samples[6:]]}
    folder = tmp_path_factory.mktemp("clouds") / "set"
    return build_planted(folder, samples, split, splits={"train": 0.5, "val": 0.5})


def config_of(shards: Path, *more: str, clear_of: str = "[thin cloud, thick cloud]"):
    config = load_config(
        "configs/stage1/compare.yaml",
        [f"data.shards={shards}", "out=nowhere", f"tokenizer.crop_px={CROP}",
         "tokenizer.width=24", f"tokenizer.loss.clear_of={clear_of}", *more],
    )  # fmt: skip
    assert isinstance(config, Stage1Config)
    return config


def objective_of(shards: Path, *more: str, clear_of: str = "[thin cloud, thick cloud]"):
    return TokenizerObjective(config_of(shards, *more, clear_of=clear_of), open_dataset(shards))


def tokenizer_of(objective: TokenizerObjective) -> Tokenizer:
    assert isinstance(objective.model, Tokenizer)
    return objective.model


def hidden_at(mask: np.ndarray, ratio: int) -> list[bool]:
    """Whether each pixel of `ratio` x `ratio` pixels of the mask has a cloud in it, one after the other."""
    side = PX // ratio
    blocks = [
        mask[0, r * ratio : (r + 1) * ratio, c * ratio : (c + 1) * ratio]
        for r in range(side)
        for c in range(side)
    ]
    return [any(int(v) in CLOUDS for v in block.ravel()) for block in blocks]


def places(objective: TokenizerObjective, pixels: np.ndarray) -> np.ndarray:
    """Where the pixels of a normalised window of a numbered image come from."""
    assert objective.normaliser is not None
    return np.rint(objective.normaliser.inverse(pixels)[0]).astype(int) - 1


@pytest.mark.parametrize(("name", "crop", "ratio"), [("S2L2A", CROP, 1), ("Landsat", 8, 3)])
def test_valid_pixels_are_those_without_cloud_in_every_crop_and_symmetry(
    shards: Path, name: str, crop: int, ratio: int
) -> None:
    objective = objective_of(shards, f"modality={name}", f"tokenizer.crop_px={crop}")
    seen = set()
    for number in (0, 1, 5):
        hidden = np.array(hidden_at(mask_of(number), ratio))
        for seed in range(40):
            pixels, valid, _ = objective.sample(number, np.random.default_rng([number, seed]), 0)
            at = places(objective, pixels)
            measured = ~(pixels == 0).all(0)  # of what is no measurement, the mean is seen
            assert valid.shape == (crop, crop)
            assert valid.any()
            np.testing.assert_array_equal(valid[measured], ~hidden[at[measured]])
            assert not valid[~measured].any()
            seen.add(at.tobytes())
    assert len(seen) > 40  # of 9 corners and 8 symmetries


def test_the_window_in_the_centre_excludes_exactly_clouds_and_what_is_no_measurement(
    shards: Path,
) -> None:
    pixels, valid, _ = objective_of(shards).eval_sample(6, np.random.default_rng(0))
    plain = objective_of(shards, clear_of="[]").eval_sample(6, np.random.default_rng(0))
    centre = slice(6, 6 + CROP)
    expected = ~np.isin(mask_of(6)[0], CLOUDS)
    expected[NODATA_AT] = False
    np.testing.assert_array_equal(valid, expected[centre, centre])
    # The encoder sees what it saw.
    np.testing.assert_array_equal(pixels, plain[0])
    assert plain[1].sum() == CROP**2 - 1


def test_shadow_and_snow_count_unless_they_are_named(shards: Path) -> None:
    pixels, valid, _ = objective_of(shards, clear_of="[cloud shadow, snow]").eval_sample(
        0, np.random.default_rng(0)
    )
    hidden = np.isin(mask_of(0)[0], (2, 5))[6 : 6 + CROP, 6 : 6 + CROP]
    np.testing.assert_array_equal(valid, ~hidden & ~(pixels == 0).all(0))


def test_a_sample_without_the_mask_counts_whole(shards: Path) -> None:
    objective = objective_of(shards)
    for number in (2, 4):
        _, valid, _ = objective.eval_sample(number, np.random.default_rng(0))
        assert valid.sum() == CROP**2 - 1
    assert not objective.eval_sample(3, np.random.default_rng(0))[1].any()


@pytest.mark.parametrize("decoder", ["vit", "gan", "diffusion"])
def test_what_stands_under_clouds_teaches_nothing(shards: Path, decoder: str) -> None:
    """Other targets there change neither loss nor what a critic is shown; elsewhere they do."""
    objective = objective_of(shards, f"tokenizer.decoder={decoder}")
    rng = np.random.default_rng(0)
    batch = objective.collate([objective.sample(i, rng, 0) for i in (0, 1, 3)])
    model = tokenizer_of(objective)
    z = model.quantizer(model.encoder(batch["x"])).latents.detach()
    hidden = ~batch["valid"][:, None].expand_as(batch["x"])

    def taught(where: torch.Tensor):
        x = torch.where(where, batch["x"] + 7, batch["x"])
        found = model.decoder.teach(z, {**batch, "x": x}, model.updates)
        return found.loss.detach(), found.judged

    loss, judged = taught(torch.zeros_like(hidden))
    same, judged_same = taught(hidden)
    torch.testing.assert_close(same, loss, rtol=0, atol=0)
    for name, value in judged.items():
        torch.testing.assert_close(judged_same[name], value, rtol=0, atol=0)
        assert not value[hidden].any()
    other, _ = taught(~hidden)
    assert (other[:2] != loss[:2]).all()
    assert (decoder == "gan") == bool(judged)


def test_gradients_are_zero_under_clouds_and_nowhere_else(shards: Path) -> None:
    objective = objective_of(shards)
    rng = np.random.default_rng(0)
    batch = objective.collate([objective.sample(i, rng, 0) for i in (0, 3)])
    made = torch.randn_like(batch["x"]).requires_grad_()
    decoder = tokenizer_of(objective).decoder
    assert isinstance(decoder, VitArm)
    assert decoder.loss is not None
    loss = decoder.loss(made, batch["x"], batch["valid"])
    loss.sum().backward()
    assert made.grad is not None
    torch.testing.assert_close((made.grad != 0).any(1), batch["valid"], rtol=0, atol=0)
    assert loss[1] == 0


def test_scores_of_held_out_windows_leave_clouds_out_also_those_of_the_baseline(
    shards: Path, tmp_path: Path
) -> None:
    objective = objective_of(shards, "tokenizer.patch_px=2")
    rng = np.random.default_rng(0)
    batch = objective.collate([objective.eval_sample(i, rng) for i in (6, 7)])
    hidden = ~batch["valid"][:, None]
    made = torch.randn_like(batch["x"])
    judge, other = objective.judge, torch.where(hidden, batch["x"] + 7, batch["x"])
    sums = [judge(made, x, batch["valid"]) for x in (batch["x"], other)]
    for name, value in sums[0].items():
        torch.testing.assert_close(sums[1][name], value, rtol=0, atol=0)

    objective.finish(tmp_path)
    scores = json.loads((tmp_path / "baseline.json").read_text())["scores"]
    plain = Baseline.at_rate(
        modality("S2L2A"),
        objective.tokens_per_sample,
        tokenizer_of(objective).quantizer.num_codes,
        CROP,
    )
    windows = ((x.numpy(), v.numpy()) for x, v in zip(batch["x"], batch["valid"], strict=True))
    assert scores["rmse"] > 0
    assert scores == pytest.approx(plain.record(windows, judge)["scores"])
    every = [(x.numpy(), (x != 0).all(0).numpy()) for x in batch["x"]]
    assert plain.record(every, judge)["scores"] != pytest.approx(scores)


def test_without_the_option_the_mask_is_not_even_read(shards: Path, tmp_path: Path) -> None:
    samples = [make_sample(number) for number in range(4)]
    build_planted(tmp_path / "set", samples)
    dataset = open_dataset(tmp_path / "set")
    ((tar, block, size),) = dataset.extents(1, ["CloudMask"])
    with Path(tar).open("r+b") as file:
        file.seek(512 * block + size - 1)
        last = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([last[0] ^ 255]))
    plain, careful = (
        TokenizerObjective(
            config_of(tmp_path / "set", "data.eval_split=train", clear_of=c), dataset
        )
        for c in ("[]", "[snow]")
    )
    plain.sample(1, np.random.default_rng(0), 0)
    with pytest.raises(DamagedError, match="CloudMask"):
        careful.sample(1, np.random.default_rng(0), 0)


def test_the_choice_belongs_to_the_identity_of_a_run(shards: Path) -> None:
    first, second, again = (
        objective_of(shards, clear_of=c).identity() for c in ("[]", "[snow]", "[snow]")
    )
    assert first != second
    assert second == again


def test_wishes_that_cannot_be_met_are_told(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="clear_of"):
        config_of(shards, clear_of="[fog]")
    bare = [sample(number) for number in range(3)]
    build_planted(tmp_path / "bare", bare)
    with pytest.raises(
        ConfigError, match=r"nothing in .*bare has CloudMask; .* source\.modalities including"
    ):
        objective_of(tmp_path / "bare", "data.eval_split=train")
    dataset, row = open_dataset(shards), modality("S2L2A")
    with pytest.raises(ConfigError, match=r"no sample to train on in .* has CloudMask"):
        ClearOf(dataset, row, ["snow"], np.array([4]))
    with pytest.raises(ConfigError, match="pixels of S2L2A are 15 m, no multiple of the 10 m"):
        ClearOf(dataset, row.model_copy(update={"gsd_m": 15.0}), ["snow"], np.arange(4))
    with pytest.raises(ConfigError, match=r"\(1, 36, 36\) does not show the ground of 12 x 24 px"):
        ClearOf(dataset, row, ["snow"], np.arange(4))({"CloudMask": mask_of(0)}, 12, 24)
