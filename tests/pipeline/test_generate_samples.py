"""Shard sets that lack what a model knows, results that are no longer of their model, empty truths."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from configs import ConfigError
from configs.load import parse_config
from configs.registry import modality
from configs.schema import EvaluateConfig, GenerateConfig, ShardsConfig
from pipeline.__main__ import main
from pipeline.engine.errors import RunError
from pipeline.evaluate.run import evaluate, most_complete
from pipeline.evaluate.subject import load_subject
from pipeline.generate import run as generate_run
from pipeline.generate.run import generate
from pipeline.generate.scores import MapScore, table
from pipeline.stage2 import artifact
from pipeline.stage2.samples import SampleReader
from shards import open_dataset
from shards.build import build
from tests.pipeline.test_scene import asked, run, write_tif  # noqa: F401


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Optical images and height, and nothing else: no land cover, no place, no day."""
    out = tmp_path_factory.mktemp("few") / "set"
    source = {"type": "synthetic", "num_samples": 60, "tile_px": 24, "modalities": ["S2L2A", "DEM"]}
    config = parse_config({"kind": "shards", "source": source, "out": str(out)})
    assert isinstance(config, ShardsConfig)
    build(config, quiet=True)
    return out


def of_samples(folder: Path, out: Path, shards: Path, **changes) -> GenerateConfig:
    values = {"data": {"shards": str(shards)}, "source": ["S2L2A"], "num_samples": 4}
    return asked(folder, out, **values | changes)


def scores(out: Path):
    return json.loads((out / "scores.json").read_text())


@pytest.mark.parametrize("estimate", ["draw", "expected"])
def test_what_a_shard_set_lacks_altogether_can_be_generated_for_it(run, shards, tmp_path, estimate):  # noqa: F811
    config = of_samples(run, tmp_path, shards, target=["LULC", "DEM"], estimate=estimate)
    assert generate(config) == 0
    found = scores(tmp_path)
    assert set(found["scores"]) == {"DEM"}
    assert set(found["scores"]["DEM"]["rmse"]) == {"model", "baseline", "climatology", "tokens"}
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays["generated/LULC"].shape == (4, 1, 24, 24)
        assert not arrays["present/truth/LULC"].any()
        assert arrays["present/truth/DEM"].all()
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_a_model_is_read_from_sets_that_lack_its_streams(run, shards, tmp_path):  # noqa: F811
    subject = load_subject(run, torch.device("cpu"))
    reader = SampleReader(open_dataset(shards), subject.layout, subject.normalisers)
    content = reader.content(0, 0)
    assert [subject.layout.streams[i].name for i in content.streams] == ["S2L2A@px"]
    config = EvaluateConfig(kind="evaluate", run=run, out=tmp_path, data={"shards": str(shards)})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has anything to predict"):
        most_complete(reader, config)
    with pytest.raises(ConfigError, match="has anything to predict"):
        evaluate(config)


def test_a_model_that_was_trained_on_is_generated_with_again(run, shards, tmp_path, capsys):  # noqa: F811
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    argv = [
        "generate", "--run", str(folder), "--from", "S2L2A", "--to", "LULC", "--out", str(tmp_path / "out"),
        f"data.shards={shards}", f"tokenizers.LULC={run / 'LULC'}", "num_samples=2", "steps=1",
    ]  # fmt: skip
    told = []
    for trained_on in (False, False, True):
        if trained_on:
            model, normalisers = artifact.load(folder / "artifact")
            with torch.no_grad():
                model.stream_embed.weight.add_(1)
            artifact.save(model, normalisers, folder / "artifact")
        assert main(argv) == 0
        told.append("already done" in capsys.readouterr().out)
    assert told == [False, True, False]
    # What is gone was not made anew: its results stand.
    shutil.rmtree(folder / "artifact")
    assert main(argv) == 0
    assert "already done" in capsys.readouterr().out


def test_what_breaks_off_leaves_no_scores_of_an_earlier_configuration(
    run, shards, tmp_path, monkeypatch  # noqa: F811
):  # fmt: skip
    assert generate(of_samples(run, tmp_path, shards)) == 0
    assert scores(tmp_path)["num_samples"] == 4

    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(generate_run, "write_sheet", fails)
    with pytest.raises(OSError, match="disk full"):
        generate(of_samples(run, tmp_path, shards, num_samples=2))
    assert not (tmp_path / "scores.json").exists()


