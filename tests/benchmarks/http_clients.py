"""HTTP clients for measuring, on bare sockets: quicker than any library, so that the server is what is measured."""

from __future__ import annotations

import re
import selectors
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_TAG = re.compile(rb'\r\netag: "([^"]*)"\r\n', re.IGNORECASE)
_CHUNK = 1 << 20


@contextmanager
def serving(module: str, *arguments: str | Path) -> Iterator[tuple[int, int]]:
    """Run a module of this package as a server that prints its URL; its process and its port."""
    command = [sys.executable, str(Path(__file__).with_name(f"{module}.py")), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline()
            if not url:
                raise RuntimeError(f"{' '.join(command)} does not serve")
            yield process.pid, int(url.rpartition(":")[2])
        finally:
            process.terminate()


def download(port: int, size: int) -> None:
    """Take ``size`` bytes of an answer, and drop them."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /asset HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1 << 10)
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"answered {head!r}")
        left = size - len(head.partition(b"\r\n\r\n")[2])
        buffer = bytearray(_CHUNK)
        while left:
            taken = client.recv_into(buffer)
            if not taken:
                raise RuntimeError(f"ended {left} bytes early")
            left -= taken


@dataclass(frozen=True, slots=True)
class Answer:
    """What came, and when it was asked for and had come, by ``time.perf_counter``."""

    path: str
    status: int
    etag: str
    body: bytes
    asked: float
    came: float


class _Client:
    """One connection that always has one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self._path = ""
        self._asked = 0.0
        self._received = bytearray()
        self._end: int | None = None

    def ask(self, path: str) -> None:
        self._path, self._asked, self._end = path, time.perf_counter(), None
        self._received.clear()
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def take(self) -> Answer | None:
        """Read what there is; the answer when it is complete."""
        chunk = self.socket.recv(_CHUNK)
        if not chunk:
            raise RuntimeError(f"the server closed while it was asked for {self._path}")
        self._received += chunk
        if self._end is None:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return None
            length = _LENGTH.search(self._received, 0, head + 2)
            if length is None:
                raise RuntimeError(f"no length: {self._received[:head]!r}")
            self._end = head + 4 + int(length[1])
        if len(self._received) < self._end:
            return None
        head = self._received.find(b"\r\n\r\n")
        tag = _TAG.search(self._received, 0, head + 2)
        return Answer(
            self._path,
            int(self._received[9:12]),
            tag[1].decode() if tag else "",
            bytes(self._received[head + 4 : self._end]),
            self._asked,
            time.perf_counter(),
        )


def ask_all(
    port: int, clients: int, next_path: Callable[[], str | None], look: Callable[[Answer], None]
) -> None:
    """Keep ``clients`` connections asking, each again once it is answered, until there is no next path."""
    with selectors.DefaultSelector() as selector:
        open_clients = [_Client(port) for _ in range(clients)]
        for client in open_clients:
            path = next_path()
            if path is not None:
                client.ask(path)
                selector.register(client.socket, selectors.EVENT_READ, client)
        while selector.get_map():
            for key, _ in selector.select():
                answer = key.data.take()
                if answer is None:
                    continue
                look(answer)
                path = next_path()
                if path is None:
                    selector.unregister(key.fileobj)
                else:
                    key.data.ask(path)
        for client in open_clients:
            client.socket.close()
