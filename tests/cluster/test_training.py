"""Training as Slurm jobs over two nodes: what is learned does not depend on what happens to the job."""

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.engine.checkpoint import committed, verify
from tests.cluster.jobs import Shape
from tests.cluster.network import NAME, NODES
from tests.dist.test_training import curve

pytestmark = pytest.mark.cluster

ROUTES = ("by hand", "sbatch", "submitit")
ALL = pytest.mark.parametrize("route", ROUTES)
# What `launch` writes for sbatch ends through the same lines as what is submitted by hand.
BOTH = pytest.mark.parametrize("route", ["by hand", "submitit"])


def first_commit(out):
    return out / "checkpoints" / "step-00000010" / "MANIFEST.json"


def world_size(out) -> int:
    return json.loads((out / "run.json").read_text())["world_size"]


@ALL
def test_two_nodes_learn_what_two_local_ranks_learn(route, routes, run, undisturbed):
    argv, out = run
    job = routes.submit(route, argv)
    assert job.wait() == ["COMPLETED"], job.explain()
    (attempt,) = job.attempts()
    assert attempt.exit_code == "0:0"
    assert attempt.nodes == f"{NAME}n[1-2]"
    assert world_size(out) == 2
    assert curve(out) == undisturbed(argv)


@ALL
def test_a_preempted_job_commits_is_requeued_and_ends_as_if_undisturbed(
    route, routes, run, undisturbed
):
    argv, out = run
    job = routes.submit(route, argv)
    job.wait_for_file(first_commit(out))
    with job.frozen():
        job.cancel("--signal=USR2")
        job.wait_for(lambda: job.signalled(signal.SIGUSR2), "USR2 at every rank")
    assert job.wait() == ["REQUEUED", "COMPLETED"], job.explain()
    assert "SIGUSR2: committed step" in job.log()
    assert "goes on from step" in job.log()
    assert curve(out) == undisturbed(argv)


@BOTH
def test_a_signal_while_the_ranks_start_is_no_crash(route, routes, run, undisturbed):
    argv, out = run
    job = routes.submit(route, argv)
    job.wait_for(lambda: len(job.ranks()) == 2, "both ranks")
    job.cancel("--signal=USR2")
    assert job.wait()[-1] == "COMPLETED", job.explain()
    assert curve(out) == undisturbed(argv)


def test_jobs_that_need_longer_than_their_limit_are_requeued(routes, run, undisturbed):
    """Slurm looks at limits every half minute, and sends the signal up to a minute early.

    All routes at the same time, as there is nothing to do but to wait; a thread watches each,
    so that none gets past the middle of its run while another still starts.
    """
    argv, out = run
    outs = {route: out.with_name(route.replace(" ", "-")) for route in ROUTES}
    limit = Shape(time_min=1, signal_lead_s=10)
    jobs = {r: routes.submit(r, [*argv, f"out={outs[r]}"], limit) for r in outs}

    def hold_until_the_limit(route: str) -> None:
        job = jobs[route]
        job.wait_for_file(first_commit(outs[route]))
        with job.frozen():
            job.wait_for(lambda: job.signalled(signal.SIGUSR2), "USR2 before the limit", 100)

    with ThreadPoolExecutor(len(ROUTES)) as watchers:
        list(watchers.map(hold_until_the_limit, ROUTES))
    for route, job in jobs.items():
        # On a slow machine a minute may not do for the rest either.
        *requeued, last = job.wait()
        assert set(requeued) == {"REQUEUED"}, job.explain()
        assert last == "COMPLETED", job.explain()
        assert curve(outs[route]) == undisturbed(argv)


def test_after_a_node_fails_the_job_goes_on_with_half_the_ranks(cluster, routes, run, undisturbed):
    """Slurm requeues it for two nodes; who cannot wait for the second one makes the job smaller."""
    argv, out = run
    job = routes.submit("by hand", argv, Shape(ranks_per_node=2))
    job.wait_for_file(first_commit(out))
    assert world_size(out) == 4
    with job.frozen():
        cluster.fail(NODES[1])
    job.wait_for(lambda: job.fields("JobState") == ["PENDING"], "being requeued")
    assert job.states()[0] == "NODE_FAIL"
    job.update("NumNodes=1", "NumTasks=2")
    assert job.wait() == ["NODE_FAIL", "COMPLETED"], job.explain()
    assert job.attempts()[-1].nodes == NODES[0]
    assert world_size(out) == 2, job.explain()
    assert curve(out) == pytest.approx(undisturbed(argv), rel=1e-5)
    cluster.revive(NODES[1])
    assert cluster.node_state(NODES[1]) == "IDLE"


@ALL
def test_a_crash_after_a_commit_is_started_again(route, routes, run, undisturbed):
    argv, out = run
    job = routes.submit(route, argv)
    job.wait_for_file(first_commit(out))
    with job.frozen() as ranks:
        os.kill(ranks[1], signal.SIGKILL)
    assert job.wait() == ["REQUEUED", "COMPLETED"], job.explain()
    assert curve(out) == undisturbed(argv)


@BOTH
def test_a_crash_before_any_commit_is_not_started_again(route, routes, run):
    argv, out = run
    job = routes.submit(route, [*argv, "engine.checkpoint.every_steps=100"])
    job.wait_for_file(out / "metrics.jsonl")
    with job.frozen() as ranks:
        os.kill(ranks[1], signal.SIGKILL)
    assert job.wait() == ["FAILED"], job.explain()
    assert not committed(out / "checkpoints")


@BOTH
def test_a_cancelled_job_stays_cancelled_and_has_committed(route, routes, run):
    argv, out = run
    job = routes.submit(route, argv)
    job.wait_for_file(first_commit(out))
    with job.frozen():
        job.cancel()
        job.wait_for(lambda: job.signalled(signal.SIGTERM), "TERM at every rank")
    assert job.wait() == ["CANCELLED"], job.explain()
    newest = committed(out / "checkpoints")[0]
    assert verify(newest).step % 10, "the commit is the one of the signal"
    assert not (out / "DONE").exists()
