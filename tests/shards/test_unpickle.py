"""The reader of foreign pickles: it gives back what GEO-Bench wrote, and runs nothing."""

import builtins
import collections
import datetime
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import affine
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shards.sources import unpickle
from shards.sources.unpickle import Stub, UnsafePickle, loads, loads_text, plain

PROTOCOLS = (2, 3, 4)
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.tuples(inner)
        | st.tuples(inner, inner, inner, inner)
    ),
    max_leaves=20,
)


@given(_PLAIN, st.sampled_from((0, 1, *PROTOCOLS)))
@settings(max_examples=60)
def test_plain_values_come_back_from_every_protocol(value: Any, protocol: int) -> None:
    assert loads(pickle.dumps(value, protocol)) == value


@given(_PLAIN)
@settings(max_examples=30)
def test_the_text_of_a_pickle_is_read_too(value: Any) -> None:
    assert loads_text(str(pickle.dumps(value, 4))) == value


@pytest.mark.parametrize("protocol", [3, 4])
def test_numbers_arrays_and_days_are_made(protocol: int) -> None:
    labels = np.array([[0, 1, 1]], np.int64)
    value = {
        "count": np.int64(-7),
        "share": np.float32(0.25),
        "big endian": np.array([1, 2], ">i2"),
        "labels": labels,
        "columns": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
        "day": datetime.date(2020, 5, 11),
        "hour": datetime.datetime(2019, 12, 31, 23, 59),
    }
    read = {key: plain(stub) for key, stub in loads(pickle.dumps(value, protocol)).items()}
    assert (read["count"], read["share"]) == (-7, 0.25)
    for name in ("big endian", "labels", "columns"):
        np.testing.assert_array_equal(read[name], value[name])
    assert read["labels"].dtype == np.int64
    assert (read["day"], read["hour"]) == (datetime.date(2020, 5, 11), datetime.date(2019, 12, 31))


def test_objects_are_recorded_not_made() -> None:
    stub = loads(pickle.dumps(affine.Affine(10.0, 0.0, 5.0, 0.0, -10.0, 7.0), 4))
    assert isinstance(stub, Stub)
    assert (stub.name, stub.class_name) == ("affine.Affine", "Affine")
    assert stub.args[:6] == (10.0, 0.0, 5.0, 0.0, -10.0, 7.0)
    ordered = collections.OrderedDict(b=1, a=[2])
    assert loads(pickle.dumps(ordered, 4)) == {"b": 1, "a": [2]}


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "function", [os.system, builtins.eval, builtins.exec, subprocess.Popen, builtins.__import__]
)
def test_functions_are_refused_and_not_called(
    function: Any, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    touch = "touch ran" if function is not builtins.eval else "open('ran', 'w')"
    data = pickle.dumps({"label": Evil(function, touch)}, protocol)
    with pytest.raises(UnsafePickle, match="do not trust this file"):
        loads(data)
    with pytest.raises(UnsafePickle, match="do not trust this file"):
        loads_text(str(data))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"cnumpy.f2py.crackfortran\nmyeval\n(S'1'\ntR.", "myeval"),
        (b"cnumpy\nload\n(tR.", "numpy.load"),
        (b"cgeobenchmark\nX\n.", "geobenchmark.X"),
        (b"cgeobench.task\nos system\n.", "os system"),
        (b"cbuiltins\ngetattr\n.", "builtins.getattr"),
        # Old instances, extension codes and persistent ids reach objects in other ways.
        (b"(ios\nsystem\n.", "INST"),
        (b"(cgeobench.dataset\nBand\no.", "opcode OBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"Pid\n.", "PERSID"),
        (b"\x80\x04}\x8c\x01a)K\x01\x87\x92.", "NEWOBJ_EX"),
        # A state may only be given to what was recorded: not to a name, a list, a dictionary.
        (b"cgeobench.dataset\nBand\n}b.", "Name as Stub"),
        (b"]}b.", "list as Stub"),
        (b"}K\x01]Rb.", "calls what is no class"),
        (b"}(K\x01K\x02e.", "dict as list"),
        (b"}]K\x01s.", "keys are not plain"),
        (b"(", "without an end|not a pickle"),
        (b"K\x01(0.", "opcode POP"),
        (b"K\x01(.", "a mark where a value should be"),
        (b"h\x07.", "not a pickle"),
        (b"", "not a pickle"),
    ],
)
def test_what_geobench_never_wrote_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(UnsafePickle, match=told):
        loads(data)


