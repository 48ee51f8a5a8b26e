from shards.sources.recent import Recent


class Closable:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_the_ones_used_last_stay_open() -> None:
    recent: Recent[str, Closable] = Recent(2)
    first, second = recent.get("a", Closable), recent.get("b", Closable)
    assert recent.get("a", Closable) is first
    third = recent.get("c", Closable)
    assert (first.closed, second.closed, third.closed) == (False, True, False)
    assert recent.get("b", Closable) is not second
    del recent
    assert first.closed
    assert third.closed
