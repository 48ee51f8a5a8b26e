"""Class folders and tables: splits, labels, masks, what is refused."""

import re
from pathlib import Path

import numpy as np
import pytest

from configs import ConfigError
from configs.schema import ClassFolders, ImageFile, ImageTable, TaskConfig
from pipeline.transfer.files import drawn_split
from pipeline.transfer.samples import open_samples
from pipeline.transfer.target import Target
from pipeline.transfer.task import LabelledSamples
from shards.errors import SampleError, SourceError
from tests.real import real_samples
from tests.transfer.worlds import BANDS, mask_task, write_masks, write_tif

# The order of the 13 channels in EuroSAT's files: B8A comes last.
EUROSAT_BANDS = (
    *("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A"),
)  # fmt: skip


def folders(path: Path, bands=("a", "b"), **more) -> TaskConfig:
    image = ImageFile(modality="image", bands=bands)
    return TaskConfig(
        type="classification", data=ClassFolders(path=path, image=image, **more), label="label"
    )


def test_a_folder_per_class(tmp_path):
    for name, value in (("forest", 1.0), ("crop", 2.0)):
        for i in range(20):
            write_tif(tmp_path / name / f"{i}.tif", np.full((2, 4, 4), value, dtype=np.float32))
    samples = open_samples(folders(tmp_path))
    assert samples.rows["label"].bands == ("crop", "forest")
    assert sum(map(len, samples.splits.values())) == 40
    assert all(len(s) for s in samples.splits.values())
    for i in (0, 39):
        parts = samples.read(i, ["image", "label"])
        name = samples.rows["label"].bands[int(parts["label"].argmax())]
        assert samples.keys[i].startswith(name)
        assert (parts["image"] == (2.0 if name == "crop" else 1.0)).all()
    # A file that comes later changes no other's split.
    before = {samples.keys[i]: s for s, ids in samples.splits.items() for i in ids}
    write_tif(tmp_path / "crop" / "new.tif", np.ones((2, 4, 4), dtype=np.float32))
    again = open_samples(folders(tmp_path))
    after = {again.keys[i]: s for s, ids in again.splits.items() for i in ids}
    assert before.items() <= after.items()


def test_splits_that_are_folders_are_kept(tmp_path):
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            write_tif(tmp_path / split / name / "0.tif", np.ones((2, 4, 4), dtype=np.float32))
    samples = open_samples(folders(tmp_path))
    for split, ids in samples.splits.items():
        assert [samples.keys[i] for i in ids] == [f"{split}/a/0.tif", f"{split}/b/0.tif"]


def test_shares_of_splits_are_as_asked():
    drawn = [drawn_split(f"x{i}", 0.1, 0.3) for i in range(4000)]
    for split, share in (("val", 0.1), ("test", 0.3), ("train", 0.6)):
        assert drawn.count(split) / 4000 == pytest.approx(share, abs=0.03)


def test_a_table_of_images_and_masks(tmp_path):
    found = LabelledSamples("t", mask_task(write_masks(tmp_path, 8)))
    assert {s: len(i) for s, i in found.indices.items()} == {"train": 4, "val": 2, "test": 2}
    assert found.target.names == ("left", "right")
    assert set(np.unique(found.labels["train"][0])) == {0, 1}
    assert found.samples.read(0, ["S2"])["S2"].shape == (4, 16, 16)


def table(folder: Path, text: str, **more) -> ImageTable:
    (folder / "t.csv").write_text(text)
    images = {"image": ImageFile(modality="S2", bands=BANDS)}
    return ImageTable(table=folder / "t.csv", images=images, **more)


def labelled(data: ImageTable, kind: str) -> TaskConfig:
    return TaskConfig.model_validate({"type": kind, "data": data})


def test_a_table_of_several_labels(tmp_path):
    data = table(tmp_path, "image,label\nx.tif,sea;sand\ny.tif,sand\nz.tif,\n")
    config = labelled(data, "multilabel")
    samples = open_samples(config)
    target = Target(samples.rows["label"], config)
    assert target.names == ("sand", "sea")
    found = [target.of(samples.read(i, ["label"])["label"]) for i in range(3)]
    assert [x is not None and x.tolist() for x in found] == [[1, 1], [1, 0], [0, 0]]


