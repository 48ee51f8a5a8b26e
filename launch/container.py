"""How a job's ranks get into a container, with apptainer or with pyxis."""

from collections.abc import Iterable
from pathlib import Path

from configs.schema.cluster import ContainerConfig


def apptainer_command(
    container: ContainerConfig, needed: Iterable[Path], *, use_gpus: bool
) -> list[str]:
    """What stands before the command of a rank. The environment goes in as it is."""
    start_in, *_ = folders = tuple(needed)
    command = ["apptainer", "exec", *(["--nv"] if use_gpus else [])]
    for mount in _mounts(container, folders):
        command += ["--bind", mount]
    return [*command, "--pwd", str(start_in), container.image]


def pyxis_options(container: ContainerConfig, needed: Iterable[Path]) -> list[str]:
    """Options of srun, where the plugin pyxis is installed."""
    start_in, *_ = folders = tuple(needed)
    return [
        f"--container-image={container.image}",
        f"--container-mounts={','.join(_full(m) for m in _mounts(container, folders))}",
        f"--container-workdir={start_in}",
    ]


def _mounts(container: ContainerConfig, needed: tuple[Path, ...]) -> list[str]:
    """The site's mounts, after those folders that a job cannot do without, at their own paths."""
    outer = [
        path
        for number, path in enumerate(needed)
        if not any(path.is_relative_to(before) for before in needed[:number])
    ]
    return [*map(str, outer), *container.mounts]


def _full(mount: str) -> str:
    return mount if ":" in mount else f"{mount}:{mount}"
