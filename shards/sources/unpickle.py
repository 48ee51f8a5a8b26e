"""Read the pickles of GEO-Bench without running what they ask for.

A pickle is a program: it names functions to be called. Here nothing that a pickle names is imported or
called. Its opcodes are parsed by `pickletools` and interpreted by a machine that knows lists, tuples,
dictionaries, numbers and text; what would have been an object becomes a `Stub` that records its class
and what that would have been given. Only the names that GEO-Bench's files hold may occur at all.

`plain` makes values of stubs that stand for numpy scalars and arrays of plain numbers and for dates.

Refused with UnsafePickle: other names, opcodes that GEO-Bench's pickles do not use, keys that are
not plain values (hashing a deep tuple can exhaust the stack), and more than `MAX_OPCODES` steps.
"""

import ast
import datetime
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_OPCODES = 200_000

# `ccb` and `geobench.io` are what GEO-Bench's modules were called before.
_RECORDED = re.compile(r"(geobench|ccb|affine|rasterio|datetime)(\.\w+)+")
_SCALARS = {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}
_ARRAYS = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
_DATES = {"datetime.date", "datetime.datetime"}
_DICT = "collections.OrderedDict"
_ALLOWED = {*_SCALARS, *_ARRAYS, "numpy.dtype", "numpy.ndarray", _DICT}
_NUMBER = re.compile(r"[iu][1248]|f[248]|b1")
_LITERAL = re.compile(r"""b'(?:[^'\\\n]|\\.)*'|b"(?:[^"\\\n]|\\.)*\"""")
_KEYS = (str, bytes, int, float, type(None))


class UnsafePickle(ValueError):
    """A pickle that GEO-Bench did not write, or that is damaged."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names, by its full name."""

    name: str


@dataclass(slots=True)
class Stub:
    """Stands for an object that is not made: the full name of its class, arguments and state."""

    name: str
    args: tuple[Any, ...]
    state: Any = None

    @property
    def class_name(self) -> str:
        """The name without its module."""
        return self.name.rpartition(".")[2]

    def get(self, attribute: str) -> Any:
        """An attribute of the recorded state as a plain value; None when there is none."""
        return plain(self.state.get(attribute)) if isinstance(self.state, dict) else None


def loads_text(text: str) -> Any:
    """Undo `str(pickle.dumps(value))`, the form that attributes of HDF5 files have.

    Raises UnsafePickle.
    """
    # literal_eval alone would parse any nesting of brackets, which can exhaust the interpreter.
    if not _LITERAL.fullmatch(text):
        raise UnsafePickle(f"not the text of a pickle: {text[:40]!r}")
    try:
        data = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise UnsafePickle(f"not the text of a pickle: {error}") from error
    return loads(data)


def loads(data: bytes) -> Any:
    """The value of a pickle, its objects as stubs. Raises UnsafePickle, and nothing else."""
    machine = _Machine()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number >= MAX_OPCODES:
                raise UnsafePickle(f"a pickle of more than {MAX_OPCODES} steps")
            if opcode.name == "STOP":
                return machine.pop()
            if opcode.name not in _OPCODES:
                raise UnsafePickle(f"a pickle with the opcode {opcode.name}")
            _OPCODES[opcode.name](machine, argument)
    except UnsafePickle:
        raise
    except (ValueError, KeyError, IndexError) as error:
        raise UnsafePickle(f"not a pickle that can be read: {error!r}") from error
    raise UnsafePickle("a pickle without an end")


def plain(value: Any) -> Any:
    """The number, array or day that a stub stands for; any other value as it is.

    Arrays are read-only. A datetime becomes its day. Raises UnsafePickle for a type of numbers that
    is not plain, or for bytes that do not fit it.
    """
    if not isinstance(value, Stub):
        return value
    try:
        if value.name in _SCALARS:
            dtype, data = value.args
            return np.frombuffer(data, _dtype(dtype)).reshape(()).item()
        if value.name in _ARRAYS:
            _, shape, dtype, fortran, data = value.state
            flat = np.frombuffer(data, _dtype(dtype))
            return flat.reshape(shape, order="F" if fortran else "C")
        if value.name in _DATES:
            high, low, month, day = value.args[0][:4]
            # The highest bit of the month tells two equal hours at the end of summer time apart.
            return datetime.date(high * 256 + low, month & 0x7F, day)
    except UnsafePickle:
        raise
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise UnsafePickle(f"a damaged {value.name}: {error}") from error
    return value


