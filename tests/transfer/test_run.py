"""The whole harness on tiny files: learns what is there to learn, goes on where it was, hides nothing."""

import json

import pytest
import torch

from configs import ConfigError, load_config
from configs.schema import InputSet, TransferConfig
from pipeline.__main__ import main
from pipeline.transfer.opening import open_backbone
from pipeline.transfer.record import append_results, read_results
from pipeline.transfer.run import transfer
from pipeline.transfer.subsets import fraction
from pipeline.transfer.summary import print_summary
from pipeline.transfer.weights import backbone_digest
from tests.transfer.worlds import CPU, mask_task, open_task, save_stage2, stage2, write_masks


@pytest.fixture
def made(tmp_path):
    """A configuration over masks of two classes; changes are taken as keywords."""
    table, run = write_masks(tmp_path / "data", 24), save_stage2(tmp_path / "run")

    def config(**changes) -> TransferConfig:
        values = {
            "kind": "transfer", "backbone": str(run), "out": tmp_path / "out",
            "tasks": {"masks": mask_task(table).model_dump()}, "protocols": ["probe"],
            "fit": {"num_steps": 40, "batch": 4, "eval_every": 10}, "bootstrap": 50,
        }  # fmt: skip
        return TransferConfig.model_validate(values | changes)

    return config


def best(lines, **wanted):
    found = [x for x in lines if all(x[k] == v for k, v in wanted.items())]
    assert len(found) == 1, found
    return found[0]["metrics"]["miou"]["value"]


@pytest.mark.parametrize("protocol", ["probe", "finetune"])
@pytest.mark.parametrize("head", ["linear", "conv", "upernet"])
def test_every_head_learns_with_and_without_its_backbone(made, protocol, head):
    config = made(protocols=[protocol], fractions=[1.0])
    task = config.tasks["masks"].model_copy(update={"head": head})
    fit = config.fit.model_copy(update={"lr": 5e-3})
    config = config.model_copy(update={"tasks": {"masks": task}, "fit": fit})
    transfer(config)
    lines = read_results(config.out)
    # The boundary lies between patches: one half each by chance.
    assert best(lines, test_on="all") > 0.8
    line = lines[0]
    assert (line["num_train"], line["num_test"]) == (12, 6)
    score = line["metrics"]["miou"]
    assert score["low"] <= score["value"] <= score["high"]
    assert sum(map(sum, line["confusion"])) == 6 * 16 * 16
    assert (config.out / "sheets").is_dir()


def test_a_cell_that_stands_in_the_record_is_not_made_again(made):
    config = made(fractions=[0.5, 1.0], seeds=[0, 1])
    transfer(config)
    first = (config.out / "results.jsonl").read_bytes()
    # As a crash would: the last line cut, and with it the cell it was of.
    text = first.decode().splitlines(keepends=True)
    (config.out / "results.jsonl").write_text("".join(text[:-1]) + text[-1][:40])
    transfer(config)
    lines = read_results(config.out)
    assert len(lines) == 4
    again = json.loads(text[-1])
    assert lines[-1]["metrics"] == again["metrics"]
    before = (config.out / "results.jsonl").read_bytes()
    transfer(config)
    assert (config.out / "results.jsonl").read_bytes() == before
    transfer(made(fractions=[1.0], seeds=[0], fit={"num_steps": 20, "batch": 4}))
    assert len(read_results(config.out)) == 5


def test_another_backbone_is_another_result(made, tmp_path):
    config = made()
    old = backbone_digest(config.backbone)
    transfer(config)
    save_stage2(tmp_path / "run", seed=1)
    assert backbone_digest(config.backbone) != old
    transfer(config)
    assert len({x["cell"] for x in read_results(config.out)}) == 2


def scores(config):
    return json.loads((config.out / "scores.json").read_text())


