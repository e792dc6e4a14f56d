"""One client's connection: uvicorn's protocol for HTTP/1.1, with limits on what a client may hold.

uvicorn bounds neither the time in which a request's head must come nor how long an answer may wait to be read, and
it would pass every byte of a file through Python. Here both are held to `Limits`, and there is the ASGI extension
``http.response.zerocopysend``, by which the kernel sends part of a file.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from rdagent_sota_patch.api.problems import describe_problem
from rdagent_sota_patch.api.sending import ZERO_COPY
from rdagent_sota_patch.errors import ApiError

if TYPE_CHECKING:
    from io import FileIO

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
        """Answer what is no HTTP, or too long, with a problem document, and close."""
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

        As with uvicorn's own ``send``, it is no error of the application when the client has gone.
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
