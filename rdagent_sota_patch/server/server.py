"""uvicorn on a socket of ours, stopped by signals; a client's connection: its limits, and files sent by the kernel.

uvicorn bounds neither the time in which a request's head must come nor how long an answer may wait to be read, and
it would pass every byte of a file through Python. Here both are held to `Limits`, and there is the ASGI extension
``http.response.zerocopysend``, by which the kernel sends part of a file.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.server.problems import describe_problem
from rdagent_sota_patch.server.sending import ZERO_COPY

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO
    from types import FrameType

    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn import Config
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle
    from uvicorn.server import ServerState

_PIECE = 1 << 20
"""Bytes of a file after which other clients have their turn."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may hold.

    Attributes:
        connections: The most at a time; further ones are answered 503, and of twice as many none is taken.
        header_bytes: Of request line and header fields that have come, while more is waited for.
        header_seconds: In which they must have come, from the connection or their first byte on.
        keep_alive_seconds: For which a connection may be idle between requests.
        stall_seconds: In which a client must take some of what waits for it; of a file, a megabyte.
        stop_seconds: Which an answer under way still has when the server is stopped.
    """

    connections: int = 512
    header_bytes: int = 16 << 10
    header_seconds: float = 10
    keep_alive_seconds: int = 15
    stall_seconds: float = 60
    stop_seconds: int = 5


class Connection(H11Protocol):
    """A client's connection; `limits` are set by a subclass for each server."""

    limits: Limits

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._inner = self.app
        self.app = self._answer
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request, unless there are far too many connections."""
        super().connection_made(transport)
        if len(self.connections) > 2 * self.limits.connections:
            transport.abort()
            return
        # Told of every byte that the system does not take at once: no answer waits unwatched.
        transport.set_write_buffer_limits(high=0)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all watching."""
        _cancel(self._head_timer)
        _cancel(self._stall_timer)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; a head that has begun must be complete in time, however its bytes trickle."""
        super().data_received(data)
        if self.is_answering:
            _cancel(self._head_timer)
            self._head_timer = None
        elif self._head_timer is None:
            self._expect_head()

    @property
    def is_answering(self) -> bool:
        """Whether a request has come that is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_seconds, self.transport.abort)

    def pause_writing(self) -> None:
        """Begin to watch an answer that the client does not take."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """Stop watching: all is taken."""
        super().resume_writing()
        _cancel(self._stall_timer)

    def _watch_writing(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._stall_timer = self.loop.call_later(self.limits.stall_seconds, self._look_at_writing, left)

    def _look_at_writing(self, left: int) -> None:
        if self.transport.get_write_buffer_size() < left:
            self._watch_writing()
        else:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not a HTTP, or too long, with a problem document, and close."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if self.cycle is not None:
            # An answer under way could not be told apart from this one.
            self.cycle.disconnected = True
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
            return
        # Not h11's own words: they repeat what was sent.
        reason = (
            f"its head is longer than {self.limits.header_bytes:,} bytes"
            if status == 431
            else "it is not HTTP/1.1"
        )
        ours = ApiError(
            "bad-request", f"The request cannot be read: {reason}.", "Send a request of HTTP/1.1."
        )
        body = _problem(ours, status, "")
        headers = [*self.server_state.default_headers, *_problem_headers(body)]
        phrase = HTTPStatus(status).phrase.encode()
        for event in (
            h11.Response(status_code=status, headers=headers, reason=phrase),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = self.cycle

        async def send_or_file(message: Message) -> None:
            if message["type"] == ZERO_COPY:
                await self._send_file(cycle, message["file"], message["offset"], message["count"])
            else:
                await send(message)

        scope["extensions"] = {**scope.get("extensions", {}), ZERO_COPY: {}}
        app: ASGIApp = self._inner if len(self.connections) <= self.limits.connections else _refuse
        try:
            await app(scope, receive, send_or_file)
        except asyncio.CancelledError:
            # The server is stopped and the time for it is over; it cancels for nothing else.
            self._let_go(cycle)

    async def _send_file(self, cycle: RequestResponseCycle, file: FileIO, offset: int, count: int) -> None:
        """Send part of a file; where that cannot be, the connection ends short of what it promised.

        As with uvicorn's own ``send``, it is not an error of the application when the client has gone.
        """
        if cycle.disconnected or not count:
            return
        unsent = _Unsent(count)
        # https://h11.readthedocs.io/en/latest/api.html#sendfile
        told = self.conn.send_with_data_passthrough(h11.Data(data=unsent))  # type: ignore[arg-type]
        if told is None or len(told) != 1:
            raise RuntimeError("A file is sent only in an answer with a Content-Length.")
        end = offset + count
        while offset < end:
            # In pieces, and each waits for its turn: a quick client could otherwise keep the kernel, and with it
            # the event loop, busy to the file's end.
            work = self.loop.sendfile(self.transport, file, offset, min(_PIECE, end - offset))
            try:
                sent = await asyncio.wait_for(work, self.limits.stall_seconds)
            except (ConnectionError, asyncio.TimeoutError):
                sent = None
            except RuntimeError:
                # Of asyncio, for a connection that was closed meanwhile.
                if not self.transport.is_closing():
                    raise
                sent = None
            if not sent:
                if sent is not None:
                    self.logger.error("A file became shorter while it was sent: %s.", self.scope["path"])
                self._let_go(cycle)
                return
            offset += sent

    def _let_go(self, cycle: RequestResponseCycle) -> None:
        cycle.disconnected = True
        self.transport.abort()


class _Unsent:
    """As long as the bytes that the kernel will send: all that h11 asks of data."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


