from __future__ import annotations

import collections
import datetime
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdagent_sota_patch.errors import SnapshotError
from rdagent_sota_patch.sessions.inert import Inert, read_inert

from .forged import Made, forge

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


class Thing:
    def __init__(self) -> None:
        self.part = [1, 2]


class Slotted:
    __slots__ = ("part",)

    def __init__(self) -> None:
        self.part = "p"


class Keyworded:
    """Pickles its construction with a keyword argument."""

    def __new__(cls, *, size: int) -> Keyworded:
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"size": 3}


@given(plain, st.sampled_from(range(3, pickle.HIGHEST_PROTOCOL + 1)))
def test_plain_values_stay_themselves(value: object, protocol: int) -> None:
    """Values without classes come back equal, in every protocol that knows bytes."""
    assert read_inert(pickle.dumps(value, protocol=protocol)) == value


def test_a_view_behind_a_signature() -> None:
    """The pickle that follows a signature is read from where it starts, without a copy."""
    data = b"signature" + pickle.dumps([1, "two"])
    assert read_inert(memoryview(data)[len(b"signature") :]) == [1, "two"]


def test_an_object_keeps_its_origin_and_state() -> None:
    """An instance becomes a stand-in that knows its class path and attributes."""
    read = read_inert(pickle.dumps(Thing()))
    assert read.origin == (Thing.__module__, "Thing")
    assert read.attributes == {"part": [1, 2]}


def test_slots_are_attributes_too() -> None:
    """The (dict, slots) form of state reads the same."""
    assert read_inert(pickle.dumps(Slotted())).attributes == {"part": "p"}


def test_keyword_construction_is_kept() -> None:
    """NEWOBJ_EX keeps its keyword arguments."""
    assert read_inert(pickle.dumps(Keyworded(size=3))).keywords == {"size": 3}


def test_calls_are_kept_not_made() -> None:
    """REDUCE keeps what the function would have been called with."""
    read = read_inert(forge(Made("os", "system", ("echo",))))
    assert (read.origin, read.arguments) == (("os", "system"), ("echo",))


def test_items_and_entries_are_kept() -> None:
    """Subclasses of list, dict and set keep what was put into them."""
    filled = collections.defaultdict(int, {"a": 1})
    assert read_inert(pickle.dumps(filled)).entries == {"a": 1}
    assert read_inert(pickle.dumps(collections.deque([1, 2]))).items == [1, 2]
    appended = b"\x80\x04\x8c\x01m\x8c\x01L\x93)R" + b"K\x01a" + b"(K\x02K\x03e" + b"(K\x04\x90."
    assert read_inert(appended).items == [1, 2, 3, 4]


def test_one_class_for_one_name() -> None:
    """The same name gives the same class within and across reads."""
    first, second = read_inert(forge([Made("m", "C"), Made("m", "C")]))
    assert type(first) is type(second) is type(read_inert(forge(Made("m", "C"))))
    assert type(first) is not type(read_inert(forge(Made("m", "D"))))


def test_classes_are_sealed() -> None:
    """Nothing can be set on or deleted from a stand-in class, nor on the base of all."""
    for cls in (type(read_inert(forge(Made("m", "C")))), Inert):
        with pytest.raises(TypeError, match="sealed"):
            cls.origin = ("x", "y")
        with pytest.raises(TypeError, match="sealed"):
            del cls.__setstate__


def test_names_are_bounded() -> None:
    """A class name of megabytes is refused rather than kept."""
    with pytest.raises(SnapshotError, match="512"):
        read_inert(forge(Made("m" * 600, "C")))


def test_a_memory_view_is_read_in_place() -> None:
    """A view into a file's bytes is as good as the bytes."""
    assert read_inert(memoryview(b"xx" + pickle.dumps([1]))[2:]) == [1]


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot beyond the limit is refused before it is read."""
    monkeypatch.setattr("rdagent_sota_patch.sessions.inert.LARGEST_SNAPSHOT", 10)
    with pytest.raises(SnapshotError, match="snapshot-too-large"):
        read_inert(b"x" * 11)


@pytest.mark.parametrize("trusted", [True, False])
def test_every_truncation_is_an_error(trusted: bool) -> None:
    """A pickle cut short anywhere is a SnapshotError, screened or not."""
    whole = pickle.dumps({"path": Path("/a"), "when": datetime.datetime(2026, 1, 1), "l": [1, "x" * 300]})
    for kept in range(len(whole)):
        with pytest.raises(SnapshotError, match="snapshot-unreadable"):
            read_inert(whole[:kept], trusted=trusted)


@given(st.binary(max_size=200))
def test_arbitrary_bytes(data: bytes) -> None:
    """Garbage is a value or a SnapshotError, nothing else."""
    for trusted in (True, False):
        try:
            # LONG_BINPUT may ask an unscreened unpickler for all memory: that is what the screen is for.
            read_inert(data, trusted=trusted and b"r" not in data)
        except SnapshotError:
            continue


@pytest.mark.parametrize(("length", "shown"), [(199, 199), (200, 200), (201, 200), (500, 200)])
def test_a_long_name_is_cut_in_messages(length: int, shown: int) -> None:
    """Up to 200 characters are shown as they are, umlauts included; a longer name is cut, and spelled in ASCII."""
    stand_in = read_inert(forge(Made("m", "ü" * (length - 2))))
    assert isinstance(stand_in, Inert)
    title = stand_in.title
    assert len(title) == shown
    assert ("ü" in title) is (length <= 200)
