"""A step whose command is a few lines of real Python, for tests of how steps are started."""

from pathlib import Path

import pytest

from configs import load_config
from launch.step import Launch, Step

ROOT = Path(__file__).parents[2]


def stub_step(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    *,
    name: str = "stub",
    launch: Launch = "ranks",
    after: tuple[str, ...] = (),
) -> Step:
    """`body` is that of `main(argv)` in a package of its own; it may use Path, os and FOLDER."""
    package = folder / "packages" / f"{name}_stub"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    (package / "__main__.py").write_text(
        f"import os, sys\nfrom pathlib import Path\nFOLDER = Path({str(folder)!r})\n"
        f"def main(argv):\n{lines}\n    return 0\n"
        "if __name__ == '__main__':\n    sys.exit(main(sys.argv[1:]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{ROOT}")
    monkeypatch.syspath_prepend(str(package.parent))
    return Step(
        name=name,
        kind="shards",
        package=package.name,  # pyright: ignore[reportArgumentType]
        args=(),
        launch=launch,
        config=load_config("configs/shards/synthetic.yaml"),
        out=folder,
        markers=(folder / f"{name}.marker",),
        record=folder / ".launch" / f"{name}.yaml",
        after=after,
        logs=folder / "logs" / name,
    )
