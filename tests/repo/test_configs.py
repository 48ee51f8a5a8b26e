from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from configs import (
    ConfigError,
    config_path,
    load_config,
    modality_registry,
    parse_config,
    statistics_set,
    to_yaml,
)
from configs.load import ROOT
from configs.registry import in_registry_order, modality
from configs.schema import KINDS, Stage2Config

RUNNABLE = sorted(
    str(Path("configs") / path.relative_to(ROOT))
    for path in ROOT.rglob("*.yaml")
    if path.parent.name not in ("modalities", "statistics")
)
# What a file leaves open on purpose, for the user to say.
OPEN = {
    "configs/shards/geotiff.yaml": ["source.path=somewhere"],
    "configs/shards/terramesh.yaml": ["source.path=somewhere"],
    "configs/shards/ssl4eo.yaml": ["source.path=somewhere"],
    "configs/shards/mmearth.yaml": ["source.path=somewhere"],
    "configs/shards/geobench.yaml": ["source.path=somewhere"],
    "configs/shards/webdataset.yaml": [
        "source.urls=[somewhere/*.tar]",
        "source.members={s2.npy: S2L2A, json: meta}",
    ],
    "configs/shards/geotiff_list.yaml": [
        "source.table=somewhere.csv",
        "source.columns={s2_path: S2L2A}",
    ],
}


def load_stage2(path: str | Path, *overrides: str) -> Stage2Config:
    config = load_config(path, overrides)
    assert isinstance(config, Stage2Config)
    return config


@pytest.mark.parametrize("path", RUNNABLE)
def test_every_file_loads_and_reads_back_from_its_own_text(path: str) -> None:
    config = load_config(path, OPEN.get(path, []))
    assert parse_config(yaml.safe_load(to_yaml(config))) == config


def test_there_is_a_file_of_every_kind() -> None:
    kinds = {getattr(load_config(path, OPEN.get(path, [])), "kind", None) for path in RUNNABLE}
    assert kinds == set(KINDS)


def test_every_modality_and_every_statistics_set_loads() -> None:
    table = modality_registry()
    assert set(table) == {path.stem for path in (ROOT / "modalities").glob("*.yaml")}
    for path in (ROOT / "statistics").glob("*.yaml"):
        assert set(statistics_set(path.stem)) <= set(table)
    for entry in table.values():
        if entry.statistics is not None and entry.kind == "image":
            assert entry.name in statistics_set(entry.statistics), entry.name


def test_the_registry_has_one_fixed_order() -> None:
    table = modality_registry()
    orders = [entry.order for entry in table.values()]
    assert orders == sorted(set(orders))
    shuffled = set(table)
    assert in_registry_order(shuffled) == tuple(table)
    assert in_registry_order(["DEM", "S2L2A"]) == in_registry_order(["S2L2A", "DEM"])


def test_class_maps_say_what_each_value_is() -> None:
    for entry in modality_registry().values():
        if entry.kind == "classes":
            values = [c.value for c in entry.classes]
            assert len(set(values)) == len(values)
            assert entry.num_classes > max(values)
            assert entry.dtype == "uint8"


def test_nodata_lies_within_the_type_and_patches_are_whole() -> None:
    for entry in modality_registry().values():
        if entry.is_map:
            assert entry.patch_px is not None
            assert entry.patch_px >= 1
        if entry.valid_range is not None:
            low, high = entry.valid_range
            assert low < high


def test_an_unknown_modality_names_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"unknown modality 'S3'.*S2L2A"):
        modality("S3")


def test_a_base_is_inherited_key_by_key_and_lists_are_replaced(tmp_path: Path) -> None:
    small = config_path("configs/stage2/small.yaml").resolve()
    (tmp_path / "child.yaml").write_text(
        f"base: {small}\nout: elsewhere\nengine: {{num_steps: 7}}\nmasked: {{targets: [DEM]}}\n"
    )
    (tmp_path / "grandchild.yaml").write_text("base: [child.yaml]\nengine: {seed: 3}\n")
    parent, child = load_stage2(small), load_stage2(tmp_path / "grandchild.yaml")
    assert child.out == Path("elsewhere")
    assert (child.engine.num_steps, child.engine.seed) == (7, 3)
    assert child.engine.global_batch == parent.engine.global_batch
    assert child.masked.targets == ("DEM",)
    assert child.masked.tokens == parent.masked.tokens


def test_bases_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(ConfigError, match=r"circle: a.yaml -> b.yaml -> a.yaml"):
        load_config(tmp_path / "a.yaml")


def test_a_missing_base_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: none.yaml\n")
    with pytest.raises(ConfigError, match=r"`base: none.yaml` does not exist"):
        load_config(tmp_path / "a.yaml")


def test_overrides_win_and_numbers_are_numbers() -> None:
    path = "configs/stage2/small.yaml"
    config = load_stage2(path, "engine.optimizer.lr=1e-4", "masked.targets=[DEM,LULC]", "out=a/b")
    assert config.engine.optimizer.lr == 1e-4
    assert config.masked.targets == ("DEM", "LULC")
    assert config.out == Path("a/b")


@given(st.floats(min_value=1e-12, max_value=1e3))
def test_any_way_python_writes_a_float_is_read_as_that_number(value: float) -> None:
    config = load_stage2("configs/stage2/small.yaml", f"engine.optimizer.lr={value!r}")
    assert config.engine.optimizer.lr == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.num_step=3", "unknown key 'engine.num_step': did you mean 'num_steps'"),
        ("enginee.num_steps=3", "did you mean 'engine'"),
        ("engine.num_steps=many", "'engine.num_steps': .*integer.*got 'many'"),
        ("engine.num_steps=0", "greater than 0"),
        ("engine.zero_stage=7", "engine.zero_stage"),
        ("num_steps", "is not an override; write key=value"),
        ("--num-steps=3", "is not an override"),
        ("masked.targets=[]", "nothing would be learned"),
    ],
)
def test_a_wrong_override_says_what_to_write(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("configs/stage2/small.yaml", [override])


def test_what_a_file_leaves_open_must_be_said() -> None:
    with pytest.raises(ConfigError, match=r"'source.path' has no value; write source.path=VALUE"):
        load_config("configs/shards/geotiff.yaml")


def test_a_wrong_key_in_a_source_names_the_keys_of_sources() -> None:
    with pytest.raises(ConfigError, match=r"'source.tile_pxx': did you mean 'tile_px'"):
        load_config("configs/shards/synthetic.yaml", ["source.tile_pxx=3"])


def test_a_file_that_is_not_there_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean configs/shards/synthetic.yaml"):
        load_config("configs/shards/syntetic.yaml")


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="its kind is shards, and stage2"):
        load_config("configs/shards/synthetic.yaml", kind="stage2")


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "kind: nothing"])
def test_a_file_that_is_no_configuration_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        load_config(tmp_path / "x.yaml")


def test_a_configuration_cannot_be_changed() -> None:
    config = load_stage2("configs/stage2/small.yaml")
    with pytest.raises(ValidationError, match="frozen"):
        config.engine.num_steps = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_packaged_files_are_found_from_any_folder(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_stage2("configs/stage2/small.yaml").engine.num_steps == 1800


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["executor=local", "nodes=2"], "runs on one node"),
        (["executor=local", "setup=[module load x]"], "in a Slurm job only"),
        (["executor=slurm", "gpus_per_node=auto"], "give a number"),
        (["executor=slurm", "shard_ranks=5", "shard_nodes=2"], "multiple of shard_nodes"),
    ],
)
def test_a_cluster_that_contradicts_itself_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"kind": "cluster", "executor": "local"}, overrides)
