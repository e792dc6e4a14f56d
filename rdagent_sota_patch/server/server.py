"""uvicorn on a socket of ours, stopped by signals; and what a client's connection may hold.

uvicorn bounds neither the time in which a request's head must come nor how long an answer may wait to be read. So each
of its connections is behind one of ours, which is told what the system tells a protocol, and bounded by `Limits`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.server.problems import describe_problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.types import ASGIApp, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may hold.

    Attributes:
        connections: The most at a time; further ones are answered 503, and of twice as many none is taken.
        header_bytes: Of request line and header fields that have come, while more is waited for.
        header_seconds: In which they must have come, from the connection or their first byte on.
        keep_alive_seconds: For which a connection may be idle between requests.
        stall_seconds: In which a client must take some of what waits for it.
        stop_seconds: Which an answer under way still has when the server is stopped.
    """

    connections: int = 512
    header_bytes: int = 16 << 10
    header_seconds: float = 10
    keep_alive_seconds: int = 15
    stall_seconds: float = 60
    stop_seconds: int = 5


class Connection(asyncio.Protocol):
    """A client's connection: uvicorn's protocol does the work, and here is watched how long the client takes."""

    def __init__(self, inner: H11Protocol, limits: Limits, connections: set[Connection]) -> None:
        """Nothing is connected yet.

        Args:
            inner: Told of everything.
            limits: Of the client.
            connections: All that are open; this one enters itself.
        """
        self._inner = inner
        self._limits = limits
        self._connections = connections
        self._task: asyncio.Task[Any] | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, unless there are far too many connections."""
        self._transport = transport
        self._connections.add(self)
        self._inner.connection_made(transport)
        if len(self._connections) > 2 * self._limits.connections:
            transport.abort()
            return
        # Told of every byte that the system does not take at once: no answer waits unwatched.
        transport.set_write_buffer_limits(high=0)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all watching."""
        _cancel(self._head_timer)
        _cancel(self._stall_timer)
        self._connections.discard(self)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that has begun must be complete in time, however its bytes trickle."""
        if self._task is None and self._head_timer is None:
            self._expect_head()
        token = _CONNECTION.set(self)
        try:
            self._inner.data_received(data)
        except h11.LocalProtocolError:
            # uvicorn's answer to nonsense does not fit into an answer that has begun.
            self._transport.abort()
        finally:
            _CONNECTION.reset(token)

    def eof_received(self) -> None:
        """Leave it to uvicorn."""
        self._inner.eof_received()

    def pause_writing(self) -> None:
        """Begin to watch an answer that the client does not take."""
        self._inner.pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Stop watching: all is taken."""
        self._inner.resume_writing()
        _cancel(self._stall_timer)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While a request is answered, no other is waited for."""
        _cancel(self._head_timer)
        self._head_timer = None
        self._task = asyncio.current_task()
        try:
            yield
        finally:
            self._task = None

    def let_go(self) -> None:
        """End it, and the answer that is under way."""
        self._transport.abort()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _expect_head(self) -> None:
        loop = asyncio.get_running_loop()
        self._head_timer = loop.call_later(self._limits.header_seconds, self._transport.abort)

    def _watch_writing(self) -> None:
        left = self._transport.get_write_buffer_size()
        loop = asyncio.get_running_loop()
        self._stall_timer = loop.call_later(self._limits.stall_seconds, self._look_at_writing, left)

    def _look_at_writing(self, left: int) -> None:
        if self._transport.get_write_buffer_size() < left:
            self._watch_writing()
        else:
            self._transport.abort()


_CONNECTION: ContextVar[Connection] = ContextVar("connection")
"""Whose bytes are read: the task that answers them begins in this context."""


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


async def _refuse(scope: Scope, _: Receive, send: Send) -> None:
    busy = ApiError(
        "server-busy", "The server has as many connections as it takes.", "Try again in a moment."
    )
    document = describe_problem(busy, scope["path"]).model_copy(update={"status": 503})
    body = document.model_dump_json().encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
        (b"retry-after", b"1"),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


_TICK = 0.05
"""Seconds after which a stop is noticed."""

_OTHER_FILES = 128
"""Descriptors that are not a connection's: snapshots being read, bundles being built."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where to listen, and what clients may hold.

    Attributes:
        host: A name or an address, such as ``127.0.0.1``, ``localhost`` or ``::1``.
        port: 0 for one that is free.
        limits: Of each connection and of all.
    """

    host: str = "127.0.0.1"
    port: int = 8900
    limits: Limits = field(default_factory=Limits)


def run_server(app: ASGIApp, options: ServerOptions, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, and end what is under way; a second signal ends at once.

    Args:
        app: An ASGI application.
        options: Where and how.
        announce: Called with the URL once requests are answered, with the true port.

    Raises:
        ApiError: ``cannot-listen``, ``too-few-open-files``.
    """
    server = Server(app, options, announce)
    # In a thread, where uvicorn leaves signals alone: it would raise them again once it has stopped for them.
    with ThreadPoolExecutor(1) as thread, _stopped_by_signals(server):
        serving = thread.submit(server.run)
        while wait([serving], timeout=_TICK).not_done:
            pass
    serving.result()


