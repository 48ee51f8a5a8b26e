"""Whether a step that ended is started again, for the executor that starts it in the foreground.

The same policy as in slurm/common.sh: after a preemption always; after a crash only if it got further
than the last time, and not more often than the limit; never after giving up or being called off.

    RUN/exits.jsonl     how each start of a training run ended, for `launch.status`
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from launch.errors import PREEMPTED

EXITS = "exits.jsonl"
GAVE_UP = 65
FINAL = (0, 2, GAVE_UP)
"""Exit codes of a process that would end the same way again: done, a user's error, gave up."""


def committed(folder: Path) -> int:
    """A number that grows whenever a checkpoint or a shard is committed below `folder`."""
    steps = [
        path.parent.name.removeprefix("step-") for path in folder.rglob("step-*/MANIFEST.json")
    ]
    num_shards = sum(1 for _ in folder.rglob("*.tar"))
    return max((int(step) for step in steps if step.isdigit()), default=0) + num_shards


@dataclass
class Restarts:
    """Asked after each start of one step, which commits to `folder`."""

    folder: Path
    limit: int
    num_starts: int = 0
    num_after_crash: int = 0
    _before: int = 0

    def begin(self) -> None:
        self.num_starts += 1
        self._before = committed(self.folder)

    def again(self, code: int) -> str:
        """Why the step is started again; empty if it is not."""
        if self.called_off:
            return ""
        if code == PREEMPTED:
            return f"preempted after a commit, goes on ({self.num_starts})"
        if code in FINAL or self.exhausted or committed(self.folder) <= self._before:
            return ""
        self.num_after_crash += 1
        return (
            f"got further than the last time, goes on from its last commit (restart "
            f"{self.num_after_crash} of at most {self.limit})"
        )

    @property
    def called_off(self) -> bool:
        """True when somebody has put KILL into the folder: ranks that find it commit and leave."""
        return (self.folder / "KILL").exists() and not (self.folder / "DONE").exists()

    @property
    def exhausted(self) -> bool:
        return self.num_after_crash >= self.limit

    def tell(self, code: int, *, again: bool) -> None:
        """Leave a line for `launch.status`, beside what a training run leaves."""
        if (self.folder / "config.yaml").is_file():
            line = {"time": round(time.time()), "code": code, "again": again, "job": None}
            with (self.folder / EXITS).open("a") as file:
                file.write(json.dumps(line) + "\n")