def test_a_dotted_name_reaches_nothing() -> None:
    # Python's own Unpickler would follow the dots to whatever GEO-Bench's module had imported.
    data = b"\x80\x04\x8c\x08geobench\x8c\x09os.system\x93)R."
    assert loads(data) == Stub("geobench.os.system", ())


@pytest.mark.parametrize("array", [np.zeros(1, [("a", "i4")]), np.array(["x"])])
def test_numpy_types_that_are_not_plain_numbers_are_refused(array: np.ndarray) -> None:
    with pytest.raises(UnsafePickle, match="not a plain number"):
        plain(loads(pickle.dumps(array, 4)))


def test_arrays_of_objects_are_refused() -> None:
    with pytest.raises(UnsafePickle):
        plain(loads(pickle.dumps(np.array([1, None]), 4)))


@pytest.mark.parametrize(
    "data",
    [
        b"(" * 100_000 + b".",
        b")" + b"\x85" * 300_000 + b".",
        b"]" * 300_000 + b".",
        # A deep tuple as a key: hashing it would exhaust the stack.
        b"})" + b"\x85" * 100_000 + b"Ns.",
    ],
)
def test_a_huge_recursion_is_refused(data: bytes) -> None:
    with pytest.raises(UnsafePickle):
        loads(data)


def test_deep_values_within_the_limit_do_no_harm() -> None:
    deep = loads(b")" + b"\x85" * 50_000 + b".")
    for _ in range(50_000):
        (deep,) = deep
    assert deep == ()


def test_a_value_that_holds_itself_is_read_and_let_alone() -> None:
    value: list[Any] = []
    value.append(value)
    read = loads(pickle.dumps(value, 4))
    assert read[0] is read


@pytest.mark.parametrize(
    "text", ["", "x", "b'a' + b'b'", "__import__('os')", "b'\\x8", "'b'", "-" * 99999 + "1"]
)
def test_text_that_is_no_bytes_literal_is_refused(text: str) -> None:
    with pytest.raises(UnsafePickle):
        loads_text(text)


@given(st.binary(max_size=200))
@settings(max_examples=200)
@example(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f.")
@example(b"I" + b"9" * 5000 + b"\n.")
def test_random_bytes_give_a_value_or_are_refused(data: bytes) -> None:
    _exercise(data)


_WRITTEN = pickle.dumps(
    {
        "04 - Red": {"date": datetime.date(2020, 1, 2), "transform": affine.Affine.identity()},
        "label": np.arange(3),
        "n": np.float64(2),
    },
    4,
)


@given(st.data())
@settings(max_examples=150)
def test_damaged_pickles_give_a_value_or_are_refused(data: st.DataObject) -> None:
    damaged = bytearray(_WRITTEN)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    _exercise(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))


def _exercise(data: bytes) -> None:
    """Read, and make plain whatever is there; only UnsafePickle may come out of it."""
    try:
        value = loads(data)
        values = [value, *(value.values() if isinstance(value, dict) else ())]
        for item in values:
            plain(item)
            if isinstance(item, Stub):
                item.get("name")
    except UnsafePickle:
        pass


def test_the_limit_of_steps_is_beyond_what_geobench_writes() -> None:
    band = {"date": datetime.date(2020, 1, 2), "transform": affine.Affine.identity(), "crs": None}
    # More bands and dates than any task has.
    value = {f"{b} - band_{d}": dict(band, date_id=d) for b in range(13) for d in range(100)}
    assert len(loads(pickle.dumps(value, 4))) == 1300
    assert unpickle.MAX_OPCODES >= 100_000
