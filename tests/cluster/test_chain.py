"""A whole experiment as a chain of Slurm jobs, each waiting for those it needs."""

import pytest

from tests.cluster.jobs import Shape
from tests.dist import test_chain as local

pytestmark = pytest.mark.cluster

experiment = local.experiment


@pytest.mark.parametrize("route", ["sbatch", "submitit"])
def test_one_command_submits_everything_and_the_second_only_what_is_missing(
    route, routes, experiment
):
    path, out = experiment
    folder = out.with_name(route)
    site = routes.site(route, Shape())
    jobs = routes.submitted(routes.launch("all", str(path), site, f"out={folder}"))
    assert list(jobs) == ["shards", "stage1", "tokenize", "stage2", "generate-from-S2L2A", "report"]
    before = ""
    for name, job in jobs.items():
        starts = 3 if name == "stage1" else 1
        assert job.wait(240) == ["COMPLETED"] * starts, job.explain()
        assert min(job.fields("StartTime")) >= before, "it did not wait for the one before it"
        before = max(job.fields("EndTime"))
    assert (folder / "generate" / "from-S2L2A" / "sheet.png").is_file()
    assert (folder / "report.html").is_file()
    curve = (folder / "stage2" / "metrics.jsonl").read_text()

    again = routes.launch("all", str(path), site, f"out={folder}")
    jobs = routes.submitted(again)
    assert set(jobs) == {"report"}
    assert again.count("skipped, committed before") == 7
    assert jobs["report"].wait() == ["COMPLETED"], jobs["report"].explain()
    assert (folder / "stage2" / "metrics.jsonl").read_text() == curve