def test_scores_of_a_scene_are_of_the_map_that_was_just_made(run, tmp_path):  # noqa: F811
    """Another map of the same name, and what a viewer left beside it, do not count."""
    s2 = np.random.default_rng(0).integers(1, 4000, (12, 30, 30)).astype(np.int16)
    lulc = np.full((1, 30, 30), 4, dtype=np.uint8)
    np.save(tmp_path / "s2.npy", s2)
    np.save(tmp_path / "lulc.npy", lulc)
    arrays = {
        "inputs": {"S2L2A": str(tmp_path / "s2.npy")},
        "truth": {"LULC": str(tmp_path / "lulc.npy")},
    }
    generate(asked(run, tmp_path / "alone", **arrays))
    source = write_tif(tmp_path / "s2.tif", s2)
    generate(asked(run, tmp_path / "out", inputs={"S2L2A": source}, seed=1))
    (tmp_path / "out" / "LULC.tif.aux.xml").write_text("<PAMDataset/>")
    generate(asked(run, tmp_path / "out", **arrays))
    assert scores(tmp_path / "out")["scores"] == scores(tmp_path / "alone")["scores"]


def test_a_truth_of_nodata_alone_is_no_score(run, tmp_path):  # noqa: F811
    s2 = np.random.default_rng(0).integers(1, 4000, (12, 30, 30)).astype(np.int16)
    inputs = {"S2L2A": write_tif(tmp_path / "s2.tif", s2)}
    nothing = np.full((1, 30, 30), modality("DEM").nodata, dtype=np.int16)
    truth = {"DEM": write_tif(tmp_path / "dem.tif", nothing)}
    generate(asked(run, tmp_path / "out", inputs=inputs, target=["DEM"], truth=truth))
    assert scores(tmp_path / "out")["scores"] == {}
    for name in ("DEM", "LULC"):
        assert table({name: {"model": MapScore(modality(name))}}) == {}


def test_the_folder_of_a_model_will_do_for_its_run(run, shards, tmp_path):  # noqa: F811
    """It does not tell where its tokenizers are, so somebody has to."""
    with pytest.raises(ConfigError, match="--tokenizer"):
        generate(of_samples(run / "artifact", tmp_path / "a", shards))
    named = {"tokenizers": {"LULC": str(run / "LULC")}}
    generate(of_samples(run / "artifact", tmp_path / "a", shards, **named))
    generate(of_samples(run, tmp_path / "b", shards))
    a, b = (np.load(tmp_path / n / "samples.npz")["generated/LULC"] for n in "ab")
    assert np.array_equal(a, b)
    assert load_subject(run / "artifact", torch.device("cpu")).kind == "stage2"


@pytest.mark.parametrize(
    ("changes", "words"), [({"multimae": {}}, "a MultiMAE"), ({"tokenizer": {}}, "no model of tokens")]
)  # fmt: skip
def test_other_models_are_told_from_those_of_tokens(tmp_path, changes, words):
    (tmp_path / "config.json").write_text(json.dumps(changes))
    with pytest.raises(RunError, match=words):
        load_subject(tmp_path, torch.device("cpu"))
    (tmp_path / "config.json").write_text(json.dumps({"layout": {}, "fusion": {}, **changes}))
    with pytest.raises(RunError, match="no stage-2 model"):
        artifact.describe(tmp_path)


def test_an_override_of_one_key_leaves_the_data_of_the_run(run):  # noqa: F811
    from pipeline.generate.command import assembled

    def data(*overrides):
        config = assembled(None, run, "S2L2A", "LULC", [], [], [], None, list(overrides))
        assert config.data is not None
        return config.data

    assert str(data("data.readers=2").shards) == str(run / "shards")
    assert data("data.readers=2").readers == 2
    assert str(data("data.shards=other").shards) == "other"


def test_truths_that_nothing_is_scored_by_are_refused(run, tmp_path):  # noqa: F811
    files = {"inputs": {"S2L2A": "s2.tif"}, "truth": {"DEM": "dem.tif"}}
    with pytest.raises(ValueError, match="truth names DEM, which is no target"):
        asked(run, tmp_path, **files)
    with pytest.raises(ValueError, match="samples of `data` bring their own"):
        of_samples(run, tmp_path, tmp_path, truth={"LULC": "lulc.tif"})


def test_the_model_of_one_modality_can_be_evaluated(run, shards, tmp_path, monkeypatch, capsys):  # noqa: F811
    """There is nothing to tell its target from; that is said, and is no failure."""
    monkeypatch.setattr("pipeline.evaluate.run.score_tokens", lambda *_: {"all": {}})
    monkeypatch.setattr("pipeline.evaluate.run.most_complete", lambda *_: np.arange(2))
    monkeypatch.setattr("pipeline.evaluate.run._prior", lambda *_: {})
    config = EvaluateConfig(kind="evaluate", run=run, out=tmp_path, data={"shards": str(shards)})  # type: ignore[arg-type]
    assert evaluate(config) == 0
    assert "no target has an input" in capsys.readouterr().out
