"""A few open things, the ones used last: readers of large collections cannot keep all of them."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class _Closable(Protocol):
    def close(self) -> None: ...


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=_Closable)


class Recent(Generic[K, V]):
    """At most `limit` values by key, made when asked for; what goes is closed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of `key`, from `make` unless it is at hand; what `make` raises is passed on."""
        if key not in self._values:
            while len(self._values) >= self._limit:
                self._values.popitem(last=False)[1].close()
            self._values[key] = make()
        self._values.move_to_end(key)
        return self._values[key]

    def __del__(self) -> None:
        # Sources have no end of their own; their files go with them.
        for value in self._values.values():
            value.close()
