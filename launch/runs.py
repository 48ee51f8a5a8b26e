"""What the files of a training run tell about it: also while it runs, without Slurm or torch.

Contents of files are compared with the clock of this machine, a login node: clocks should agree within
seconds, as they do on clusters.

state      told by
done       DONE
running    a heartbeat that is fresh; in runs that leave none, something written lately
stalled    the same, but no progress for long, or a rank without a sign of life
failed     FAILED, or it ended with an error and is not started again
preempted  it committed, left, and waits to be started again
pending    planned or submitted and not started yet, or waiting to be started again after a crash
stopped    none of these: it was called off (KILL), interrupted, or its machine is gone
"""

import itertools
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.errors import PREEMPTED
from launch.restarts import EXITS

_FRESH_S = 60.0
# Runs without a heartbeat write at their own pace.
_FRESH_METRICS_S = 120.0
_STALL_S = 600.0
_TAIL_BYTES = 1 << 16
# No exit is known of; an end in order; INT, TERM and HUP.
_INTERRUPTED = (None, 0, PREEMPTED, 129, 130, 143)
# Never a run below these, and sometimes a great many files.
_SKIPPED = {"artifact", "checkpoints", "code", "heartbeat", "shards", "tensorboard"}
_SUBMITTED = Path(".launch") / "submitted"


@dataclass(frozen=True)
class RunStatus:
    """One run. What its files do not tell is None; times are in seconds before now."""

    path: str
    kind: str
    state: str
    num_steps: int | None
    reason: str | None = None
    step: int | None = None
    loss: float | None = None
    samples_per_s: float | None = None
    eta_s: float | None = None
    committed_step: int | None = None
    commit_age_s: float | None = None
    restarts: int | None = None
    host: str | None = None
    job: str | None = None


def find_runs(folder: Path, now: float | None = None) -> list[RunStatus]:
    """Every run at or below `folder`, in order of path."""
    now = time.time() if now is None else now
    started: dict[Path, dict[str, Any]] = {}
    planned: dict[Path, dict[str, Any]] = {}
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith("."))
        if "config.yaml" in files and (config := _training(here / "config.yaml")) is not None:
            started[here.absolute()] = config
        if "experiment.yaml" in files:
            planned |= _compared(here)
        if (here / _SUBMITTED).is_dir():
            planned |= _submitted(here / _SUBMITTED)
    runs = [_read_run(run, config, folder, now) for run, config in started.items()]
    runs += [
        RunStatus(_shown(run, folder), config["kind"], "pending", _num_steps(config))
        for run, config in planned.items()
        if run not in started
    ]
    return sorted(runs, key=lambda run: run.path)


def _training(path: Path) -> dict[str, Any] | None:
    """A configuration of anything that is trained, as plain values: the code may be another now."""
    try:
        values = yaml.safe_load(path.read_text())
        return values if values["kind"] and isinstance(values["engine"], dict) else None
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None


def _num_steps(config: dict[str, Any]) -> int | None:
    """The number of steps, also where samples are counted; of tokens the files alone tell nothing."""
    engine = config["engine"]
    if engine.get("num_steps") is None and engine.get("num_samples"):
        return math.ceil(engine["num_samples"] / engine["global_batch"])
    return engine.get("num_steps")


def _submitted(folder: Path) -> dict[Path, dict[str, Any]]:
    """What `launch.submit` handed to Slurm, by the folder the run will have."""
    configs = (_training(path) for path in sorted(folder.glob("*.yaml")))
    root = folder.absolute().parents[1]
    return {_below(root, Path(config["out"])): config for config in configs if config is not None}


def _compared(folder: Path) -> dict[Path, dict[str, Any]]:
    """All runs of the comparison in `folder`, if it is one; how long they are is not known yet."""
    try:
        plan = yaml.safe_load((folder / "experiment.yaml").read_text())
        kind, root = plan["kind"], folder.absolute()
        if kind not in ("comparison", "model_comparison"):
            return {}
        pairs = list(itertools.product(plan["arms"], plan["seeds"]))
        if kind == "comparison":
            bases = [(root / "stage1" / name, "stage1") for name in plan["modalities"]]
        else:
            bases = [(root / "models", "model")]
        outs = {base / a / f"seed-{s}": shown for base, shown in bases for a, s in pairs}
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return {}
    return {out: {"kind": shown, "engine": {}} for out, shown in outs.items()}


def _below(root: Path, out: Path) -> Path:
    """`out`, which is relative to some folder above `root` and lies at or below `root`."""
    bases = (*reversed(root.parents), root)
    return next((base / out for base in bases if (base / out).is_relative_to(root)), out)


def _shown(run: Path, folder: Path) -> str:
    return os.path.relpath(run, folder.absolute())