async def _refuse(scope: Scope, _: Receive, send: Send) -> None:
    busy = ApiError(
        "server-busy", "The server has as many connections as it takes.", "Try again in a moment."
    )
    body = _problem(busy, 503, scope["path"])
    headers = [*_problem_headers(body), (b"retry-after", b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _problem(error: ApiError, status: int, path: str) -> bytes:
    return describe_problem(error, path).model_copy(update={"status": status}).model_dump_json().encode()


def _problem_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
        (b"connection", b"close"),
    ]


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
    Server(app, options, announce).run()


class Server(uvicorn.Server):
    """The server itself, for those that stop it by ``should_exit`` from another thread."""

    def __init__(self, app: ASGIApp, options: ServerOptions, announce: Callable[[str], None]) -> None:
        limits = options.limits

        class LimitedConnection(Connection):
            pass

        LimitedConnection.limits = limits
        self._options = options
        self._announce = announce
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                app,
                http=LimitedConnection,
                # Named, so that the same server runs wherever uvloop, httptools or websockets happen to be installed.
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

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen and serve until stopped.

        Raises:
            ApiError: ``cannot-listen``, ``too-few-open-files``.
        """
        _allow_open_files(self._options.limits.connections)
        with listen(self._options.host, self._options.port) as listener:
            super().run([listener] if sockets is None else sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to answer, and say where."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if sockets and not self.should_exit:
            address, port = sockets[0].getsockname()[:2]
            self._announce(f"http://{f'[{address}]' if ':' in address else address}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; the application is told of it in any case, which uvicorn does not do after a second signal."""
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; a second signal does not wait for what is under way.

        Unlike uvicorn's own, the signal is not raised again at the end: it did what it was sent for.
        """
        if self.should_exit:
            self.force_exit = True
        if self.force_exit and self._loop is not None:
            self._loop.call_soon_threadsafe(self._let_all_go)
        self.should_exit = True

    def _let_all_go(self) -> None:
        # Else asyncio would wait for every connection to be closed, from Python 3.12 on. Where an answer is under way,
        # its task ends the connection: asyncio does not bear that a file's is closed by another.
        for task in self.server_state.tasks:
            task.cancel()
        for connection in self.server_state.connections:
            if isinstance(connection, Connection) and not connection.is_answering:
                connection.transport.abort()


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
