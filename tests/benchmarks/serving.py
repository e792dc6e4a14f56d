"""The results API: its anchor, warm and cold, and 200 clients while a run is writing its log."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from itertools import count, cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.comparison import Bound, Comparison, Limit, compare
from tests.benchmarks.http_clients import ask_all, serving
from tests.benchmarks.locating import LOOPS
from tests.benchmarks.locating import MODULE as LOCATING
from tests.benchmarks.processes import run_child

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.http_clients import Answer

MODULE = "serving"
_ROUNDS = 5
_COLD_ROUNDS = 21
_CONNECTIONS = 8
_REQUESTS = 3000
_CLIENTS = 200
_SECONDS = 60
_WRITING_SECONDS = 50
_OTHER_LOOPS = 7
_ANCHOR = "/tasks/run/sota_factor_anchor"


def measure(folder: Path, log: Path) -> list[Comparison]:
    """Measure on ``log``, which has ``LOOPS`` loops, and on logs made of its snapshots in ``folder``."""
    place = folder / "serving"
    root = place / "log"
    _take_loops(log, root / "run", LOOPS)
    _take_loops(log, root / "small", 1)
    warm, p99, health, cold, located = [], [], [], [], []
    for _ in range(_ROUNDS):
        measured = run_child(MODULE, ["ask", root, _ANCHOR], place)
        warm.append(measured["each"])
        p99.append(measured["p99"])
        health.append(run_child(MODULE, ["ask", root, "/health"], place)["each"])
    for _ in range(_COLD_ROUNDS):
        cold.append(run_child(MODULE, ["cold", root], place))
        located.append(run_child(LOCATING, ["ours", log], place))
    live_root = place / "live"
    _take_loops(log, live_root / "other", _OTHER_LOOPS)
    # Written again, so that it is the newest from the beginning.
    _take_loops(log, live_root / "run", 1, take=shutil.copyfile)
    live = run_child(MODULE, ["live", live_root, log], place)
    return [
        compare(
            f"anchor of {LOOPS} loops, a request of {_CONNECTIONS} connections' / of /health",
            "ms",
            warm,
            health,
            Limit(Bound.AMOUNT, 2),
        ),
        compare("the same, 99 of 100 are answered within", "ms", p99, (), Limit(Bound.AMOUNT, 20)),
        compare(
            "the same, never asked for before / read_session and locate_sota",
            "ms",
            cold,
            located,
            Limit(Bound.RATIO, 1.2),
        ),
        compare(
            f"wrong among {live['requests']:,} answers to {_CLIENTS} clients while a log is written",
            "answers",
            [live["wrong"]],
            (),
            Limit(Bound.AMOUNT, 0),
        ),
        compare("the same, 99 of 100 are answered within", "ms", [live["p99"]]),
    ]


def _take_loops(log: Path, target: Path, loops: int, take: Callable[[Path, Path], object] = os.link) -> None:
    """A log of the first loops: of the same files, or of copies of them."""
    for loop in range(loops):
        folder = target / "__session__" / str(loop)
        folder.mkdir(parents=True)
        for snapshot in (log / "__session__" / str(loop)).iterdir():
            take(snapshot, folder / snapshot.name)


def _serve(root: Path) -> None:
    from rdagent_sota_patch.results.service import Folders
    from rdagent_sota_patch.server.access import Access
    from rdagent_sota_patch.server.app import create_app
    from rdagent_sota_patch.server.server import ServerOptions, run_server

    app = create_app(Folders(root, root.with_name("cache")), Access(None, None))
    run_server(app, ServerOptions(port=0), lambda url: print(url, flush=True))


def _ask(root: Path, path: str) -> dict[str, float]:
    """Milliseconds of each of many requests on a few kept connections."""
    took: list[float] = []

    def look(answer: Answer) -> None:
        if answer.status != 200:
            raise RuntimeError(f"answered {answer}")
        took.append(answer.came - answer.asked)

    with serving(MODULE, "serve", root) as (_, port):
        for requests in (_REQUESTS // 10, _REQUESTS):
            paths = iter([path] * requests)
            took.clear()
            start = time.perf_counter()
            ask_all(port, _CONNECTIONS, lambda paths=paths: next(paths, None), look)
            seconds = time.perf_counter() - start
    return {"each": seconds / _REQUESTS * 1e3, "p99": _ninety_ninth(took)}


def _ninety_ninth(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1e3


def _cold(root: Path) -> float:
    """Processor time of the first request for a log, after one for a log of one loop, in milliseconds."""
    from rdagent_sota_patch.results.service import Folders
    from rdagent_sota_patch.server.access import Access
    from rdagent_sota_patch.server.app import create_app

    app = create_app(Folders(root, root.with_name("cache")), Access(None, None))

    async def ask(path: str) -> list[Any]:
        received: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            received.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await app(scope, receive, send)
        return received

    async def time_it() -> float:
        await ask(_ANCHOR.replace("run", "small"))
        gc.collect()
        start = time.process_time()
        received = await ask(_ANCHOR)
        seconds = time.process_time() - start
        anchor = json.loads(b"".join(message.get("body", b"") for message in received))
        assert anchor["hist_len"] == LOOPS, anchor
        return seconds * 1e3

    return asyncio.run(time_it())


class _Watch:
    """What clients saw of a run that goes on: anything that must not be is counted, the first is told."""

    def __init__(self) -> None:
        self.took: list[float] = []
        self.wrong = 0
        self.longest = 0
        self._reached = [(0.0, 0)]
        self._other: bytes | None = None

    def look(self, answer: Answer) -> None:
        self.took.append(answer.came - answer.asked)
        problem = self._find_problem(answer)
        if problem:
            self.wrong += 1
            if self.wrong == 1:
                print(f"{problem}: {answer}"[:2000], file=sys.stderr)

    def _find_problem(self, answer: Answer) -> str:
        if answer.status != 200:
            return f"status {answer.status}"
        if answer.etag != hashlib.sha256(answer.body).hexdigest():
            return "another content than its tag says"
        if "asset_bytes" in answer.path or answer.path.startswith("/tasks?"):
            return ""
        document = json.loads(answer.body)
        asked_for = answer.path.split("/")[2]
        if document["task_id"] != ("other" if asked_for == "other" else "run"):
            return "another run's answer"
        if asked_for == "other":
            self._other = self._other or answer.body
            return "" if answer.body == self._other else "a run that changed, and was not written to"
        length = document["hist_len"]
        # Against what was known when it was asked for: answers on several connections may overtake one another.
        known = max(reached for came, reached in self._reached if came <= answer.asked)
        if length > self.longest:
            self.longest = length
            self._reached.append((answer.came, length))
        return "" if length >= known else f"a history of {length} loops after one of {known}"


def _live(root: Path, log: Path) -> dict[str, float]:
    watch = _Watch()
    paths = cycle(
        [
            _ANCHOR,
            "/tasks/other/sota_factor_anchor",
            "/tasks/latest/sota_factor_anchor",
            "/tasks/run/asset_bytes?key=factor.py",
            "/tasks/other/asset_bytes?key=factor.py",
            "/tasks?limit=2",
        ]
    )
    with serving(MODULE, "serve", root) as (_, port):
        command = [sys.executable, __file__, "write", str(log), str(root / "run")]
        with subprocess.Popen(command) as writer:
            end = time.perf_counter() + _SECONDS
            ask_all(port, _CLIENTS, lambda: next(paths) if time.perf_counter() < end else None, watch.look)
            if writer.wait():
                raise RuntimeError("the log could not be written")
        wrong = watch.wrong + (watch.longest != LOOPS)
    return {"requests": len(watch.took), "wrong": wrong, "p99": _ninety_ninth(watch.took)}


def _write(log: Path, target: Path) -> None:
    """Write the log's later snapshots as RD-Agent does, in place; each is torn for a while."""
    session = log / "__session__"
    snapshots = [file for loop in range(1, LOOPS) for file in sorted((session / str(loop)).iterdir())]
    start = time.monotonic()
    for number, snapshot in zip(count(1), snapshots, strict=False):
        folder = target / "__session__" / snapshot.parent.name
        folder.mkdir(exist_ok=True)
        content = snapshot.read_bytes()
        due = start + _WRITING_SECONDS * number / len(snapshots)
        with (folder / snapshot.name).open("wb") as file:
            for part in (content[:100], content[100 : len(content) // 2], content[len(content) // 2 :]):
                file.write(part)
                file.flush()
                time.sleep(max((due - time.monotonic()) / 2, 0))


def _main(mode: str, *arguments: str) -> None:
    paths = [Path(argument) for argument in arguments]
    if mode == "serve":
        _serve(paths[0])
    elif mode == "write":
        _write(*paths)
    elif mode == "ask":
        print(json.dumps(_ask(paths[0], arguments[1])))
    elif mode == "cold":
        print(json.dumps(_cold(paths[0])))
    else:
        print(json.dumps(_live(*paths)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
