"""The README's commands, as a newcomer would type them."""

import re
import shlex
import subprocess
import sys

import pytest

from tests.dist.ranks import ROOT

pytestmark = pytest.mark.dist


def commands(heading: str) -> list[str]:
    """Shell lines of the first code block below a heading."""
    section = (ROOT / "README.md").read_text().split(f"## {heading}", 1)[1]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [line.split("   #")[0].strip() for line in block.group(1).splitlines() if line.strip()]


def run(command: str, folder) -> str:
    """Run one `python -m` line with its outputs moved below `folder`."""
    words = [w.replace("data/", f"{folder}/data/").replace("runs/", f"{folder}/runs/") for w in
             shlex.split(command)]  # fmt: skip
    words = [w.replace("preview.png", f"{folder}/preview.png") for w in words]
    assert words[0] == "python"
    result = subprocess.run(
        [sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def test_step_by_step_works_as_written(tmp_path):
    for command in commands("Step by step"):
        run(command, tmp_path)
    assert (tmp_path / "preview.png").is_file()
    assert (tmp_path / "runs" / "DEM" / "DONE").is_file()
    assert (tmp_path / "data" / "synthetic" / "extra" / "tok_DEM" / "manifest.json").is_file()


def test_the_slurm_dry_run_prints_the_script(tmp_path):
    dry_run = next(c for c in commands("On a Slurm cluster") if "--dry-run" in c)
    script = run(dry_run, tmp_path)
    assert "#SBATCH --nodes=4" in script
    assert "pipeline train" in script or "launch.job" in script or "submitit" in script
