"""The server below the results API: uvicorn in this process, on a socket that is opened here, stopped by a signal."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import uvicorn

from rdagent_sota_patch.api.connection import Connection, Limits
from rdagent_sota_patch.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from starlette.types import ASGIApp

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
