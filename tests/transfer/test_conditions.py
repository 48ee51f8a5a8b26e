"""Trained on one set of inputs, tested on another; samples that have nothing; several labels; other sizes."""

import numpy as np
import pytest
import rasterio
import torch

from configs import ConfigError
from configs.schema import InputSet, TaskConfig, TransferConfig
from pipeline.multimae.encoder import MultiMAEEncoder
from pipeline.transfer import bench
from pipeline.transfer.conditions import test_sets as sets_of
from pipeline.transfer.feed import features, hidden
from pipeline.transfer.opening import open_backbone
from pipeline.transfer.record import read_results
from pipeline.transfer.run import transfer
from pipeline.transfer.saved import load_model
from pipeline.transfer.scene import predict_scene
from tests.transfer.test_backbones import save_multimae
from tests.transfer.worlds import (
    BANDS,
    CPU,
    mask_task,
    open_task,
    save_stage2,
    stage2,
    two_classes,
    write_masks,
    write_tif,
)

IMAGES = {"image": {"modality": "S2", "bands": BANDS}, "radar": {"modality": "S1GRD"}}


def write_pairs(folder, count=32, lacking=()):
    """Optical images and radar of the same two materials; some samples lack the optical one."""
    rng = np.random.default_rng(3)
    lines = ["image,radar,mask,kinds,split"]
    for i in range(count):
        image, mask = two_classes(rng)
        radar = rng.normal((-12, -20), 2, (16, 16, 2)).transpose(2, 0, 1) + 12 * mask
        write_tif(folder / f"i{i}.tif", image)
        write_tif(folder / f"r{i}.tif", radar.astype(np.float32))
        write_tif(folder / f"m{i}.tif", mask)
        optical = "" if i in lacking else f"i{i}.tif"
        split = ("train", "train", "val", "test")[i % 4]
        kinds = "left;right" if i % 3 else "left"
        lines.append(f"{optical},r{i}.tif,m{i}.tif,{kinds},{split}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def config_of(tmp_path, task, **changes) -> TransferConfig:
    values = {
        "kind": "transfer", "backbone": str(save_stage2(tmp_path / "run")), "out": tmp_path / "out",
        "tasks": {"t": task}, "protocols": ["probe"], "bootstrap": 0,
        "fit": {"num_steps": 60, "batch": 8, "eval_every": 20},
    }  # fmt: skip
    return TransferConfig.model_validate(values | changes)


def pair_task(table, **more):
    task = mask_task(table).model_dump()
    return task | {"data": {**task["data"], "images": IMAGES}} | more


def test_trained_on_one_set_and_tested_on_another(tmp_path):
    """A head that saw radar alone reads radar better than one that saw the optical image alone."""
    task = pair_task(write_pairs(tmp_path / "data", lacking=(3, 7)))
    alone = {n: {"modalities": [n]} for n in ("S2", "S1GRD")}
    transfer(config_of(tmp_path, task, train_on=alone, test_on={"both": {}, **alone}))
    lines = read_results(tmp_path / "out")
    found = {(x["train_on"], x["test_on"]): x["metrics"]["miou"]["value"] for x in lines}
    assert len(found) == 6
    for trained, other in (("S2", "S1GRD"), ("S1GRD", "S2")):
        assert found[trained, trained] > 0.8
        assert found[trained, trained] > found[trained, other] + 0.1
    # Two of eight test samples have no optical image: alone it can tell nothing about them.
    counts = {x["test_on"]: x["num_test"] for x in lines}
    assert counts == {"both": 8, "S2": 6, "S1GRD": 8}


def test_a_fit_that_no_test_sample_can_judge_is_no_failure(tmp_path):
    """Tested where it can be: no test sample has what one of the models was trained on."""
    lacking = range(3, 32, 4)
    task = pair_task(write_pairs(tmp_path / "data", lacking=lacking))
    sets = {"optical": {"modalities": ["S2"]}, "both": {}}
    transfer(config_of(tmp_path, task, train_on=sets, test_on=sets))
    lines = read_results(tmp_path / "out")
    assert [(x["train_on"], x["test_on"]) for x in lines] == [("optical", "both"), ("both", "both")]
    # The sheet of the other shows what its samples have.
    (path,) = (tmp_path / "out" / "sheets").iterdir()
    with np.load(path) as sheet:
        assert str(sheet["input_name"]) == "S1GRD"
        assert len(sheet["predicted"]) == len(sheet["input"]) == 6


def test_sets_that_are_told_apart_by_nothing_are_made_once():
    config = TransferConfig.model_construct(test_on=None)
    assert list(sets_of(config, {"a": {}})) == ["all"]
    assert list(sets_of(config, {"a": {}, "b": {}})) == ["all", "without/a", "without/b"]
    assert len(sets_of(config, {"a": {}, "b": {}, "c": {}})) == 7


def test_several_labels_by_neighbours_and_probe(tmp_path):
    task = pair_task(write_pairs(tmp_path / "data"), type="multilabel")
    task["data"] |= {"label": "kinds", "classes": ["left", "right"]}
    transfer(
        config_of(tmp_path, task, protocols=["knn", "probe"], neighbours=3, test_on={"all": {}})
    )
    for line in read_results(tmp_path / "out"):
        values = {n: s["value"] for n, s in line["metrics"].items()}
        assert set(values) == {"map", "f1", "f1_micro"}
        # All samples are `left`: whoever learned anything knows that.
        assert values["f1_micro"] > 0.6
        assert "confusion" not in line


def test_neighbours_rank_samples_that_have_a_label_or_not(tmp_path, monkeypatch):
    """Scores are shares, no hard votes: samples with more or nearer neighbours of a class rank higher."""
    noted, original = [], bench.contributions

    def note(kind, outputs, truth):
        noted.append(outputs)
        return original(kind, outputs, truth)

    monkeypatch.setattr(bench, "contributions", note)
    task = pair_task(write_pairs(tmp_path / "data"), type="multilabel")
    task["data"] |= {"label": "kinds", "classes": ["left", "right"]}
    transfer(config_of(tmp_path, task, protocols=["knn"], test_on={"all": {}}))
    (scores,) = noted
    assert np.allclose(scores[:, 0], 0.5)
    assert len(np.unique(scores[:, 1])) > 4
    assert (np.abs(scores) <= 0.5).all()


@pytest.mark.parametrize(("window_m", "side"), [(None, 16), (230.0, 24), (40.0, 4)])
def test_images_are_shown_in_whole_patches_of_any_ground(tmp_path, window_m, side):
    config = TaskConfig.model_validate(
        mask_task(write_pairs(tmp_path / "data", 8)).model_dump() | {"window_m": window_m}
    )
    backbone = stage2(tmp_path / "run")
    task = open_task(config, backbone)
    batch = task.batch("train", [0, 1], InputSet())
    assert batch.images["S2"].shape == (2, 4, side, side)
    (found,) = backbone(batch.images, batch.present, [0])
    assert found.shape[-2:] == (side // 4, side // 4)
    assert task.label_batch("train", np.array([0])).shape == (1, 16, 16)


def test_features_beside_each_other_are_another_result_and_another_saved_model(tmp_path):
    task = pair_task(write_pairs(tmp_path / "data"))
    for merge in ("mean", "concat"):
        transfer(config_of(tmp_path, task, merge=merge, keep_models=True, test_on={"all": {}}))
        (folder,) = (tmp_path / "out" / "models").iterdir()
        loaded = load_model(folder, CPU)
        assert loaded.backbone.width == (16 if merge == "mean" else 32)
        assert loaded.head.state_dict()["linear.weight"].shape[1] == loaded.backbone.width
    lines = read_results(tmp_path / "out")
    assert [x["merge"] for x in lines] == ["mean", "concat"]
    assert len({x["cell"] for x in lines}) == 2
    check_scene_is_sheet(tmp_path, loaded)


def test_a_saved_model_hides_the_bands_that_were_hidden_from_it(tmp_path):
    task = pair_task(write_pairs(tmp_path / "data"))
    sets = {"fewer": {"without_bands": {"S2": [BANDS[0], BANDS[2]]}}}
    transfer(config_of(tmp_path, task, keep_models=True, train_on=sets, test_on=sets))
    (folder,) = (tmp_path / "out" / "models").iterdir()
    check_scene_is_sheet(tmp_path, load_model(folder, CPU))


def check_scene_is_sheet(tmp_path, loaded):
    """The saved one tells what the fit told: of its own sheet of test samples."""
    with np.load(next((tmp_path / "out" / "sheets").iterdir())) as sheet:
        name, wanted = str(sheet["keys"][0]), sheet["predicted"][0, 0]
    inputs = {
        "S2": tmp_path / "data" / name,
        "S1GRD": tmp_path / "data" / name.replace("i", "r", 1),
    }
    predict_scene(loaded, inputs, tmp_path / "one.tif", overlap=0)
    with rasterio.open(tmp_path / "one.tif") as file:
        assert np.array_equal(file.read(1), wanted)


def test_groups_of_a_multimae_that_lost_their_bands_are_absent(tmp_path):
    """Of data without the near infrared, and of bands that a test set withholds."""
    backbone = open_backbone(str(save_multimae(tmp_path / "mae")), {}, CPU).eval()
    table = write_masks(tmp_path / "data", 8)
    encoder = MultiMAEEncoder.from_pretrained(tmp_path / "mae")
    last = [backbone.depth - 1]

    def task(bands):
        data = mask_task(table).data.model_dump()
        images = {"image": {"modality": "optical", "bands": bands}}
        values = {"type": "segmentation", "data": {**data, "images": images}}
        config = TaskConfig.model_validate(values | {"modality_map": {"optical": "S2L2A"}})
        return open_task(config, backbone)

    for found, given in (
        (task(["B02", "B03", "B04", "B99"]), InputSet()),
        (task(["B02", "B03", "B04", "B08"]), InputSet(without_bands={"S2L2A": ("B8",)})),
    ):
        batch = found.batch("train", [0, 1], given)
        assert batch.known == {"S2L2A": (True, True, True, False)}
        assert not batch.images["S2L2A"].isnan().any()
        maps = features(backbone, hidden(batch, 0.5, np.random.default_rng(0)), last, CPU)[0]
        rgb = torch.stack(
            [
                torch.from_numpy(x)
                for n in (0, 1)
                if (x := found.raw("train", n, "optical")) is not None
            ]
        )
        (wanted,) = encoder({"rgb": rgb[:, [2, 1, 0]]}, [-1], "mean")
        assert isinstance(wanted, torch.Tensor)
        assert torch.allclose(maps.flatten(2).transpose(1, 2), wanted, atol=1e-4)


def test_bands_that_cannot_be_withheld_are_told_before_any_fit():
    have = {"S2": {"B04": True, "B08": True, "B11": False}, "S1GRD": {"vv": True}}

    def sets(**without):
        config = TransferConfig.model_construct(test_on={"x": InputSet(without_bands=without)})
        return sets_of(config, have)

    assert sets(S2=("8",))
    with pytest.raises(
        ConfigError, match=r"test_on\.x\.without_bands\.S2: there is no band B14; there are B04"
    ):
        sets(S2=("B14",))
    with pytest.raises(ConfigError, match="leaves none of its bands: write `without`"):
        sets(S2=("B4", "B08"))
