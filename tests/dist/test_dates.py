"""Shards with several dates to a trained model: tokens of each date, training that resumes, its uses."""

import json

import numpy as np
import pytest

from pipeline.data.tokens import extra_name
from pipeline.data.views import Views
from pipeline.stage1.artifact import ImageTokenizer
from shards import open_dataset
from tests.dist.conftest import TINY_TOKENIZER
from tests.dist.ranks import Ranks, run_ranks
from tests.dist.runs import curve, metrics

pytestmark = pytest.mark.dist

NDVI = ("NDVI", "NDVI_t1", "NDVI_t2")
DATES = "masked.dates={S2L2A: 2, NDVI: 3}"


@pytest.fixture(scope="module")
def seasons(tmp_path_factory):
    """A shard set with tokens of three dates of NDVI, and the tokenizer that made them."""
    out = tmp_path_factory.mktemp("seasons")
    run_ranks(
        ["shards", "build", "--config", "configs/shards/seasons.yaml", f"out={out / 'shards'}",
         "source.num_samples=40", "source.tile_px=24", "samples_per_shard=16",
         f"source.modalities=[S2L2A,S2L2A_t1,LULC,coordinates,date,{','.join(NDVI)}]"],
        1, out / "logs" / "build",
    )  # fmt: skip
    for name in ("NDVI", "LULC"):
        run_ranks(
            ["pipeline", "train", "--config", "configs/stage1/small.yaml", f"modality={name}",
             f"out={out / name}", f"data.shards={out / 'shards'}", *TINY_TOKENIZER],
            1, out / "logs" / name,
        )  # fmt: skip
    run_ranks(
        ["pipeline", "tokenize", "--config", "configs/tokenize/small.yaml", "modalities=[]",
         f"data.shards={out / 'shards'}", "symmetries=2",
         *(f"tokenizers.{name}={out / name}" for name in ("NDVI", "LULC"))],
        2, out / "logs" / "tokenize",
    )  # fmt: skip
    return out


def test_every_date_is_tokenized_as_the_first_one(seasons):
    dataset = open_dataset(seasons / "shards")
    assert set(dataset.extras) == {extra_name(n) for n in (*NDVI, "LULC")}
    tokenizer, views = (
        ImageTokenizer.from_pretrained(seasons / "NDVI" / "artifact", "cpu"),
        Views(1, 2),
    )
    first = dataset.extra_manifest("tok_NDVI")["info"]
    for name in NDVI:
        extra = extra_name(name)
        assert dataset.extra_manifest(extra)["info"] == first | {"modality": name}
        assert np.array_equal(dataset.present(extra), dataset.present(name))
        i = int(np.flatnonzero(dataset.present(name))[0])
        image = dataset.read(i, [name])[name]
        assert isinstance(image, np.ndarray)
        windows = views.all(image, dataset.modalities[name], first["window_m"])
        assert np.array_equal(
            dataset.read(i, [extra])[extra], tokenizer.tokenize(windows).reshape(2, -1)
        )


def test_it_trains_resumes_and_is_put_to_use(seasons, tmp_path):
    argv = [
        "pipeline", "train", "--config", "configs/stage2/small.yaml", f"data.shards={seasons / 'shards'}",
        DATES, "masked.pixels=[S2L2A]", "masked.patch_px={S2L2A: 8}", "masked.tokens=[NDVI,LULC]",
        "masked.targets=[NDVI,LULC]", "masked.width=32", "masked.heads=2", "masked.encoder_depth=1",
        "masked.decoder_depth=1", "masked.num_input_tokens=16", "masked.num_target_tokens=16",
        "masked.masking=[{kind: dirichlet}, {kind: tube}]", "engine.num_steps=8", "engine.global_batch=6",
        "engine.checkpoint.every_steps=3", "engine.log_every=1", "engine.eval_samples=4",
        "monitor.every_steps=8", "monitor.sheet={source: [S2L2A_t1], target: [NDVI_t2]}",
    ]  # fmt: skip
    whole, out = tmp_path / "whole", tmp_path / "run"
    run_ranks([*argv, f"out={whole}"], 2, tmp_path / "logs" / "whole")
    ranks = Ranks([*argv, f"out={out}"], 2, tmp_path / "logs" / "first")
    ranks.wait_for(out / "checkpoints" / "step-00000003" / "MANIFEST.json")
    ranks.kill()
    assert "goes on from step" in run_ranks([*argv, f"out={out}"], 2, tmp_path / "logs" / "second")
    assert curve(out) == curve(whole)
    assert {f"ce/{n}" for n in NDVI} < {k for line in metrics(out) for k in line}
    assert (out / "monitor" / "step-00000008" / "sheet.png").is_file()

    shards = f"data.shards={seasons / 'shards'}"
    run_ranks(
        ["pipeline", "generate", "--config", "configs/generate/small.yaml", f"out={tmp_path / 'drawn'}",
         f"run={out}", shards, "source=[S2L2A_t1]", "target=[NDVI_t1]", "num_samples=2", "split=train"],
        1, tmp_path / "logs" / "generate",
    )  # fmt: skip
    drawn = np.load(tmp_path / "drawn" / "samples.npz")
    assert drawn["generated/NDVI_t1"].shape == drawn["truth/NDVI_t1"].shape
    run_ranks(
        ["pipeline", "evaluate", "--config", "configs/evaluate/small.yaml", f"out={tmp_path / 'scores'}",
         f"run={out}", shards, "data.eval_split=train", "probes.labels=[]", "without=[S2L2A]", "alone=[NDVI]",
         "pairs=[]", "num_samples=12"],
        1, tmp_path / "logs" / "evaluate",
    )  # fmt: skip
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert set(scores["tokens"]["all"]) == {*NDVI, "LULC"} == set(scores["prior"])
    # Of NDVI alone one date is told from the others.
    assert set(NDVI) <= set(scores["tokens"]["alone/NDVI"])