def _read_run(run: Path, config: dict[str, Any], root: Path, now: float) -> RunStatus:
    num_steps = _num_steps(config)
    lines = [line for line in _tail(run / "metrics.jsonl") if "step" in line]
    last = next((line for line in reversed(lines) if "loss" in line), {})
    attempts = list(_tail(run / "attempts.jsonl"))
    attempt = attempts[-1] if attempts else {}
    beat = _json(run / "heartbeat" / "rank-0000.json")
    record = _json(run / "run.json")
    state, reason = _state(run, config, attempt, beat, now)
    live = state in ("running", "stalled")

    steps = [line["step"] for line in lines[-1:]] + (
        [beat["step"]] if live and "step" in beat else []
    )
    step = max(steps, default=None)
    rate = last.get("samples_per_s")
    eta_s = None
    if state == "running" and rate and num_steps and step is not None:
        eta_s = (num_steps - step) * config["engine"]["global_batch"] / rate
    committed_step, committed_at = _last_commit(run / "checkpoints")
    return RunStatus(
        path=_shown(run, root),
        kind=str(config["kind"]),
        state=state,
        num_steps=num_steps,
        reason=reason,
        step=step,
        loss=last.get("loss"),
        samples_per_s=rate,
        eta_s=eta_s,
        committed_step=committed_step,
        commit_age_s=None if committed_at is None else max(0.0, now - committed_at),
        restarts=len(attempts) - 1 if attempts else None,
        host=beat.get("host") or attempt.get("host") or record.get("host"),
        job=attempt.get("job"),
    )


def _state(
    run: Path, config: dict[str, Any], attempt: dict[str, Any], beat: dict[str, Any], now: float
) -> tuple[str, str | None]:
    """The state, and what there is to say about it."""
    if (run / "DONE").exists():
        return "done", None
    if _is_live(run, attempt, beat, now):
        reason = _stall(run, config, attempt, beat, now)
        return ("stalled", reason) if reason else ("running", beat.get("phase"))
    failed = _json(run / "FAILED")
    if failed:
        return "failed", failed.get("reason")
    if (run / "KILL").exists():
        return "stopped", "called off: KILL"
    ended = _last(run / EXITS)
    if ended.get("time", 0) + 1 < attempt.get("time", 0):
        return "stopped", "ended without a word"
    code = ended.get("code")
    if ended.get("again"):
        return ("preempted", None) if code == PREEMPTED else ("pending", f"after exit code {code}")
    return ("stopped", None) if code in _INTERRUPTED else ("failed", f"exit code {code}")


def _is_live(run: Path, attempt: dict[str, Any], beat: dict[str, Any], now: float) -> bool:
    if beat:
        return now - beat.get("time", 0) < _FRESH_S
    if (run / "heartbeat").is_dir() or attempt:
        # A rank that left in order has taken its file away.
        return False
    paths = (run / "metrics.jsonl", run / "checkpoints", run / "config.yaml")
    last = max(path.stat().st_mtime for path in paths if path.exists())
    ended = _last(run / EXITS).get("time", 0)
    return now - last < _FRESH_METRICS_S and last > ended


def _stall(
    run: Path, config: dict[str, Any], attempt: dict[str, Any], beat: dict[str, Any], now: float
) -> str | None:
    """Why a live run looks stuck, if it does."""
    if not beat:
        return None
    limit_s = (config["engine"].get("watch") or {}).get("stall_s") or _STALL_S
    waited_s = now - beat.get("since", now)
    if waited_s > limit_s:
        return f"in {beat.get('phase', '?')} since {round(waited_s)} s"
    silent = []
    for rank in range(attempt.get("world_size", 1)):
        path = run / "heartbeat" / f"rank-{rank:04d}.json"
        # Of the others the age alone, without opening a thousand files.
        if rank and path.exists() and now - path.stat().st_mtime > _FRESH_S:
            silent.append(str(rank))
    return f"no sign of life from rank {', '.join(silent[:8])}" if silent else None


def _last_commit(checkpoints: Path) -> tuple[int | None, float | None]:
    """The newest committed step and when it was committed."""
    found = {
        int(name): path
        for path in checkpoints.glob("step-*/MANIFEST.json")
        if (name := path.parent.name.removeprefix("step-")).isdigit()
    }
    if not found:
        return None, None
    step = max(found)
    try:
        return step, found[step].stat().st_mtime
    except FileNotFoundError:  # retired this very moment
        return step, None


def _tail(path: Path) -> Iterator[dict[str, Any]]:
    """The last whole lines of a JSON-lines file that may be being written, or cut by a crash."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        for text in file.read().splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                yield line


def _last(path: Path) -> dict[str, Any]:
    """The last line of a JSON-lines file; empty where there is none."""
    return next(reversed(list(_tail(path))), {})


def _json(path: Path) -> dict[str, Any]:
    """A small JSON file; empty where there is none, or none that can be read."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
