"""The process that reads logs for the server: for each one a child, which the server can have ended.

Orders come as lines of JSON on stdin: ``{"id", "log", "key", "target"}`` starts a reading, ``{"end": id}`` ends one.
With ``workspace`` and ``hint`` in place of ``log``, the lines of a back-test are read.
With ``logs`` in place of ``log``, one child reads all of them, and gives an outline of each as soon as it has it.
For each child that has ended, its id goes to stdout, after a 0 for being ready. What was read is in ``target``.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import selectors
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.errors import SnapshotError, SotaError
from rdagent_sota_patch.results.describing import RunOutline, outline_run
from rdagent_sota_patch.sessions.budget import most_factors
from rdagent_sota_patch.sessions.records import Session, Signature
from rdagent_sota_patch.sessions.snapshots import read_session

if TYPE_CHECKING:
    from rdagent_sota_patch.results.curves import Curves

_MOST_MEMORY = 4 << 30
LENGTH = 8
"""Bytes of the length in front of each outline."""
_LOWER = 10
"""Whoever only reads gives way to what answers."""


def main() -> None:
    """Read until stdin ends; then end what is being read."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    children: dict[int, int] = {}
    waiting = b""
    os.write(1, b"0\n")
    with selectors.DefaultSelector() as selector:
        for file in (0, wake):
            selector.register(file, selectors.EVENT_READ)
        while True:
            ready = {key.fd for key, _ in selector.select()}
            if wake in ready:
                os.read(wake, 4096)
                _report_ended(children)
            if 0 in ready:
                said = os.read(0, 1 << 16)
                if not said:
                    break
                *lines, waiting = (waiting + said).split(b"\n")
                for line in lines:
                    _follow(json.loads(line), children)
    for pid in children:
        _kill(pid)


def pack(outcome: Session | RunOutline | Curves | SotaError) -> bytes:
    """A session, its outline, a back-test's lines, or what is wrong, as bytes that `unpack` takes."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = {MappingProxyType: lambda mapping: (_mapping, (dict(mapping),))}
    pickler.dump((type(outcome), outcome.problems) if isinstance(outcome, SotaError) else outcome)
    return file.getvalue()


def unpack(content: bytes | memoryview) -> Any:
    """What `pack` was given. For bytes of this package's own process alone: they are unpickled."""
    found = pickle.loads(content)
    if not isinstance(found, tuple):
        return found
    kind, problems = found
    error: SotaError = kind.of(problems)
    return error


def _mapping(items: dict[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(items)


def _report_ended(children: dict[int, int]) -> None:
    while children:
        pid, _ = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        os.write(1, b"%d\n" % children.pop(pid))


def _follow(order: dict[str, Any], children: dict[int, int]) -> None:
    if "end" in order:
        for pid, number in children.items():
            if number == order["end"]:
                _kill(pid)
        return
    pid = os.fork()
    if pid:
        children[pid] = order["id"]
        return
    # In the child: whatever happens, it must not go on as the process that it was forked from.
    code = 1
    try:
        _read(order)
        code = 0
    finally:
        os._exit(code)


def _read(order: dict[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    os.close(0)
    os.nice(_LOWER)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    key = None if order["key"] is None else bytes.fromhex(order["key"])
    if "workspace" in order:
        # Not needed for logs, and pandas takes its time.
        from rdagent_sota_patch.mlruns.recorder import parse_hint
        from rdagent_sota_patch.results.curves import read_curves

        hint = None if order["hint"] is None else parse_hint(order["hint"])
        Path(order["target"]).write_bytes(pack(read_curves(Path(order["workspace"]), hint)))
        return
    if "log" in order:
        Path(order["target"]).write_bytes(pack(_read_session(order["log"], key)))
        return
    with Path(order["target"]).open("wb") as file:
        for log in order["logs"]:
            outcome = _read_session(log, key)
            content = pack(outline_run(outcome) if isinstance(outcome, Session) else outcome)
            file.write(len(content).to_bytes(LENGTH, "big") + content)
            file.flush()


def _read_session(log: str, key: bytes | None) -> Session | SotaError:
    try:
        session = read_session(Path(log), key=key)
        _require_describable(session)
    except SotaError as error:
        return error
    return session


def _require_describable(session: Session) -> None:
    sota = session.sota
    factors = sum(len(each.factors) for each in session.experiments)
    factors += 0 if sota is None else sum(1 + len(each.factors) for each in sota.based_on)
    most = most_factors(session.signature is Signature.VERIFIED)
    if factors > most:
        raise SnapshotError(
            "snapshot-too-large",
            f"{session.snapshot}: it names {factors:,} factors, and {most:,} are the most that are served.",
            "rdagent-sota inspect shows what it says.",
        )


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