def test_a_mask_of_values_is_a_target_for_regression(tmp_path):
    write_tif(tmp_path / "h.tif", np.array([[[1.5, -9.0]]], dtype=np.float32))
    data = table(tmp_path, "image,label\n,h.tif\n", nodata=-9.0)
    config = labelled(data, "regression")
    samples = open_samples(config)
    part = samples.read(0, ["label", "S2"])
    assert list(part) == ["label"]
    found = Target(samples.rows["label"], config).of(part["label"])
    assert found is not None
    assert found[0, 0, 0] == 1.5
    assert np.isnan(found[0, 0, 1])


def test_what_is_wrong_with_a_table_is_told(tmp_path):
    kind = "classification"
    with pytest.raises(SourceError, match="has no column label; it has image, class"):
        open_samples(labelled(table(tmp_path, "image,class\nx,1\n"), kind))
    with pytest.raises(SourceError, match="sample 1: split 'dev'; write train, val or test"):
        open_samples(
            labelled(table(tmp_path, "image,label,s\nx,a,dev\ny,b,val\n", split="s"), kind)
        )
    with pytest.raises(SourceError, match=r"class 'c' is not in data\.classes"):
        open_samples(labelled(table(tmp_path, "image,label\nx,c\n", classes=("a", "b")), kind))


def test_an_image_in_two_splits_is_refused(tmp_path):
    text = "image,label,s\nx.tif,a,train\ny.tif,b,val\nx.tif,a,test\n"
    with pytest.raises(ConfigError, match=r"1 samples are in train and test \(x\.tif\)"):
        open_samples(labelled(table(tmp_path, text, split="s"), "classification"))


def test_paths_may_lie_outside_the_table_s_folder(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    image = np.full((4, 2, 2), 3, dtype=np.float32)
    far = write_tif(outside / "far.tif", image)
    write_tif(inside / "near.tif", image)
    text = f"image,label\n{far},a\n{inside / 'near.tif'},b\n../out/far2.tif,a\n"
    samples = open_samples(labelled(table(inside, text), "classification"))
    assert samples.keys == [str(far), "near.tif", "../out/far2.tif"]
    assert (samples.read(0, ["S2"])["S2"] == 3).all()


def test_a_mask_with_a_strange_value_is_told(tmp_path):
    write_tif(tmp_path / "m.tif", np.full((1, 2, 2), 7, dtype=np.uint8))
    data = table(tmp_path, "image,label\n,m.tif\n", classes=("a", "b"))
    with pytest.raises(
        SampleError, match=re.escape("has the values [7]; the task's classes are 0 .. 1")
    ):
        open_samples(labelled(data, "segmentation")).read(0, ["label"])


def test_a_file_that_is_no_image_or_has_other_bands_is_told(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.tif").write_bytes(b"no tiff at all")
    write_tif(tmp_path / "b" / "y.tif", np.ones((3, 4, 4), dtype=np.float32))
    samples = open_samples(folders(tmp_path))
    with pytest.raises(SampleError, match="not readable as GeoTIFF"):
        samples.read(0, ["image"])
    with pytest.raises(SampleError, match="has 3 bands; image has 2: a, b"):
        samples.read(1, ["image"])


def test_an_unknown_modality_needs_the_names_of_its_bands(tmp_path):
    (tmp_path / "a").mkdir()
    write_tif(tmp_path / "a" / "x.tif", np.ones((2, 4, 4), dtype=np.float32))
    with pytest.raises(ConfigError, match=r"write image.bands=\[...\]"):
        open_samples(folders(tmp_path, bands=()))
    with pytest.raises(SourceError, match="no such folder"):
        open_samples(folders(tmp_path / "nowhere"))


def test_real_eurosat_tiles():
    image = ImageFile(modality="S2L1C", bands=EUROSAT_BANDS)
    config = TaskConfig(
        type="classification", data=ClassFolders(path=real_samples("eurosat_small"), image=image)
    )
    samples = open_samples(config)
    assert samples.rows["label"].bands == ("AnnualCrop", "Forest")
    assert len(samples.keys) == 6
    part = samples.read(0, ["S2L1C"])["S2L1C"]
    assert part.shape == (13, 64, 64)
    # Vegetation in the near infrared, and the cirrus band as dark as it is.
    forest = samples.read(5, ["S2L1C"])["S2L1C"].mean((1, 2))
    by_name = dict(zip(EUROSAT_BANDS, forest, strict=True))
    assert by_name["B8A"] > 2 * by_name["B04"]
    assert by_name["B10"] < 0.1 * by_name["B04"]