def test_results_of_other_settings_weights_and_data_are_no_seeds(made, tmp_path, capsys):
    """The record keeps them; means, table and page are of this very configuration."""
    config = made(protocols=["probe"])
    transfer(config)
    first = scores(config)["scores"]
    transfer(made(fit={"num_steps": 20, "batch": 4}))
    save_stage2(tmp_path / "run", seed=1)
    capsys.readouterr()
    transfer(config)
    lines, record = read_results(config.out), scores(config)
    assert len(lines) == 3
    assert record["cells"] == [lines[-1]["cell"]]
    assert record["backbone_digest"] == backbone_digest(config.backbone)
    (entry,) = record["scores"]
    value = lines[-1]["metrics"]["miou"]["value"]
    assert entry["seeds"] == [0]
    assert entry["metrics"]["miou"]["mean"] == value != first[0]["metrics"]["miou"]["mean"]
    assert f"{100 * value:.1f} % (" in capsys.readouterr().out
    # Other labels of the same files.
    (tmp_path / "data" / "m0.tif").write_bytes((tmp_path / "data" / "m1.tif").read_bytes())
    transfer(config)
    assert scores(config)["scores"][0]["seeds"] == [0]
    assert scores(config)["tasks"] != record["tasks"]


def test_a_cell_that_was_cut_off_between_two_lines_is_made_again(made):
    sets = {"all": InputSet(), "less": InputSet(without_bands={"S2": ("B04",)})}
    config = made(test_on=sets)
    transfer(config)
    whole = (config.out / "results.jsonl").read_text()
    first, second = whole.splitlines(keepends=True)
    (config.out / "results.jsonl").write_text(first)
    assert read_results(config.out) == []
    transfer(config)
    lines = read_results(config.out)
    assert [x["test_on"] for x in lines] == ["all", "less"]
    assert lines[1]["metrics"] == json.loads(second)["metrics"]
    assert [e["seeds"] for e in scores(config)["scores"]] == [[0], [0]]


def test_a_backbone_that_was_trained_again_is_not_done(made, tmp_path, capsys):
    from configs import to_yaml

    path = tmp_path / "t.yaml"
    path.write_text(to_yaml(made()))
    command = ["transfer", "--config", str(path)]
    assert main(command) == 0
    save_stage2(tmp_path / "run", seed=1)
    assert main(command) == 0
    assert "already done" not in capsys.readouterr().out
    assert len(read_results(made().out)) == 2
    # Weights that are gone were not trained anew.
    (tmp_path / "run" / "artifact").rename(tmp_path / "elsewhere")
    assert main(command) == 0
    assert "already done" in capsys.readouterr().out


def test_a_table_tells_apart_what_differs(capsys):
    line = {
        "cell": "a", "task": "t", "type": "regression", "init": "random", "merge": "mean",
        "protocol": "probe", "head": "linear", "train_on": "all", "test_on": "all", "labels": "10 %",
        "seed": 0, "num_train": 3, "num_test": 3, "metrics": {"rmse": {"value": 1.5}},
    }  # fmt: skip
    print_summary([line])
    assert "random" not in capsys.readouterr().out
    other = line | {"init": "pretrained", "metrics": {"rmse": {"value": 0.5}}}
    print_summary([line, other, line | {"head": "conv", "metrics": {"rmse": {"value": 2.5}}}])
    rows = [r.split() for r in capsys.readouterr().out.splitlines() if "probe" in r]
    assert len(rows) == 3
    for words in (("random", "linear", "1.500"), ("pretrained", "0.500"), ("conv", "2.500")):
        assert any(set(words) <= set(row) for row in rows)


def test_a_random_twin_has_other_weights_and_each_seed_its_own(tmp_path):
    trained = stage2(tmp_path).state_dict()
    names = [n for n, v in trained.items() if "attn" in n and v.ndim > 1]
    twins = [stage2(tmp_path, seed).state_dict() for seed in (0, 1, 1)]
    assert names
    for n in names:
        assert not torch.equal(trained[n], twins[1][n])
        assert not torch.equal(twins[0][n], twins[1][n])
        assert torch.equal(twins[1][n], twins[2][n])


def test_a_probe_leaves_its_backbone_alone_and_fine_tuning_does_not(made, tmp_path):
    config = made(protocols=["finetune"], keep_models=True)
    transfer(config)
    from safetensors.torch import load_file

    (folder,) = (config.out / "models").iterdir()
    tuned = load_file(folder / "model.safetensors")
    own = open_backbone(config.backbone, {}, CPU).state_dict()
    changed = {n for n, v in own.items() if not torch.equal(v, tuned[f"backbone.{n}"])}
    assert any("encoder.0" in n for n in changed)
    transfer(made(protocols=["probe"], keep_models=True, out=tmp_path / "probe"))
    (folder,) = (tmp_path / "probe" / "models").iterdir()
    assert not any(n.startswith("backbone.") for n in load_file(folder / "model.safetensors"))


