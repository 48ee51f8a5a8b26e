"""Training on real ranks under ZeRO-2: the same curve whatever happens on the way."""

import json
import os
import signal
import subprocess

import pytest

from pipeline.engine.checkpoint import verify
from tests.dist.ranks import Ranks, run_ranks
from tests.dist.runs import curve

pytestmark = pytest.mark.dist


@pytest.fixture(scope="session")
def undisturbed(tokens, tmp_path_factory, request):
    """The loss curve of a run that nothing happened to, at 2 ranks."""
    cache: dict[int, dict[int, float]] = {}

    def get(argv: list[str], world: int = 2) -> dict[int, float]:
        if world not in cache:
            folder = tmp_path_factory.mktemp(f"undisturbed-{world}")
            run_ranks([*argv, f"out={folder / 'run'}"], world, folder / "logs")
            cache[world] = curve(folder / "run")
        return cache[world]

    return get


def test_killed_and_started_again_it_ends_where_it_would_have(stage2_argv, undisturbed, tmp_path):
    argv, out = stage2_argv
    ranks = Ranks(argv, 2, tmp_path / "first")
    ranks.wait_for(out / "checkpoints" / "step-00000004" / "MANIFEST.json")
    ranks.kill()
    assert not (out / "DONE").exists()
    output = run_ranks(argv, 2, tmp_path / "second")
    assert "goes on from step" in output
    assert curve(out) == undisturbed(argv)
    again = run_ranks(argv, 2, tmp_path / "third")
    assert "already done" in again


def test_a_finished_run_that_goes_on_is_not_done_until_it_is(stage2_argv, undisturbed, tmp_path):
    """However it is stopped on the way: the configuration is the new one at once."""
    argv, out = stage2_argv
    run_ranks([*argv, "engine.num_steps=4"], 2, tmp_path / "first")
    assert (out / "DONE").exists()
    ranks = Ranks(argv, 2, tmp_path / "second")
    ranks.wait_for(out / "checkpoints" / "step-00000008" / "MANIFEST.json")
    ranks.kill()
    assert not (out / "DONE").exists()
    assert "goes on from step" in run_ranks(argv, 2, tmp_path / "third")
    assert json.loads((out / "DONE").read_text())["step"] == 12


def test_a_signal_to_one_rank_commits_on_all_and_asks_to_be_requeued(
    stage2_argv, undisturbed, tmp_path
):
    argv, out = stage2_argv
    ranks = Ranks(argv, 2, tmp_path / "first")
    ranks.wait_for(out / "checkpoints" / "step-00000004" / "MANIFEST.json")
    ranks.signal(signal.SIGUSR2, 1)
    assert ranks.wait() == [75, 75], ranks.output()
    run_ranks(argv, 2, tmp_path / "second")
    assert curve(out) == undisturbed(argv)


def test_a_damaged_commit_is_passed_over_loudly(stage2_argv, undisturbed, tmp_path):
    argv, out = stage2_argv
    ranks = Ranks(argv, 2, tmp_path / "first")
    ranks.wait_for(out / "checkpoints" / "step-00000008" / "MANIFEST.json")
    ranks.kill()
    newest = sorted((out / "checkpoints").glob("step-*"))[-1]
    victim = newest / "rank-0001.safetensors"
    victim.write_bytes(victim.read_bytes()[:-100])
    output = run_ranks(argv, 2, tmp_path / "second")
    assert f"{victim.name} has" in output
    assert "trying the commit before it" in output
    assert curve(out) == undisturbed(argv)


def test_without_any_whole_commit_it_refuses_and_says_what_to_do(stage2_argv, tmp_path):
    argv, out = stage2_argv
    run_ranks([*argv, "engine.num_steps=4"], 2, tmp_path / "first")
    (out / "DONE").unlink()
    for commit in (out / "checkpoints").glob("step-*"):
        (commit / "rank-0000.safetensors").unlink()
    ranks = Ranks(argv, 2, tmp_path / "second")
    assert ranks.wait() == [2, 2]
    assert "is missing" in ranks.output()
    assert "Restore the missing files" in ranks.output()
    assert list((out / "checkpoints").glob("step-*")), "nothing may be deleted"


def test_a_changed_model_is_not_resumed(stage2_argv, tmp_path):
    argv, out = stage2_argv
    run_ranks([*argv, "engine.num_steps=4"], 1, tmp_path / "first")
    ranks = Ranks([*argv, "masked.width=48"], 1, tmp_path / "second")
    assert ranks.wait() == [2]
    assert "masked.width was 32 and is 48" in ranks.output()
    assert (out / "checkpoints" / "step-00000004").is_dir()


def test_two_runs_in_one_folder_are_refused(stage2_argv, tmp_path):
    argv, out = stage2_argv
    first = Ranks([*argv, "engine.num_steps=5000"], 1, tmp_path / "first")
    try:
        first.wait_for(out / "metrics.jsonl")
        second = Ranks(argv, 1, tmp_path / "second")
        assert second.wait() == [2]
        assert "is in use by process" in second.output()
    finally:
        first.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk_costs_nothing_that_was_committed(stage2_argv, undisturbed, tmp_path):
    argv, out = stage2_argv
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(out)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    try:
        ranks = Ranks(argv, 2, tmp_path / "first")
        assert ranks.wait() == [2, 2], ranks.output()
        assert "could not be committed" in ranks.output()
        assert "free some space" in ranks.output()
        left = sorted((out / "checkpoints").iterdir())
        assert left
        assert [verify(folder).step for folder in left] == [0, 4]
        subprocess.run(["mount", "-o", "remount,size=64m", out], check=True)
        output = run_ranks(argv, 2, tmp_path / "second")
        assert f"goes on from step {int(left[-1].name[5:])}:" in output
        assert curve(out) == undisturbed(argv)
    finally:
        subprocess.run(["umount", out], check=True)
