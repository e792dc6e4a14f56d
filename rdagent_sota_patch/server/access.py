"""Who may ask: the token, the hosts that the server may be called by, and what browsers are told about the answers."""

from __future__ import annotations

import base64
import binascii
import hmac
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request

from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.results.hosts import is_loopback
from rdagent_sota_patch.server.problems import NOTHING_RUNS, SECURITY_HEADERS, answer_problem, wants_page

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_OPEN_PATH = "/health"
_LEAST_TOKEN_BYTES = 16
_LARGEST_TOKEN_FILE = 4096
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask.

    Attributes:
        token: What a request must bear; None for a server that only this machine reaches.
        hosts: Names by which the server may be called, without ports; None for any. Without a token these are the
            loopback's: a website whose name is made to point to this machine must not read from it.
    """

    token: bytes | None
    hosts: frozenset[str] | None


def decide_access(host: str, token_file: Path | None) -> Access:
    """Who may ask a server that listens on ``host``.

    Raises:
        ApiError: ``token-needed`` for a host that other machines reach, without a token; ``bad-token-file``.
    """
    token = None if token_file is None else read_token(token_file)
    if token is None and not is_loopback(host):
        raise ApiError(
            "token-needed",
            f"{host} can be reached by other machines, and without a token anyone on them could read every run.",
            "Make one (openssl rand -hex 32 > api.token), and name it with --token-file; or listen on 127.0.0.1.",
        )
    return Access(token, _LOOPBACK_NAMES | {_as_host(host)} if token is None else None)


def read_token(path: Path) -> bytes:
    """The token in a file: one line of printable ASCII.

    Raises:
        ApiError: ``bad-token-file``.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_TOKEN_FILE + 1)
            mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise _bad_token(path, f"cannot be read: {error.strerror or error}") from error
    token = content.strip()
    if len(token) < _LEAST_TOKEN_BYTES:
        raise _bad_token(path, f"holds {len(token)} bytes, and at least {_LEAST_TOKEN_BYTES} are needed")
    if len(content) > _LARGEST_TOKEN_FILE or any(not 0x21 <= byte <= 0x7E for byte in token):
        raise _bad_token(path, "holds something else than one line of printable ASCII without spaces")
    if mode & 0o007 and hasattr(stat, "S_IWOTH"):
        raise _bad_token(path, f"may be read by everyone on this machine (mode {mode:o})", "chmod 600 it.")
    return token


class Guard:
    """The outermost layer of the application: refuses who may not ask, and marks every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = self._refuse(scope)
        if error is None:
            await self._app(scope, receive, _marking(send))
            return
        request = Request(scope)
        response = answer_problem(error, scope["path"], as_page=wants_page(request))
        await response(scope, receive, _marking(send))

    def _refuse(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if "content-length" in headers and "transfer-encoding" in headers:
            # RFC 9112, 6.1: a proxy may have taken its end for another place, and a next request for its body.
            return ApiError(
                "bad-request",
                "The request says twice where its body ends: by Content-Length and by Transfer-Encoding.",
                "Send neither; no request here has a body.",
            )
        hosts = headers.getlist("host")
        if self._access.hosts is not None and (len(hosts) != 1 or not self._is_ours(hosts[0])):
            return ApiError(
                "host-not-allowed",
                "This server answers only to the names of the machine it runs on.",
                "Ask it as http://127.0.0.1, or give it a token to be reached by another name.",
            )
        if self._access.token is None or scope["path"] == _OPEN_PATH:
            return None
        given = headers.getlist("authorization")
        if len(given) == 1 and hmac.compare_digest(_token_in(given[0]), self._access.token):
            return None
        return ApiError(
            "token-required",
            "A token is needed, and none or another one was given.",
            "Send it as `Authorization: Bearer …`; rdagent-sota sync takes it with --token-file. In a browser it is "
            "the password, with any name.",
        )

    def _is_ours(self, host: str) -> bool:
        assert self._access.hosts is not None
        name, colon, port = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, port = host, ""
        return name.lower() in self._access.hosts and (not port or port.isdecimal())


def _token_in(authorization: str) -> bytes:
    """The token that a request bears; empty where it bears none."""
    scheme, _, rest = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip().encode("utf-8")
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(rest.strip(), validate=True)
        except (binascii.Error, ValueError):
            return b""
        return decoded.partition(b":")[2]
    return b""


def _marking(send: Send) -> Send:
    """Have each answer bear the security headers."""

    async def mark(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.update(SECURITY_HEADERS)
            headers.setdefault("Cache-Control", "private, no-cache")
            headers.setdefault("Content-Security-Policy", NOTHING_RUNS)
        await send(message)

    return mark


def _as_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host.lower()


def _bad_token(path: Path, why: str, hint: str = "") -> ApiError:
    return ApiError(
        "bad-token-file",
        f"{path} {why}.",
        hint or "A good one: openssl rand -hex 32 > api.token; chmod 600 api.token.",
    )
