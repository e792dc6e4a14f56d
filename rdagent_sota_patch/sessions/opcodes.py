"""Walk a pickle's opcodes without running any, to refuse what would hurt the C unpickler itself.

Inert classes keep a file from calling anything. They do not keep it from exhausting the process:
``LONG_BINPUT`` makes the unpickler allocate a memo of any size, the hash of deeply nested tuples
overflows the C stack, and extension codes hand out real objects from ``copyreg``'s cache without
asking ``find_class``. RD-Agent writes none of these, so a file that does is refused unread.
"""

from __future__ import annotations

import pickletools
from enum import IntEnum
from typing import NamedTuple

from rdagent_sota_patch.errors import SnapshotError

_MOST_NESTED_TUPLES = 500
"""Upstream's deepest is under ten; the C stack holds tens of thousands."""

MOST_OPCODES = 8_000_000
"""In an untrusted file. Each may cost the unpickler 200 bytes; a thousand loops have two million."""

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


class _Kind(IntEnum):
    """What an opcode does to the unpickler's stack, as far as nesting is concerned."""

    PUSH = 0
    TEXT = 1
    MEMOIZE = 2
    GET = 3
    MARK = 4
    POP = 5
    WRAP_ONE = 6
    TAKE = 7
    TAKE_TO_MARK = 8
    PUT = 9
    DUP = 10
    LINES = 11
    TEXT_INDEX = 12
    STOP = 13
    REFUSED = 14
    UNKNOWN = 15


class _Opcode(NamedTuple):
    kind: _Kind
    size: int
    """Bytes of the opcode and its fixed argument, bytes of the length prefix, or number of text lines."""
    takes: int
    """Values taken from below the mark when there is one, else from the top."""
    gives: int
    wraps: bool
    """Whether the result is hashable and one level deeper than what it is made of."""
    name: str


_NAMED = {
    "MEMOIZE": _Kind.MEMOIZE,
    "BINGET": _Kind.GET,
    "LONG_BINGET": _Kind.GET,
    "BINPUT": _Kind.PUT,
    "LONG_BINPUT": _Kind.PUT,
    "PUT": _Kind.TEXT_INDEX,
    "GET": _Kind.TEXT_INDEX,
    "MARK": _Kind.MARK,
    "POP": _Kind.POP,
    "DUP": _Kind.DUP,
    "STOP": _Kind.STOP,
    "TUPLE1": _Kind.WRAP_ONE,
    **dict.fromkeys(_REFUSED, _Kind.REFUSED),
}


def _describe(opcode: pickletools.OpcodeInfo) -> _Opcode:
    before = list(opcode.stack_before)
    takes_mark = pickletools.markobject in before
    takes = before.index(pickletools.markobject) if takes_mark else len(before)
    gives = len(opcode.stack_after)
    if opcode.name in _IN_PLACE:
        takes, gives = takes - 1, 0
    kind, size = _Kind.TAKE_TO_MARK if takes_mark else _Kind.TAKE, 1
    if not takes_mark and (takes, gives) == (0, 1):
        kind = _Kind.PUSH
    if opcode.arg is not None:
        if opcode.arg.n == pickletools.UP_TO_NEWLINE:
            # GLOBAL and INST carry module and name, each on its own line.
            kind, size = _Kind.LINES, 2 if opcode.arg.name == "stringnl_noescape_pair" else 1
        elif opcode.arg.n < 0:
            kind, size = _Kind.TEXT, _PREFIX_BYTES[opcode.arg.n]
        else:
            size += opcode.arg.n
    kind = _NAMED.get(opcode.name, kind)
    return _Opcode(kind, size, takes, gives, opcode.name in _TUPLES, opcode.name)


_TABLE = [_Opcode(_Kind.UNKNOWN, 1, 0, 0, False, "")] * 256
for _info in pickletools.opcodes:
    _TABLE[ord(_info.code)] = _describe(_info)
# As lists of whole numbers: a loop over millions of opcodes is what this costs.
_KINDS = [int(opcode.kind) for opcode in _TABLE]
_SIZES = [opcode.size for opcode in _TABLE]
_PUSH, _TEXT, _MEMOIZE, _GET, _MARK, _POP, _WRAP_ONE, _TAKE, _TAKE_TO_MARK, _PUT, _DUP, *_ = map(int, _Kind)


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


