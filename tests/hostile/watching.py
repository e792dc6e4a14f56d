"""Readers under watch: whatever they import, start, connect or compile fails the test."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, NoReturn

# The package imports it when it first meets a file that is not verified.
import rdagent_sota_patch.sessions.opcodes  # noqa: F401
from rdagent_sota_patch.sessions import inert, snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rdagent_sota_patch.sessions.records import Session

_FORBIDDEN = ("os.", "subprocess.", "socket.", "import", "exec", "compile", "pickle.", "ctypes.", "shutil.")
_NEEDED = ("os.listdir", "os.scandir")
_events: list[str] | None = None


def _note(event: str, _: tuple[object, ...]) -> None:
    if _events is not None and event.startswith(_FORBIDDEN) and event not in _NEEDED:
        _events.append(event)


# An audit hook stays for the life of the process: installed once, listening only to reads.
sys.addaudithook(_note)


class _NoImports:
    """Fails any import that is not already done."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> NoReturn:
        raise AssertionError(f"reading a file imported {name}")


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Fail when anything but reading files happens inside."""
    global _events  # noqa: PLW0603
    finder = _NoImports()
    sys.meta_path.insert(0, finder)
    noted: list[str] = []
    _events = noted
    try:
        yield
    finally:
        _events = None
        sys.meta_path.remove(finder)
        assert noted == [], "reading a file raised audit events"


def read_inert(data: bytes, *, trusted: bool = False) -> Any:
    with watching():
        return inert.read_inert(data, trusted=trusted)


def read_session(path: Path) -> Session:
    with watching():
        return snapshots.read_session(path)
