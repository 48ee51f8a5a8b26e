"""Where each step begins in the stream of samples."""

from collections.abc import Iterable, Iterator


def cursors(
    start: int, global_batch: int, left_out: Iterable[tuple[int, int]] = ()
) -> Iterator[int]:
    """First position of each step from `start` on, without end.

    A step consumes [cursor, cursor + global_batch). No step touches a stretch of `left_out`: one that
    would begins behind it.
    """
    stretches = sorted(left_out)
    cursor = start
    while True:
        for first, stop in stretches:
            if first < cursor + global_batch and cursor < stop:
                cursor = stop
        yield cursor
        cursor += global_batch