def test_bands_that_are_missing_are_missed(made):
    sets = {"all": InputSet(), "blind": InputSet(without_bands={"S2": ("B08",)})}
    transfer(made(test_on=sets))
    lines = read_results(made().out)
    assert best(lines, test_on="all") > best(lines, test_on="blind") + 0.2
    with pytest.raises(ConfigError, match=r"test_on\.x\.without_bands\.S2: there is no band B99"):
        transfer(made(test_on={"x": InputSet(without_bands={"S2": ("B99",)})}))
    with pytest.raises(ConfigError, match=r"test_on\.x names DEM; the backbone is given S2"):
        transfer(made(test_on={"x": InputSet(without=("DEM",))}))


def test_the_test_split_has_no_say_in_training(made, tmp_path):
    """Other test images, the same model: early stopping looks at validation alone."""
    config = made(keep_models=True)
    transfer(config)
    other = write_masks(tmp_path / "data2", 24)
    for i in range(3, 24, 4):
        (tmp_path / "data2" / f"i{i}.tif").write_bytes(
            (tmp_path / "data" / f"i{(i + 4) % 24}.tif").read_bytes()
        )
    tasks = {"masks": mask_task(other).model_dump()}
    transfer(made(keep_models=True, tasks=tasks, out=tmp_path / "out2"))
    a, b = (
        next((out / "models").iterdir()) / "model.safetensors"
        for out in (tmp_path / "out", tmp_path / "out2")
    )
    assert a.read_bytes() == b.read_bytes()
    (x,), (y,) = read_results(tmp_path / "out"), read_results(tmp_path / "out2")
    assert x["history"] == y["history"]
    assert x["metrics"] != y["metrics"]


def test_fractions_of_a_task_are_those_of_its_seed(made, tmp_path):
    config = made(fractions=[0.25])
    transfer(config)
    assert read_results(config.out)[0]["num_train"] == 3
    task = open_task(config.tasks["masks"], stage2(tmp_path / "x"))
    assert len(fraction(task.strata(), 0.25, 0)) == 3


def test_the_command_says_when_it_is_done(made, tmp_path, capsys):
    from configs import to_yaml

    path = tmp_path / "t.yaml"
    path.write_text(to_yaml(made()))
    assert main(["transfer", "--config", str(path)]) == 0
    assert "masks: miou" in capsys.readouterr().out
    assert main(["transfer", "--config", str(path)]) == 0
    assert "already done" in capsys.readouterr().out
    assert main(["transfer", "--config", str(path), "backbone=nowhere", "out=x"]) == 2
    assert "no model in nowhere" in capsys.readouterr().err


def test_the_packaged_configuration_is_one():
    assert isinstance(load_config("configs/transfer/small.yaml"), TransferConfig)


def test_a_line_after_a_broken_one_can_be_read(tmp_path):
    append_results(tmp_path, [{"cell": "a"}])
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"cell": "b", "tas')
    append_results(tmp_path, [{"cell": "c"}])
    assert [x["cell"] for x in read_results(tmp_path)] == ["a", "c"]


def test_regression_with_gaps_goes_into_the_record(made, tmp_path):
    """Heights are NaN where nobody measured: numbers of the record are JSON all the same."""
    import numpy as np
    import rasterio

    from tests.transfer.worlds import write_tif

    config = made()
    for path in (tmp_path / "data").glob("m*.tif"):
        with rasterio.open(path) as file:
            height = 5 + 10 * file.read().astype(np.float32)
        height[:, :2] = np.nan
        write_tif(path, height)
    task = config.tasks["masks"].model_dump()
    task |= {"type": "regression", "data": {**task["data"], "classes": ()}}
    transfer(made(tasks={"heights": task}))
    (line,) = read_results(config.out)
    assert line["metrics"]["r2"]["value"] > 0.5
    assert line["metrics"]["rmse"]["value"] < 4
    with np.load(next((config.out / "sheets").iterdir())) as sheet:
        assert np.isnan(sheet["truth"][:, :, :2]).all()
        assert abs(sheet["predicted"].mean() - 10) < 2
