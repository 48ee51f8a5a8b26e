"""What the engine adds to a step, what a save costs, how fast a run leaves and comes back.

    python benchmarks/engine.py [--ranks 2] [--check] [--json FILE] [--precision bf16 --width 768 ...]

All on the ranks of this machine, one per GPU where there are some: stage 2's model on one made-up batch, so
that nothing but the loop is measured. Medians of interleaved rounds. With --check the exit status is 1 when
a bar is missed: the product's loop takes at most 3 % longer than the shortest DeepSpeed loop with the same
model, and a save in the background holds training up less than one that is waited for.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MAX_OVERHEAD = 1.03


def start(task: str, out: Path, a: argparse.Namespace) -> list[subprocess.Popen[bytes]]:
    """The ranks of one task."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks._engine_ranks", task, "--out", str(out)]
    for name in ("width", "depth", "batch", "steps", "rounds", "precision"):
        command += [f"--{name}", str(getattr(a, name))]
    shared = os.environ | {"WORLD_SIZE": str(a.ranks), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    shared.setdefault("OMP_NUM_THREADS", "1")
    ranks = []
    for rank in range(a.ranks):
        with (out / f"rank{rank}.log").open("wb") as log:
            env = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log))
    return ranks


def run(task: str, folder: Path, a: argparse.Namespace) -> dict[str, Any]:
    """What a task measured. Ends with the ranks' last words where one failed."""
    out = folder / task
    codes = [p.wait() for p in start(task, out, a)]
    if any(codes):
        sys.exit(f"{task}: exit codes {codes}\n{(out / 'rank0.log').read_text()[-3000:]}")
    return json.loads((out / f"{task}.json").read_text())


def leave_and_return(folder: Path, a: argparse.Namespace) -> dict[str, Any]:
    """From a signal to the last exit, and from the start of processes to the first step again."""
    out = folder / "steady"
    left, back = [], []
    for _ in range(2):
        (out / "first-step").unlink(missing_ok=True)
        began = time.time()
        ranks = start("steady", out, a)
        while not (out / "first-step").exists():
            if any(p.poll() is not None for p in ranks):
                sys.exit(f"steady: a rank ended\n{(out / 'rank0.log').read_text()[-3000:]}")
            time.sleep(0.01)
        back.append(float((out / "first-step").read_text()) - began)
        time.sleep(2)
        told = time.time()
        ranks[-1].send_signal(signal.SIGUSR2)
        codes = [p.wait() for p in ranks]
        assert codes == [75] * a.ranks, codes
        left.append(time.time() - told)
    # The second start is the one that found a commit.
    return {"signal_to_exit_s": left[-1], "start_to_first_step_s": back[-1]}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4, help="samples per rank and step")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--check", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="engine-") as name:
        folder = Path(name)
        found = {task: run(task, folder, a) for task in ("overhead", "stages", "saves")}
        found["restart"] = leave_and_return(folder, a)
    loop, save = found["overhead"], found["saves"]
    print(
        f"our loop         {loop['ours_s'] * 1e3:8.1f} ms a step, {loop['ratio']:.3f} x the bare "
        f"DeepSpeed loop ({loop['bare_s'] * 1e3:.1f} ms); rounds "
        + " ".join(f"{r:.3f}" for r in loop["ratios"])
    )
    plain = found["stages"]["step_s"]["plain"]
    for stage, seconds in found["stages"]["step_s"].items():
        share = found["stages"]["mfu"].get(stage)
        mfu = "" if share is None else f", MFU {share:.1%}"
        print(f"{stage:<16} {seconds * 1e3:8.1f} ms a step, {seconds / plain:.3f} x plain{mfu}")
    print(
        f"a save           {save['background_s'] * 1e3:8.1f} ms of training in the background, "
        f"{save['waited_s'] * 1e3:.1f} ms waited for ({save['commit_mb']:.0f} MB)"
    )
    print(f"signal to exit   {found['restart']['signal_to_exit_s']:8.2f} s, committed")
    print(f"start to step    {found['restart']['start_to_first_step_s']:8.2f} s, from the commit")
    if a.json:
        a.json.write_text(json.dumps(found, indent=1))
    missed = []
    if loop["ratio"] > MAX_OVERHEAD:
        missed.append(f"our loop {loop['ratio']:.3f} x the bare one, at most {MAX_OVERHEAD}")
    if save["background_s"] >= save["waited_s"]:
        missed.append("a save in the background holds up as long as one waited for")
    if a.check:
        print("all bars met" if not missed else "missed: " + "; ".join(missed))
    return 1 if a.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
