"""A server of the package's own in a thread of the tests, and the barest of clients."""

from __future__ import annotations

import queue
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rdagent_sota_patch.server.server import Limits, Server, ServerOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp


@contextmanager
def running(app: ASGIApp, limits: Limits | None = None) -> Iterator[int]:
    """Serve ``app`` on a free port of 127.0.0.1, which is given, until the block ends."""
    announced: queue.Queue[str] = queue.Queue()
    server = Server(app, ServerOptions(port=0, limits=limits or Limits(stop_seconds=1)), announced.put)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield int(announced.get(timeout=10).rpartition(":")[2])
    finally:
        server.stop()
        thread.join(10)
    assert not thread.is_alive()


def talk(port: int, sent: bytes, *, timeout: float = 10) -> bytes:
    """Everything that the server answers to ``sent`` until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        client.sendall(sent)
        return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """What comes until the server closes, be it in good order or not."""
    received = bytearray()
    try:
        while chunk := client.recv(1 << 20):
            received += chunk
    except ConnectionResetError:
        pass
    return bytes(received)


def head_and_body(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, header fields in lower case and body of one answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), fields, body