@contextmanager
def _stopped_by_signals(server: Server) -> Iterator[None]:
    before = {
        number: signal.signal(number, lambda *_: server.stop()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Server:
    """The server itself, for those that run it in a thread of theirs."""

    def __init__(self, app: ASGIApp, options: ServerOptions, announce: Callable[[str], None]) -> None:
        """Nothing is listened to yet; see `run_server` for the arguments."""
        limits = options.limits
        self._app = app
        self._options = options
        self._announce = announce
        self._connections: set[Connection] = set()
        self._stopped = threading.Event()
        self._at_once = threading.Event()

        def connect(**given: Any) -> Connection:
            return Connection(H11Protocol(**given), limits, self._connections)

        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                self._answer,
                http=connect,  # type: ignore[arg-type]
                # Named, so that the same server runs wherever uvloop or websockets happen to be installed.
                loop="asyncio",
                ws="none",
                interface="asgi3",
                log_config=None,
                log_level="error",
                access_log=False,
                # The client's address is not used, and headers that claim one could be forged.
                proxy_headers=False,
                server_header=False,
                h11_max_incomplete_event_size=limits.header_bytes,
                timeout_keep_alive=limits.keep_alive_seconds,
                timeout_graceful_shutdown=limits.stop_seconds,
            )
        )

    def run(self) -> None:
        """Listen and serve until stopped.

        Raises:
            ApiError: ``cannot-listen``, ``too-few-open-files``.
        """
        _allow_open_files(self._options.limits.connections)
        with listen(self._options.host, self._options.port) as listener:
            asyncio.run(self._serve(listener))

    def stop(self) -> None:
        """Stop, once what is under way is answered or its time is over; called again, at once. From any thread."""
        if self._stopped.is_set():
            self._at_once.set()
        self._stopped.set()

    async def _serve(self, listener: socket.socket) -> None:
        serving = asyncio.ensure_future(self._uvicorn.serve([listener]))
        announced = False
        while not serving.done():
            if self._uvicorn.started and not announced:
                address, port = listener.getsockname()[:2]
                self._announce(f"http://{f'[{address}]' if ':' in address else address}:{port}")
                announced = True
            self._uvicorn.should_exit |= self._stopped.is_set()
            if self._at_once.is_set():
                for connection in tuple(self._connections):
                    connection.let_go()
            await asyncio.wait([serving], timeout=_TICK)
        await serving

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = _CONNECTION.get()
        app = self._app if len(self._connections) <= self._options.limits.connections else _refuse
        with connection.answering():
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                # The server is stopped and the time for it is over; it cancels for nothing else.
                connection.let_go()
                # uvicorn is told of it by the loop, and would report an answer that does not end.
                await asyncio.sleep(0)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ApiError: ``cannot-listen``: the port is taken or not allowed, or the host is not this machine's.
    """
    try:
        if not host:
            # To the system it would mean every address there is.
            raise OSError("no host is named")
        if not 0 <= port < 1 << 16:
            # The resolver would take it modulo 65,536.
            raise OSError("that port does not exist")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol by number: without, asyncio does not take the connections for TCP and leaves Nagle's
        # algorithm on, and every answer waits 40 ms for an acknowledgement.
        listener = socket.socket(family, kind, protocol or socket.IPPROTO_TCP)
        try:
            if os.name == "posix":
                # For a port that a server has just left; elsewhere it would let two servers share one.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
        except BaseException:
            listener.close()
            raise
        return listener
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ApiError(
            "cannot-listen",
            f"Cannot listen on {host}, port {port}: {reason}.",
            "Choose another --port, 0 for any that is free, or a --host that this machine has.",
        ) from error


def _allow_open_files(connections: int) -> None:
    """See to it that every connection can have a file, and as many more can be turned away.

    Raises:
        ApiError: ``too-few-open-files``.
    """
    if os.name != "posix":
        return
    import resource

    needed = 3 * connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ApiError(
            "too-few-open-files",
            f"This system lets the server open {hard} files; for {connections} connections it needs {needed}.",
            "Raise the limit (`ulimit -Hn`).",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
