"""A trace of some steps by torch's profiler, for chrome://tracing or Perfetto."""

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from configs.schema import ProfilerConfig


class Profile:
    """Traces steps [first_step, first_step + num_steps) into `RUN/profile/rank-000.json`."""

    def __init__(self, out: Path, rank: int, config: ProfilerConfig):
        self._path = out / "profile" / f"rank-{rank:03d}.json"
        self._first, self._stop = config.first_step, config.first_step + config.num_steps
        self._profile: profile | None = None

    def at(self, step: int) -> None:
        """A step begins."""
        if self._profile is None and self._first <= step < self._stop:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(activities=activities)
            self._profile.__enter__()
        elif step >= self._stop:
            self.close()

    def close(self) -> None:
        """Write what was traced."""
        if self._profile is not None:
            self._profile.__exit__(None, None, None)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._profile.export_chrome_trace(str(self._path))
            self._profile = None