def _dtype(stub: Any) -> np.dtype:
    """The type of plain numbers a stub of numpy.dtype stands for."""
    code = stub.args[0] if isinstance(stub, Stub) and stub.name == "numpy.dtype" else None
    if not isinstance(code, str) or not _NUMBER.fullmatch(code):
        raise UnsafePickle(f"an array whose type is {code!r}, not a plain number")
    order = stub.state[1] if isinstance(stub.state, tuple) else "="
    return np.dtype(code).newbyteorder(order if order in ("<", ">") else "=")


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise UnsafePickle("a pickle with a mark where a value should be")
        return self.stack.pop()

    def pop_marked(self) -> list[Any]:
        """All values above the last mark, which goes too."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def top(self, kind: type) -> Any:
        """The value on top, which stays. Raises UnsafePickle when it is not of this kind."""
        value = self.pop()
        if not isinstance(value, kind):
            raise UnsafePickle(f"a pickle that treats a {type(value).__name__} as {kind.__name__}")
        self.stack.append(value)
        return value

    def memoize(self, number: int | None) -> None:
        value = self.pop()
        self.stack.append(value)
        self.memo[len(self.memo) if number is None else number] = value

    def extend(self, values: list[Any]) -> None:
        self.top(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        if len(values) % 2 or not all(isinstance(key, _KEYS) for key in values[::2]):
            raise UnsafePickle("a pickle with a dictionary whose keys are not plain values")
        self.top(dict).update(zip(values[::2], values[1::2], strict=True))

    def find(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}"
        if full not in _ALLOWED and not _RECORDED.fullmatch(full):
            raise UnsafePickle(
                f"it names {full}, which GEO-Bench's files do not: do not trust this file"
            )
        self.push(Name(full))

    def make(self) -> None:
        """Take a name and its arguments; leave a stub. Nothing is called."""
        args, what = self.pop(), self.pop()
        if not isinstance(what, Name) or not isinstance(args, tuple):
            raise UnsafePickle("a pickle that calls what is no class")
        self.push({} if what.name == _DICT else Stub(what.name, args))

    def build(self) -> None:
        state = self.pop()
        self.top(Stub).state = state


def _pair(machine: _Machine) -> list[Any]:
    value, key = machine.pop(), machine.pop()
    return [key, value]


def _dict_of(machine: _Machine) -> None:
    values = machine.pop_marked()
    machine.push({})
    machine.set_items(values)


def _tuple_of(num: int) -> Callable[[_Machine, Any], None]:
    return lambda m, _: m.push(tuple(reversed([m.pop() for _ in range(num)])))


_Action = Callable[[_Machine, Any], None]
_OPCODES: dict[str, _Action] = {
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "LIST": lambda m, _: m.push(m.pop_marked()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_marked())),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "DICT": lambda m, _: _dict_of(m),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    "APPENDS": lambda m, _: m.extend(m.pop_marked()),
    "SETITEM": lambda m, _: m.set_items(_pair(m)),
    "SETITEMS": lambda m, _: m.set_items(m.pop_marked()),
    "MEMOIZE": lambda m, _: m.memoize(None),
    "GLOBAL": lambda m, text: m.find(*text.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.find(*reversed([m.pop(), m.pop()])),
    "REDUCE": lambda m, _: m.make(),
    "NEWOBJ": lambda m, _: m.make(),
    "BUILD": lambda m, _: m.build(),
}
_CONSTANTS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_OPCODES |= dict.fromkeys(_CONSTANTS, lambda m, value: m.push(value))
_OPCODES |= dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda m, n: m.memoize(n))
_OPCODES |= dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, n: m.push(m.memo[n]))
