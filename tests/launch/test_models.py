"""A comparison of models as a plan: names, folders, who waits for whom, arrays, what all arms share."""

from pathlib import Path

import pytest

from configs import ConfigError, load_config
from configs.registry import modality
from configs.schema import EvaluateConfig, FusionRunConfig, MaskedRunConfig, Stage2Config
from launch.executors import prepare
from launch.jobs import grouped
from launch.plan import plan_steps
from launch.runs import find_runs
from launch.step import Step, What

FILE = "configs/experiments/fusion.yaml"
ARMS = ("masked", "fusion-concat", "fusion-mean", "fusion-gated", "early", "single")
MODALITIES = ("S2L2A", "S1GRD", "DEM", "LULC", "NDVI")


def planned(*overrides: str) -> dict[str, Step]:
    return {step.name: step for step in plan_steps(What.all, FILE, overrides)}


def test_every_arm_trains_with_every_seed_and_each_run_is_evaluated() -> None:
    steps = planned("out=runs/elsewhere")
    runs = [f"models/{arm}/seed-{s}" for arm in ARMS for s in range(3)]
    assert list(steps) == [
        "shards", *(f"stage1/{m}" for m in MODALITIES), "tokenize", *runs,
        *(name.replace("models", "evaluate") for name in runs), "report",
    ]  # fmt: skip
    for name in runs:
        run, judged = steps[name], steps[name.replace("models", "evaluate")]
        assert run.out == Path("runs/elsewhere") / name
        assert run.markers == (run.out / "DONE",)
        assert run.after == ("tokenize",)
        assert isinstance(run.config, MaskedRunConfig)
        assert run.config.engine.seed == int(name[-1])
        assert str(run.config.data.shards) == "runs/elsewhere/shards"
        assert load_config(run.args[2], run.args[3:]) == run.config
        assert isinstance(judged.config, EvaluateConfig)
        assert judged.config.run == run.out
        assert judged.markers == (run.out / "evaluation" / "scores.json",)
        assert judged.after == tuple(runs)
        assert judged.tolerant
    assert steps["report"].tolerant
    assert steps["report"].after == tuple(name.replace("models", "evaluate") for name in runs)


def test_arms_differ_in_nothing_but_what_they_are() -> None:
    kept = set()
    for name, step in planned().items():
        if not name.startswith("models/"):
            continue
        config = step.config
        assert isinstance(config, MaskedRunConfig)
        arm = name.split("/")[1]
        assert isinstance(config, FusionRunConfig if arm.startswith("fusion") else Stage2Config)
        if isinstance(config, FusionRunConfig):
            assert f"fusion-{config.fusion.combine}" == arm
        masked = config.masked
        given = {*masked.pixels, *masked.tokens}
        assert given == ({"S2L2A"} if arm == "single" else {*masked.targets} - {"LULC"})
        # Pixels of all images, and tokens of what no tokenizer was trained for.
        images = {n for n in given if modality(n).kind == "image"} if arm == "early" else set()
        assert {*masked.pixels} == images
        assert not images & {*masked.tokens}
        masked = masked.model_copy(update={"pixels": (), "tokens": (), "patch_px": {}})
        engine = config.engine.model_copy(update={"seed": 0})
        kept.add((masked.model_dump_json(), engine.model_dump_json(), config.data))
    assert len(kept) == 1


def test_all_models_are_one_array_and_their_evaluations_another() -> None:
    groups = list(grouped(plan_steps(What.all, FILE)))
    assert [len(group) for group in groups] == [1, 5, 1, 18, 18, 1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=[1,1]", "each once"),
        ("arms={a/b: {config: configs/stage2/small.yaml}}", "becomes the name of a folder"),
        ("arms.x={config: configs/stage1/small.yaml}", r"arms\.x: .* is a stage1 configuration"),
        ("arms.masked.overrides=[masked.widht=8]", "masked/seed-0: .*did you mean 'width'"),
        ("arms.masked.overrides=[engine.seed=3]", "cannot be overridden"),
        ("arms.masked.overrides=['masked.targets=[CHM]']", "name CHM, which no step tokenizes"),
        ("evaluate.overrides=[run=x]", "cannot be overridden"),
    ],
)
def test_what_is_wrong_is_found_while_planning(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(override)


def test_status_shows_runs_that_have_not_started(tmp_path: Path) -> None:
    steps = planned(f"out={tmp_path}", "seeds=[3]")
    prepare(steps["report"])
    found = {run.path: (run.kind, run.state) for run in find_runs(tmp_path)}
    assert found == {f"models/{arm}/seed-3": ("model", "pending") for arm in ARMS}
