"""A comparison of models as a plan: names, folders, who waits for whom, arrays, what all arms share."""

from pathlib import Path

import pytest

from configs import ConfigError, load_config
from configs.registry import modality
from configs.schema import (
    EvaluateConfig,
    FusionRunConfig,
    MaskedRunConfig,
    MultiMAERunConfig,
    ShardLabels,
    Stage2Config,
    TransferConfig,
)
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


TRANSFER = "configs/experiments/transfer.yaml"


def test_every_run_is_judged_on_labels_and_some_from_fresh_weights_too() -> None:
    steps = {s.name: s for s in plan_steps(What.all, TRANSFER, ["out=runs/elsewhere"])}
    assert not any(name.startswith("evaluate/") for name in steps)
    arms = ("multimae", "multimae-scratch", "stage2", "stage2-scratch", "fusion")
    judged = {n: s for n, s in steps.items() if n.startswith("transfer/")}
    assert set(judged) == {f"transfer/{arm}/seed-{s}" for arm in arms for s in range(3)}
    for name, step in judged.items():
        _, arm, seed = name.split("/")
        assert isinstance(step.config, TransferConfig)
        own, _, scratch = arm.partition("-")
        run = Path("runs/elsewhere/models") / own / seed
        assert step.config.backbone == str(run)
        assert step.out == run / ("transfer-scratch" if scratch else "transfer")
        assert step.config.init == ("random" if scratch else "pretrained")
        assert step.config.seeds == (int(seed[-1]),)
        assert step.tolerant
        for task in step.config.tasks.values():
            assert isinstance(task.data, ShardLabels)
            assert str(task.data.shards) == "runs/elsewhere/shards"
    assert steps["report"].after == tuple(judged)
    assert isinstance(steps["models/multimae/seed-0"].config, MultiMAERunConfig)
    assert steps["models/multimae/seed-0"].config.engine.num_steps == 1200


def test_a_comparison_that_judges_nothing_or_scratches_no_arm_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing would be compared"):
        plan_steps(What.all, TRANSFER, ["transfer=null"])
    with pytest.raises(ConfigError, match="scratch names other, which is no arm"):
        plan_steps(What.all, TRANSFER, ["scratch=[other]"])
    with pytest.raises(ConfigError, match=r"configs/stage1/small\.yaml is a stage1 configuration"):
        plan_steps(What.all, TRANSFER, ["arms.fusion.config=configs/stage1/small.yaml"])


def test_labels_are_in_no_backbone_of_the_comparison() -> None:
    """What a model was trained to predict is no fair label."""
    for step in plan_steps(What.all, TRANSFER):
        if isinstance(step.config, MultiMAERunConfig):
            known = {g.modality for g in step.config.multimae.groups.values()}
        elif isinstance(step.config, MaskedRunConfig):
            masked = step.config.masked
            known = {*masked.pixels, *masked.tokens, *masked.targets}
        else:
            continue
        assert not known & {"LULC", "CHM"}, step.name
