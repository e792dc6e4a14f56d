"""Walk a pickle's opcodes without running any, to refuse what would hurt the C unpickler itself.

Inert classes keep a file from calling anything. They do not keep it from exhausting the process:
``LONG_BINPUT`` makes the unpickler allocate a memo of any size, the hash of deeply nested tuples
overflows the C stack, and extension codes hand out real objects from ``copyreg``'s cache without
asking ``find_class``. RD-Agent writes none of these, so a file that does is refused unread.
"""

from __future__ import annotations

import pickletools
from enum import Enum
from typing import NamedTuple

from rdagent_sota_patch.errors import SnapshotError

_MOST_NESTED_TUPLES = 500
"""Upstream's deepest is under ten; the C stack holds tens of thousands."""

_REFUSED = {
    "EXT1": "an extension code",
    "EXT2": "an extension code",
    "EXT4": "an extension code",
    "PERSID": "a persistent object",
    "BINPERSID": "a persistent object",
    "NEXT_BUFFER": "an out-of-band buffer",
    "READONLY_BUFFER": "an out-of-band buffer",
}
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"})
_IN_PLACE = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
_PREFIX_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}


class _Incomplete(Exception):
    """The stream ends before its STOP opcode."""


class _Shape(Enum):
    FIXED = "fixed"
    PREFIXED = "prefixed"
    LINES = "lines"


class _Opcode(NamedTuple):
    name: str
    shape: _Shape
    size: int
    """Bytes of a fixed argument, bytes of the length prefix, or number of text lines."""
    takes_mark: bool
    takes: int
    """Values taken from below the mark when there is one, else from the top."""
    gives: int
    wraps: bool
    """Whether the result is hashable and one level deeper than what it is made of."""


def _describe(opcode: pickletools.OpcodeInfo) -> _Opcode:
    shape, size = _Shape.FIXED, 0
    if opcode.arg is not None:
        if opcode.arg.n == pickletools.UP_TO_NEWLINE:
            # GLOBAL and INST carry module and name, each on its own line.
            shape, size = _Shape.LINES, 2 if opcode.arg.name == "stringnl_noescape_pair" else 1
        elif opcode.arg.n < 0:
            shape, size = _Shape.PREFIXED, _PREFIX_BYTES[opcode.arg.n]
        else:
            size = opcode.arg.n
    before = list(opcode.stack_before)
    takes_mark = pickletools.markobject in before
    takes = before.index(pickletools.markobject) if takes_mark else len(before)
    gives = len(opcode.stack_after)
    if opcode.name in _IN_PLACE:
        takes, gives = takes - 1, 0
    return _Opcode(opcode.name, shape, size, takes_mark, takes, gives, opcode.name in _TUPLES)


_TABLE: dict[int, _Opcode] = {ord(opcode.code): _describe(opcode) for opcode in pickletools.opcodes}


def screen(payload: bytes | memoryview) -> None:
    """Refuse a pickle that would exhaust or bypass the unpickler.

    Raises:
        SnapshotError: ``snapshot-refused`` for an opcode or nesting RD-Agent never writes,
            ``snapshot-unreadable`` for what is not a complete pickle.
    """
    try:
        _walk(bytes(payload))
    except (_Incomplete, IndexError):
        raise SnapshotError(
            "snapshot-unreadable",
            "it is not a complete pickle: it ends too early, or is not one at all.",
            "A run that was killed while writing leaves such a file; another snapshot may be whole.",
        ) from None


def is_truncated(payload: bytes | memoryview) -> bool:
    """Whether every opcode is well-formed and the stream merely ends before its STOP."""
    try:
        _walk(bytes(payload))
    except _Incomplete:
        return True
    except (SnapshotError, IndexError):
        return False
    return False


def _walk(payload: bytes) -> None:
    """Follow the opcodes to STOP, keeping of each stack entry only how deeply its tuples nest."""
    end = len(payload)
    position = 0
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    while position < end:
        opcode = _TABLE.get(payload[position])
        if opcode is None:
            raise IndexError(position)
        name = opcode.name
        start = position + 1
        position = _after_argument(payload, start, opcode)
        if position > end:
            raise _Incomplete
        if name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo.get(int.from_bytes(payload[start:position], "little"), 0))
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "STOP":
            return
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[_memo_index(payload[start:position], name, end)] = stack[-1]
        elif name == "GET":
            stack.append(memo.get(_memo_index(payload[start:position], name, end), 0))
        else:
            _apply(opcode, stack, marks)
    raise _Incomplete


def _apply(opcode: _Opcode, stack: list[int], marks: list[int]) -> None:
    if opcode.name in _REFUSED:
        raise _refusal(f"{_REFUSED[opcode.name]} ({opcode.name})")
    if opcode.name == "DUP":
        stack.append(stack[-1])
        return
    if opcode.name == "POP" and marks and marks[-1] == len(stack):
        # The unpickler's POP takes a mark away when that is what is on top.
        marks.pop()
        return
    floor = marks.pop() if opcode.takes_mark else len(stack)
    floor -= opcode.takes
    if floor < 0:
        raise IndexError(floor)
    depth = 0
    if opcode.wraps:
        depth = 1 + max(stack[floor:], default=0)
        if depth > _MOST_NESTED_TUPLES:
            raise _refusal(f"tuples nested more than {_MOST_NESTED_TUPLES} deep")
    del stack[floor:]
    if opcode.gives:
        stack.append(depth)


def _after_argument(payload: bytes, start: int, opcode: _Opcode) -> int:
    if opcode.shape is _Shape.FIXED:
        return start + opcode.size
    if opcode.shape is _Shape.PREFIXED:
        body = start + opcode.size
        return body + int.from_bytes(payload[start:body], "little")
    for _ in range(opcode.size):
        start = payload.find(b"\n", start) + 1
        if start == 0:
            raise _Incomplete
    return start


def _memo_index(argument: bytes, name: str, most: int) -> int:
    if name in ("PUT", "GET"):
        digits = argument.strip()
        # Longer than any offset into the file, and int() takes quadratic time on huge literals.
        if not digits.isdigit() or len(digits) > 20:
            raise _refusal(f"a memo index that is not a number ({name})")
        index = int(digits)
    else:
        index = int.from_bytes(argument, "little")
    if index > most:
        raise _refusal(f"memo entry {index}, more than the file has bytes ({name})")
    return index


def _refusal(what: str) -> SnapshotError:
    return SnapshotError(
        "snapshot-refused",
        f"it asks for {what}, which RD-Agent never writes.",
        "Do not trust this file; nothing of it was run.",
    )
