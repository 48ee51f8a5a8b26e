import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs import ConfigError, load_config, parse_config, to_yaml
from configs.schema import Stage2Config
from launch.plan import plan_steps
from launch.step import Step, What, assign

DEMO = "configs/experiments/demo.yaml"


def by_name(steps: tuple[Step, ...]) -> dict[str, Step]:
    return {step.name: step for step in steps}


def test_an_experiment_becomes_the_whole_chain_in_order() -> None:
    steps = plan_steps(What.all, DEMO)
    names = [step.name for step in steps]
    stage1 = [name for name in names if name.startswith("stage1/")]
    assert names == [
        "shards",
        *stage1,
        "tokenize",
        "stage2",
        "generate/from-S2L2A",
        "generate/from-S1GRD",
        "report",
    ]
    assert stage1[0] == "stage1/S2L2A"
    for number, step in enumerate(steps):
        assert set(step.after) <= set(names[:number]), step.name


def test_stage1_steps_wait_for_the_shards_only_and_tokenize_for_all_of_them() -> None:
    steps = by_name(plan_steps(What.all, DEMO))
    stage1 = [name for name in steps if name.startswith("stage1/")]
    assert all(steps[name].after == ("shards",) for name in stage1)
    assert set(steps["tokenize"].after) == set(stage1)
    assert steps["stage2"].after == ("tokenize",)
    assert steps["generate/from-S1GRD"].after == ("stage2",)


def test_a_masked_autoencoder_is_trained_beside_the_chain_where_it_is_asked_for() -> None:
    changes = ["multimae.config=configs/multimae/small.yaml", "out=runs/both"]
    steps = by_name(plan_steps(What.all, DEMO, changes))
    assert steps["multimae"].after == ("shards",)
    assert steps["multimae"].out == Path("runs/both/multimae")
    assert "data.shards=runs/both/shards" in steps["multimae"].args
    assert set(steps["report"].after) == {"generate/from-S2L2A", "generate/from-S1GRD", "multimae"}
    (alone,) = plan_steps(What.multimae, "configs/multimae/small.yaml")
    assert alone.markers == (Path("runs/multimae-small/DONE"),)


def test_every_output_lies_below_the_experiment() -> None:
    out = Path("runs/elsewhere")
    steps = plan_steps(What.all, DEMO, [f"out={out}"])
    for step in steps:
        assert step.out.is_relative_to(out), step.name
        assert "runs/demo" not in " ".join(step.args), step.name
    named = by_name(steps)
    assert named["stage1/DEM"].markers == (out / "stage1/DEM/DONE",)
    assert f"tokenizers.DEM={out}/stage1/DEM" in named["tokenize"].args
    assert f"run={out}/stage2" in named["generate/from-S2L2A"].args
    assert named["report"].args == ("report", str(out))


def test_an_experiment_hands_its_changes_to_the_steps() -> None:
    steps = by_name(plan_steps(What.all, DEMO, ["stage2.overrides=[engine.num_steps=10]"]))
    config = steps["stage2"].config
    assert isinstance(config, Stage2Config)
    assert config.engine.num_steps == 10
    assert "engine.num_steps=10" in steps["stage2"].args
    assert "tokenizer.patch_px=2" in steps["stage1/Landsat"].args


def test_the_planned_command_loads_to_the_planned_configuration() -> None:
    for step in plan_steps(What.all, DEMO, ["out=runs/with space"]):
        if step.kind != "report":
            verb, option, path, *overrides = step.args
            assert option == "--config"
            assert verb in ("build", "train", "tokenize", "generate")
            assert load_config(path, overrides) == step.config


@pytest.mark.parametrize("what", [w for w in What if w is not What.all])
def test_a_single_step_takes_its_own_configuration(what: What) -> None:
    name = "synthetic" if what is What.shards else "small"
    (step,) = plan_steps(what, f"configs/{what}/{name}.yaml")
    assert step.after == ()
    assert step.config.model_dump()["kind"] == what.value


def test_an_error_in_any_step_is_found_while_planning() -> None:
    with pytest.raises(ConfigError, match=r"step stage2: .*did you mean 'num_steps'"):
        plan_steps(What.all, DEMO, ["stage2.overrides=[engine.num_step=10]"])
    with pytest.raises(ConfigError, match="unknown modality 'S2'"):
        plan_steps(What.all, DEMO, ["stage1.S2=[]"])
    with pytest.raises(ConfigError, match="its kind is stage2, and stage1 is needed"):
        plan_steps(What.stage1, "configs/stage2/small.yaml")


def test_what_the_experiment_decides_cannot_be_overridden_in_a_step() -> None:
    with pytest.raises(ConfigError, match=r"out=x.*cannot be overridden"):
        plan_steps(What.all, DEMO, ["stage2.overrides=[out=x]"])


def test_tokens_that_nobody_makes_are_found_while_planning() -> None:
    with pytest.raises(ConfigError, match="date, which no step tokenizes"):
        plan_steps(What.all, DEMO, ['tokenize.overrides=["modalities=[coordinates]"]'])


def test_token_folders_are_named_as_the_pipeline_names_them() -> None:
    from pipeline.stage1.tokenize import extra_name

    tokenize = by_name(plan_steps(What.all, DEMO))["tokenize"]
    assert Path(f"runs/demo/shards/extra/{extra_name('date')}/manifest.json") in tokenize.markers


@given(st.text(min_size=1).filter(lambda text: "${" not in text and "\x00" not in text))
def test_an_assigned_text_is_read_back_unchanged(text: str) -> None:
    values = {"kind": "generate", "out": "y", "data": {"shards": "z"}, "source": ["DEM"]}
    config = parse_config(
        values | {"target": ["DEM"]}, [assign("run", text), assign("source", (text, "NDVI"))]
    )
    assert config.model_dump()["source"] == (text, "NDVI")
    assert config.model_dump()["run"] == Path(text)


def test_a_step_is_done_when_it_is_committed_with_the_same_configuration(tmp_path: Path) -> None:
    (step,) = plan_steps(What.stage2, "configs/stage2/small.yaml", [f"out={tmp_path}"])
    assert not step.is_done()
    (tmp_path / "config.yaml").write_text(to_yaml(step.config))
    assert not step.is_done()
    (tmp_path / "DONE").touch()
    assert step.is_done()
    # What is not there any more did not change; other data did.
    shards = tmp_path / "shards"
    (step,) = plan_steps(
        What.stage2, "configs/stage2/small.yaml", [f"out={tmp_path}", f"data.shards={shards}"]
    )
    (tmp_path / "config.yaml").write_text(to_yaml(step.config))
    (tmp_path / "run.json").write_text(json.dumps({"dataset": {"fingerprint": "a"}}))
    assert step.is_done()
    shards.mkdir()
    for fingerprint, same in (("a", True), ("b", False)):
        (shards / "manifest.json").write_text(json.dumps({"fingerprint": fingerprint}))
        assert step.is_done() is same
    (longer,) = plan_steps(
        What.stage2, "configs/stage2/small.yaml", [f"out={tmp_path}", "engine.num_steps=9999"]
    )
    assert not longer.is_done()


def test_the_launcher_keeps_records_for_steps_that_keep_none(tmp_path: Path) -> None:
    (step,) = plan_steps(What.shards, "configs/shards/synthetic.yaml", [f"out={tmp_path}"])
    assert step.record is None
    step = replace(step, record=tmp_path / ".launch" / "shards.yaml")
    (tmp_path / "manifest.json").touch()
    assert not step.is_done()
    step.write_record()
    assert step.is_done()
