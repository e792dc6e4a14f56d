"""The application in a process of its own on a free port, and what tests ask of it.

Run as a script it is that process: ``python served.py LOG_ROOT CACHE [TOKEN_FILE [ORIGIN…]]``.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TIMEOUT = 30.0
_PATIENCE = 0.7


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        headers: Names in lower case; of several fields of one name the last.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        said: File of all that it wrote to stdout and stderr.
    """

    port: int
    pid: int
    said: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, target: str, method: str = "GET", **headers: str) -> Answer:
        """Ask for a target as it is, without any tidying; header names with ``_`` for ``-``."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_TIMEOUT)
        try:
            connection.request(
                method, target, headers={name.replace("_", "-"): value for name, value in headers.items()}
            )
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def asset(self, task: str, key: str, **headers: str) -> Answer:
        """Ask for an asset, its names quoted as a client would."""
        return self.get(f"/tasks/{quote(task, safe='')}/asset_bytes?key={quote(key, safe='')}", **headers)

    def send(self, request: bytes) -> bytes:
        """All that comes back for these bytes until the server closes; what it waits for, it is told, will not come."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE) as client:
            try:
                client.sendall(request)
                while True:
                    try:
                        chunk = client.recv(1 << 16)
                    except TimeoutError:
                        client.shutdown(socket.SHUT_WR)
                        client.settimeout(_TIMEOUT)
                        continue
                    if not chunk:
                        break
                    received += chunk
            except (ConnectionResetError, BrokenPipeError):
                # It may close before it has read all of what is not a request.
                pass
        return received

    def open_files(self) -> int:
        """How many file descriptors it holds."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    @property
    def output(self) -> str:
        return self.said.read_text(errors="replace")


@contextmanager
def serving(
    root: Path, *, token_file: Path | None = None, origins: tuple[str, ...] = (), key: str = ""
) -> Iterator[Served]:
    """Serve a log root until the block ends; that must leave the server well and end it in good order.

    Args:
        key: RD-Agent's signing key, if the machine has it.
    """
    with tempfile.TemporaryDirectory(prefix="serving-") as home:
        said = Path(home, "said")
        environ = {**os.environ, "HOME": home, "ARTIFACT_SIGNING_KEY": key, "PYTHONWARNINGS": "ignore"}
        arguments = [str(root), str(Path(home, "cache")), str(token_file or ""), *origins]
        with (
            said.open("wb") as sink,
            subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve()), *arguments],
                cwd=home,
                env=environ,
                stdout=subprocess.PIPE,
                stderr=sink,
            ) as process,
        ):
            try:
                assert process.stdout is not None
                url = process.stdout.readline().decode().strip()
                assert url, f"It did not start:\n{said.read_text()[-3000:]}"
                yield Served(int(url.rpartition(":")[2]), process.pid, said)
                assert process.poll() is None, "It ended."
            finally:
                process.terminate()
                process.wait(30)
        assert process.returncode == 0


def _main(root: str, cache: str, token_file: str = "", *origins: str) -> None:
    from rdagent_sota_patch.results.service import Folders
    from rdagent_sota_patch.server.access import decide_access
    from rdagent_sota_patch.server.app import create_app
    from rdagent_sota_patch.server.server import ServerOptions, run_server

    access = decide_access("127.0.0.1", Path(token_file) if token_file else None)
    app = create_app(Folders(Path(root), Path(cache)), access, origins)
    run_server(app, ServerOptions(port=0), lambda url: print(url, flush=True))


if __name__ == "__main__":
    _main(*sys.argv[1:])
