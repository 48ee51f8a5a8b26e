"""What a site needs, and code and configurations as they were: in the scripts of both Slurm routes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from configs import load_config
from configs.schema import ClusterConfig
from configs.schema.cluster import ContainerConfig
from launch.plan import plan_steps
from launch.slurm import describe, submit
from launch.step import What
from tests.launch.fake_slurm import Ended, FakeSlurm, directives, slurm
from tests.launch.stubs import stub_step

__all__ = ["slurm"]

ROUTES = ("slurm", "sbatch")
SMALL = ["source.num_samples=4", "samples_per_shard=4", "source.tile_px=24"]


def make_cluster(executor: str, folder: Path, **values: object) -> ClusterConfig:
    values = {"ranks_per_node": 2, "log_dir": folder / "logs"} | values
    return ClusterConfig.model_validate({"kind": "cluster", "executor": executor} | values)


def test_both_routes_ask_slurm_for_the_same(tmp_path: Path, capsys) -> None:
    site = {
        "nodes": 4,
        "gpus_per_node": 4,
        "cpus_per_rank": 8,
        "time_min": 90,
        "partition": "gpu",
        "account": "earth",
        "qos": "high",
        "constraint": "h100&nvlink",
        "memory_gb": 64,
        "array_parallelism": 3,
        "slurm_extra": {"exclusive": True, "mail-type": "FAIL", "hold": False},
    }
    found = []
    for executor in ROUTES:
        steps = plan_steps(What.all, "configs/experiments/demo.yaml", [f"out={tmp_path}/run"])
        describe(steps, make_cluster(executor, tmp_path, **site))
        found.append([directives(s) for s in capsys.readouterr().out.split("#!/bin/bash")[1:]])
    ignored = {"output": "", "wckey": ""}
    through_submitit, plain = ([job | ignored for job in jobs] for jobs in found)
    assert through_submitit == plain
    shards, stage1, *_ = plain
    assert stage1["array"] == "0-8%3"
    assert stage1["constraint"] == "h100&nvlink"
    assert "exclusive" in stage1
    assert "hold" not in stage1
    assert "gpus-per-node" not in shards
    generate = plain[4]
    assert generate["job-name"] == "generate"
    assert generate["dependency"] == "afterok:JOBID_stage2"
    assert generate["gpus-per-node"] == "1"


@pytest.mark.parametrize("executor", ROUTES)
def test_modules_come_before_setup_before_the_environment(
    slurm: FakeSlurm, executor: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("BASH_FUNC_module%%", '() { echo "module $*"; LOADED=yes; }')
    site = make_cluster(
        executor,
        tmp_path,
        modules=["cuda/12.4", "openmpi"],
        setup=['echo "$LOADED $UNSET"', "export GREETING=hello"],
        env={"WHO": "the 'ranks'"},
    )
    body = "(FOLDER / 'said').write_text(os.environ['GREETING'] + ' ' + os.environ['WHO'])"
    assert submit((stub_step(tmp_path, monkeypatch, body),), site) == 0
    ended = slurm.run(100)
    assert ended.code == 0, ended.log
    assert ended.log.startswith("module load cuda/12.4 openmpi\nyes \n")
    assert (tmp_path / "said").read_text() == "hello the 'ranks'"


@pytest.mark.parametrize("executor", ROUTES)
def test_a_failing_setup_starts_no_rank(slurm, executor, tmp_path, monkeypatch) -> None:
    site = make_cluster(executor, tmp_path, setup=["false"])
    step = stub_step(tmp_path, monkeypatch, "(FOLDER / 'ran').touch()")
    assert submit((step,), site) == 0
    assert slurm.run(100).code == 1
    assert not (tmp_path / "ran").exists()


APPTAINER = """#!/bin/bash
echo "$*" >>"$FAKE_SLURM/apptainer"
while [[ $1 != *.sif ]]; do shift; done
shift
exec "$@"
"""


@pytest.mark.parametrize("executor", ROUTES)
def test_ranks_run_inside_apptainer(slurm, executor, tmp_path, monkeypatch) -> None:
    slurm.add("apptainer", APPTAINER)
    slurm.add("python-inside", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    container = {"image": "/images/eo.sif", "mounts": ["/data:/data:ro"], "python": "python-inside"}
    site = make_cluster(executor, tmp_path, gpus_per_node=2, container=container)
    step = stub_step(tmp_path, monkeypatch, "(FOLDER / os.environ['RANK']).touch()")
    assert submit((step,), site) == 0
    ended = slurm.run(100)
    assert ended.code == 0, ended.log
    calls = (slurm.folder / "apptainer").read_text().splitlines()
    assert len(calls) == 2
    cwd = Path.cwd()
    start = f"exec --nv --bind {cwd} --bind {site.log_dir} --bind /data:/data:ro --pwd {cwd}"
    assert calls[0].startswith(f"{start} /images/eo.sif python-inside -")
    assert (tmp_path / "1").exists()


@pytest.mark.parametrize("executor", ROUTES)
def test_ranks_run_inside_a_container_of_pyxis(slurm, executor, tmp_path, monkeypatch) -> None:
    slurm.add("python3", f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    container = {"image": "nvcr.io#nvidia/pytorch:25.01-py3", "runtime": "pyxis", "mounts": ["/x"]}
    site = make_cluster(executor, tmp_path, container=container)
    step = stub_step(tmp_path, monkeypatch, "return 0")
    assert submit((step,), site) == 0
    ended = slurm.run(100)
    assert ended.code == 0, ended.log
    cwd = Path.cwd()
    mounts = f"{cwd}:{cwd},{site.log_dir}:{site.log_dir},/x:/x"
    assert "--container-image=nvcr.io#nvidia/pytorch:25.01-py3" in slurm.srun
    assert f"--container-mounts={mounts} --container-workdir={cwd}" in slurm.srun
    assert " python3 -" in slurm.srun


@pytest.mark.parametrize("mount", ["data:/data", "/a:b", "/a:/b:ro:x"])
def test_a_mount_that_is_none_is_refused(mount: str) -> None:
    with pytest.raises(ValueError, match="is not a mount; write /SOURCE"):
        ContainerConfig(image="x.sif", mounts=(mount,))


def a_checkout(folder: Path, root: Path) -> Path:
    """A small git checkout with the project's code, to be edited."""
    for name in ("configs", "shards", "pipeline", "launch", "slurm"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    return folder


def submit_shards(checkout: Path, executor: str, *more: str) -> None:
    (checkout / "site.yaml").write_text(f"kind: cluster\nexecutor: {executor}\nmpi: none\n")
    command = [sys.executable, "-m", "launch.submit", "shards", "--cluster", "site.yaml", *more]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def run_shards(slurm: FakeSlurm, checkout: Path) -> tuple[Ended, str]:
    """How the job ended, and what its script and its ranks printed."""
    ended = slurm.run(100)
    logs = "".join(path.read_text() for path in checkout.rglob("*_log.out"))
    return ended, ended.log + logs


@pytest.mark.parametrize("executor", ROUTES)
def test_a_queued_job_runs_code_and_configuration_as_they_were(
    slurm: FakeSlurm, executor: str, tmp_path: Path, root: Path
) -> None:
    checkout = a_checkout(tmp_path / "checkout", root)
    (checkout / "mine.yaml").write_text("base: configs/shards/synthetic.yaml\nout: made/here\n")
    main = checkout / "shards" / "__main__.py"
    main.write_text(main.read_text().replace("import sys", "import sys\n\nprint('as it was')", 1))
    submit_shards(checkout, executor, "--config", "mine.yaml", *SMALL)
    for package in ("shards", "launch", "configs", "pipeline"):
        (checkout / package / "__init__.py").write_text("raise SystemExit('edited')\n")
    (checkout / "slurm" / "common.sh").write_text("echo edited; exit 1\n")
    (checkout / "mine.yaml").write_text("kind: nothing\n")

    ended, log = run_shards(slurm, checkout)
    assert ended.code == 0, log
    assert "as it was\n" in log
    # Relative to where it was submitted.
    assert (checkout / "made/here/manifest.json").is_file()
    revision = subprocess.run(
        ["git", "-C", str(checkout), "describe", "--always"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    snapshot = rf"code ({checkout}/runs/slurm/code/(\w{{16}})): {revision}\+changes code \2\n"
    assert re.search(snapshot, log), log


@pytest.mark.parametrize("executor", ROUTES)
def test_a_finished_step_of_an_experiment_is_recorded_by_its_job(
    slurm: FakeSlurm, executor: str, tmp_path: Path
) -> None:
    overrides = [f"out={tmp_path}/run", f"shards.overrides=[{','.join(SMALL)}]"]
    shards, *_ = plan_steps(What.all, "configs/experiments/demo.yaml", overrides)
    assert submit((shards,), make_cluster(executor, tmp_path, mpi="none")) == 0
    assert not shards.is_done()
    ended = slurm.run(100)
    assert ended.code == 0, ended.log
    assert shards.is_done()


@pytest.mark.parametrize("executor", ROUTES)
def test_mpi_ranks_are_started_by_the_plugin_of_the_site(
    slurm: FakeSlurm, executor: str, tmp_path: Path, monkeypatch
) -> None:
    step = stub_step(tmp_path, monkeypatch, "(FOLDER / os.environ['RANK']).touch()", launch="mpi")
    site = make_cluster(executor, tmp_path, mpi="pmi2", shard_ranks=3)
    assert submit((step,), site) == 0
    ended = slurm.run(100)
    assert ended.code == 0, ended.log
    assert "--mpi=pmi2" in slurm.srun
    assert all((tmp_path / str(rank)).exists() for rank in range(3))


@pytest.mark.parametrize("name", ["slurm", "sbatch"])
def test_what_an_example_only_suggests_is_valid_too(name: str, tmp_path: Path, root: Path) -> None:
    text = (root / "configs" / "clusters" / f"{name}.yaml").read_text()
    suggested = re.sub(r"^# (?=[a-z_]+:|  )", "", text, flags=re.MULTILINE)
    (tmp_path / "site.yaml").write_text(suggested)
    site = load_config(tmp_path / "site.yaml", kind="cluster")
    assert isinstance(site, ClusterConfig)
    assert site.modules
    assert site.account
    assert (site.container is not None) == (name == "sbatch")