def _walk(payload: bytes) -> None:  # noqa: PLR0912, PLR0915 - calls for each opcode would halve its speed
    """Follow the opcodes to STOP, keeping of each stack entry only how deeply its tuples nest."""
    end, position = len(payload), 0
    kinds, sizes = _KINDS, _SIZES
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    for _ in range(MOST_OPCODES):
        if position >= end:
            raise _Incomplete
        start = position + 1
        code = payload[position]
        kind = kinds[code]
        if kind == _TEXT:
            body = start + sizes[code]
            position = body + int.from_bytes(payload[start:body], "little")
        elif kind < _TAKE_TO_MARK or kind == _PUT:
            position += sizes[code]
        if position > end:
            raise _Incomplete
        if kind <= _TEXT:
            if _TABLE[code].gives:
                stack.append(0)
        elif kind == _MEMOIZE:
            memo[len(memo)] = stack[-1]
        elif kind == _GET:
            stack.append(memo.get(int.from_bytes(payload[start:position], "little"), 0))
        elif kind == _MARK:
            marks.append(len(stack))
        elif kind == _POP:
            # The unpickler's POP takes a mark away when that is what is on top.
            (marks if marks and marks[-1] == len(stack) else stack).pop()
        elif kind == _WRAP_ONE:
            depth = stack[-1] + 1
            if depth > _MOST_NESTED_TUPLES:
                raise _too_deep()
            stack[-1] = depth
        elif kind == _PUT:
            index = int.from_bytes(payload[start:position], "little")
            if index > end:
                raise _memo_refusal(index)
            memo[index] = stack[-1]
        elif kind == _DUP:
            position = start
            stack.append(stack[-1])
        elif kind <= _TAKE_TO_MARK:
            opcode = _TABLE[code]
            position = start + opcode.size - 1
            _take(opcode, stack, marks)
        elif kind == _Kind.LINES:
            position = _after_lines(payload, start, sizes[code])
            _take(_TABLE[code], stack, marks)
        elif kind == _Kind.TEXT_INDEX:
            position = _after_lines(payload, start, 1)
            index = _memo_index(payload[start:position], end)
            if _TABLE[code].gives:
                stack.append(memo.get(index, 0))
            else:
                memo[index] = stack[-1]
        elif kind == _Kind.STOP:
            return
        elif kind == _Kind.REFUSED:
            name = _TABLE[code].name
            raise _refusal(f"{_REFUSED[name]} ({name})")
        else:
            raise IndexError(position)
    raise _refusal(f"more than {MOST_OPCODES:,} opcodes")


def _take(opcode: _Opcode, stack: list[int], marks: list[int]) -> None:
    floor = (
        marks.pop() if opcode.kind == _TAKE_TO_MARK or opcode.name == "INST" else len(stack)
    ) - opcode.takes
    if floor < 0:
        raise IndexError(floor)
    depth = 0
    if opcode.wraps:
        depth = 1 + max(stack[floor:]) if floor < len(stack) else 1
        if depth > _MOST_NESTED_TUPLES:
            raise _too_deep()
    del stack[floor:]
    if opcode.gives:
        stack.append(depth)


def _after_lines(payload: bytes, start: int, lines: int) -> int:
    for _ in range(lines):
        start = payload.find(b"\n", start) + 1
        if start == 0:
            raise _Incomplete
    return start


def _memo_index(argument: bytes, most: int) -> int:
    digits = argument.strip()
    # Longer than any offset into the file, and int() takes quadratic time on huge literals.
    if not digits.isdigit() or len(digits) > 20:
        raise _refusal("a memo index that is not a number")
    if int(digits) > most:
        raise _memo_refusal(int(digits))
    return int(digits)


def _memo_refusal(index: int) -> SnapshotError:
    return _refusal(f"memo entry {index}, more than the file has bytes")


def _too_deep() -> SnapshotError:
    return _refusal(f"tuples nested more than {_MOST_NESTED_TUPLES} deep")


def _refusal(what: str) -> SnapshotError:
    return SnapshotError(
        "snapshot-refused",
        f"it asks for {what}, which RD-Agent never writes.",
        "Do not trust this file; nothing of it was run.",
    )
