"""A comparison of tokenizers as a plan: names, folders, who waits for whom, one array, failures."""

from dataclasses import replace
from pathlib import Path

import pytest

from configs import ConfigError, load_config, to_yaml
from configs.schema import ClusterConfig, Stage1Config
from launch.executors import prepare, run_here
from launch.jobs import grouped
from launch.plan import plan_steps
from launch.runs import find_runs
from launch.step import Step, What
from tests.launch.stubs import stub_step

FILE = "configs/experiments/tokenizers.yaml"
ARMS = [f"{q}-{d}" for q in ("fsq", "vq") for d in ("vit", "gan", "diffusion")]


def test_every_arm_trains_on_every_modality_with_every_seed() -> None:
    shards, *runs, report = plan_steps(What.all, FILE, ["out=runs/elsewhere"])
    expected = [
        f"stage1/{m}/{a}/seed-{s}" for m in ("S2L2A", "DEM", "LULC") for a in ARMS for s in range(3)
    ]
    assert [shards.name, report.name] == ["shards", "report"]
    assert [step.name for step in runs] == expected
    for step in runs:
        assert step.out == Path("runs/elsewhere") / step.name
        assert step.markers == (step.out / "DONE",)
        assert step.after == ("shards",)
        assert isinstance(step.config, Stage1Config)
        modality, arm, seed = step.name.removeprefix("stage1/").split("/")
        tokenizer = step.config.tokenizer
        assert f"{tokenizer.quantizer}-{tokenizer.decoder}" == arm
        assert (step.config.modality, step.config.engine.seed) == (modality, int(seed[5:]))
        assert str(step.config.data.shards) == "runs/elsewhere/shards"
        assert load_config(step.args[2], step.args[3:]) == step.config
    assert report.after == tuple(expected)
    assert report.tolerant


def test_arms_have_the_same_budget() -> None:
    _, *runs, _ = plan_steps(What.all, FILE)
    kept = {}
    for step in runs:
        assert isinstance(step.config, Stage1Config)
        tokenizer = step.config.tokenizer
        engine = step.config.engine.model_copy(update={"seed": 0})
        budget = (engine, tokenizer.width, tokenizer.encoder_depth, tokenizer.patch_px)
        assert budget == kept.setdefault(step.config.modality, budget)
        assert tokenizer.vocab_size == 1000


def test_all_runs_are_one_array() -> None:
    groups = list(grouped(plan_steps(What.all, FILE)))
    assert [len(group) for group in groups] == [1, 54, 1]


def test_a_data_set_that_is_there_is_used_and_not_built() -> None:
    steps = plan_steps(What.all, FILE, ["shards=null", "data=some/shards", "seeds=[5]"])
    assert len(steps) == 19
    assert all(step.after == () for step in steps[:-1])
    assert isinstance(steps[0].config, Stage1Config)
    assert str(steps[0].config.data.shards) == "some/shards"
    assert [len(group) for group in grouped(steps)] == [18, 1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds=[1,1]", "each once"),
        ("seeds=[]", "at least one seed"),
        ("arms={a/b: []}", "becomes the name of a folder"),
        ("arms={..: []}", "becomes the name of a folder"),
        ("data=some/shards", "give `shards`, .*or `data`"),
        ("shards=null", "give `shards`, .*or `data`"),
        ("arms.fsq-vit=[tokenizer.quantiser=fsq]", "fsq-vit/seed-0: .*did you mean 'quantizer'"),
        ("arms.fsq-vit=[engine.seed=3]", "cannot be overridden"),
        ("modalities.S2=[]", "unknown modality 'S2'"),
    ],
)
def test_what_is_wrong_is_found_while_planning(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_steps(What.all, FILE, [override])


@pytest.mark.parametrize("key", ["arms", "modalities"])
def test_nothing_to_compare_is_an_error(key: str, tmp_path: Path) -> None:
    text = Path(FILE).read_text().split(f"{key}:")[0]
    rest = {"arms": "modalities: {DEM: []}", "modalities": "arms: {a: []}"}[key]
    (tmp_path / "x.yaml").write_text(f"{text.split('modalities:')[0]}\n{key}: {{}}\n{rest}\n")
    with pytest.raises(ConfigError, match=rf"'{key}': .*name at least one"):
        load_config(tmp_path / "x.yaml")


def test_all_of_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs an experiment or a comparison"):
        plan_steps(What.all, "configs/stage1/small.yaml")


def stubs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Step, ...]:
    """Two runs, of which the first fails, and what comes after them."""
    steps = []
    for name, body in (("a", "return 2"), ("b", ""), ("last", "")):
        (folder / name).mkdir()
        steps.append(stub_step(folder / name, monkeypatch, body, name=name, launch="single"))
    monkeypatch.setenv(
        "PYTHONPATH", ":".join(str(folder / n / "packages") for n in ("a", "b", "last"))
    )
    return (steps[0], steps[1], replace(steps[2], after=("a", "b")))


def test_a_run_that_fails_stops_no_other_and_the_report_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    *runs, last = stubs(tmp_path, monkeypatch)
    site = ClusterConfig(kind="cluster", executor="local", log_dir=tmp_path / "logs")
    assert run_here((*runs, replace(last, tolerant=True)), site) == 2
    out = capfd.readouterr().out
    assert "a     failed" in out
    assert "b     done" in out
    assert "last  done" in out


def test_what_is_not_tolerant_waits_for_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    site = ClusterConfig(kind="cluster", executor="local", log_dir=tmp_path / "logs")
    assert run_here(stubs(tmp_path, monkeypatch), site) == 2
    assert "last" not in capfd.readouterr().out


def test_status_shows_runs_that_have_not_started(tmp_path: Path) -> None:
    changes = [f"out={tmp_path}", "seeds=[3]", "modalities={DEM: []}"]
    _, *runs, report = plan_steps(What.all, FILE, changes)
    prepare(report)
    first = next(step for step in runs if step.name == "stage1/DEM/vq-gan/seed-3")
    first.out.mkdir(parents=True)
    (first.out / "config.yaml").write_text(to_yaml(first.config))
    (first.out / "DONE").touch()
    found = {run.path: (run.state, run.num_steps) for run in find_runs(tmp_path)}
    assert found.pop("stage1/DEM/vq-gan/seed-3") == ("done", 400)
    assert set(found) == {step.name for step in runs} - {first.name}
    assert set(found.values()) == {("pending", None)}


@pytest.mark.parametrize("text", ["kind: comparison", "kind: comparison\nseeds: 3", "[", "- 1"])
def test_a_damaged_plan_does_not_stop_the_status(tmp_path: Path, text: str) -> None:
    (tmp_path / "experiment.yaml").write_text(text)
    assert find_runs(tmp_path) == []
