"""What a process shares with others and whom it has started, as Linux tells it under /proc."""

from pathlib import Path


def shared_names(pid: int) -> set[str]:
    """What a process holds open or mapped of the places where shared memory has names."""
    try:
        links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    names = (*links, *(line.split()[-1] for line in maps))
    return {name for name in names if name.startswith(("/dev/shm", "/SYSV"))}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
