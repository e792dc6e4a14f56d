from __future__ import annotations

import datetime
import pickle
from collections import OrderedDict, defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdagent_sota_patch.errors import SnapshotError
from rdagent_sota_patch.sessions.opcodes import is_truncated, screen

RICH = [
    Path("/a"),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc),
    OrderedDict(a=1),
    defaultdict(list, x=[1]),
    {1, 2},
    frozenset({(1, 2)}),
    b"x" * 300,
    bytearray(b"y"),
    "é" * 70_000,
    2**2100,
    -1.5,
    {"k": (1, (2, (3, 4, 5, 6)))},
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_pickle_writes_passes(protocol: int) -> None:
    """Nothing that Python's own pickler writes is refused, in any protocol."""
    screen(pickle.dumps([*RICH, RICH], protocol=protocol))


@pytest.mark.parametrize("protocol", [4, 5])
def test_truncation_is_seen_at_every_byte(protocol: int) -> None:
    """Each proper beginning of a pickle is truncated; the whole is not."""
    whole = pickle.dumps([part for part in RICH if len(repr(part)) < 1000], protocol=protocol)
    assert not is_truncated(whole)
    assert all(is_truncated(whole[:kept]) for kept in range(len(whole)))


@given(st.binary(max_size=100))
def test_garbage(data: bytes) -> None:
    """Any bytes pass or are a SnapshotError."""
    try:
        screen(data)
    except SnapshotError as error:
        assert error.slug in ("snapshot-unreadable", "snapshot-refused")
    assert is_truncated(data) in (True, False)


def test_garbage_is_not_truncation() -> None:
    """Bytes that are no opcodes are told from an end that is missing."""
    assert not is_truncated(b"\x80\x04\xff")
    assert not is_truncated(b"\x80\x04s.")


@pytest.mark.parametrize("pickled", [b"(0N.", b"N(0.", b"(N00N.", b"((00N."])
def test_a_mark_that_is_popped(pickled: bytes) -> None:
    """POP takes away a mark that is on top, and the value otherwise, as the unpickler's own does."""
    assert pickle.loads(pickled) is None
    screen(pickled)
