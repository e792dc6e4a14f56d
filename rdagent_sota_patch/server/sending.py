"""One asset as an HTTP answer: whole, in part, unchanged, or no longer what the client began with.

Conditions and ranges follow RFC 9110. The entity tag is the SHA-256 of the bytes, so that ``If-Match`` and ``If-Range``
hold a client that goes on with a download to the very bytes it began with.
"""

from __future__ import annotations

import os
import re
import stat
from io import FileIO
from typing import TYPE_CHECKING
from urllib.parse import quote

from anyio import to_thread
from starlette.responses import Response, StreamingResponse

from rdagent_sota_patch.errors import ApiError, Problem
from rdagent_sota_patch.results.assets import Identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.datastructures import Headers
    from starlette.types import Receive, Scope, Send

    from rdagent_sota_patch.results.assets import Asset

_CHUNK = 1 << 20
_ENTITY_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_ONE_RANGE = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)
_SAFE_NAME = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME = 150


class RangeError(ApiError):
    """The range that was asked for lies outside the asset (416).

    Attributes:
        size: Of the asset in bytes; the answer's ``Content-Range`` is ``bytes */{size}``.
    """

    size: int = 0

    @classmethod
    def outside(cls, asset: Asset, asked: str) -> RangeError:
        """The error for ``asked``, a ``Range`` header."""
        problem = Problem(
            "range-not-satisfiable",
            f"{asset.key} has {asset.size} bytes; the range {asked!r} holds none of them.",
            "Ask for a range that begins before its end, or for all of it.",
        )
        error = cls.of([problem])
        error.size = asset.size
        return error

    @property
    def headers(self) -> dict[str, str]:
        """What the answer has to carry beside the problem document."""
        return {"Content-Range": f"bytes */{self.size}", "Accept-Ranges": "bytes"}


def respond(asset: Asset, headers: Headers, method: str) -> Response:
    """The answer to a request for ``asset``.

    Args:
        asset: What was asked for.
        headers: Of the request; read are ``If-Match``, ``If-None-Match``, ``Range`` and ``If-Range``.
        method: ``GET`` or ``HEAD``. As RFC 9110 has it, a range counts for ``GET`` alone.

    Returns:
        200, 206 or 304. The file is opened when the answer is sent, once; then `ApiError` may follow: ``asset-altered``
        where it is gone or has another size, before anything was sent.

    Raises:
        ApiError: ``asset-changed`` (412).
        RangeError: ``range-not-satisfiable`` (416).
    """
    wanted = _joined(headers, "if-match")
    if wanted is not None and not _matches(wanted, asset, weak=False):
        raise ApiError(
            "asset-changed",
            f"{asset.key} is not the one that was asked for any more: it is {asset.etag} now.",
            "The run has changed; ask for its anchor again and start over.",
        )
    known = _joined(headers, "if-none-match")
    if known is not None and _matches(known, asset, weak=True):
        return Response(status_code=304, headers={"ETag": asset.etag, **_CACHING})
    span = _asked_span(asset, headers) if method == "GET" else None
    described = _describe(asset)
    if span is not None:
        described["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{asset.size}"
    part = span if span is not None else range(asset.size)
    described["Content-Length"] = str(len(part))
    status = 200 if span is None else 206
    if asset.path is not None:
        return _FileResponse(asset, part, status, described, body=method != "HEAD")
    assert asset.content is not None
    content = asset.content[part.start : part.stop] if method != "HEAD" else b""
    return Response(content, status, described, asset.media_type)


_CACHING = {"Cache-Control": "private, no-cache"}


def _describe(asset: Asset) -> dict[str, str]:
    return {
        "ETag": asset.etag,
        "Digest": f"sha-256={asset.digest}",
        "Repr-Digest": f"sha-256=:{asset.digest}:",
        "Accept-Ranges": "bytes",
        "Content-Disposition": attachment_named(asset.key.rpartition("/")[2]),
        "X-Content-Type-Options": "nosniff",
        **_CACHING,
    }


def attachment_named(name: str) -> str:
    """A ``Content-Disposition`` that saves the answer as ``name``, however it is spelled (RFC 6266).

    What is not a plain letter, digit, ``.``, ``_`` or ``-`` becomes ``_``; clients that know better also get the
    letters of other scripts. A name never leads to another folder, and never begins with a dot.
    """
    shortened = name[:_LONGEST_NAME]
    plain = _SAFE_NAME.sub("_", shortened).lstrip(".") or "asset"
    value = f'attachment; filename="{plain}"'
    # Letters and digits of any script; marks that turn the direction of writing are neither.
    true = "".join(each if each.isalnum() or each in "._-" else "_" for each in shortened).lstrip(".")
    return value if true in {plain, ""} else f"{value}; filename*=UTF-8''{quote(true, safe='')}"


def _joined(headers: Headers, name: str) -> str | None:
    lines = headers.getlist(name)
    return ", ".join(lines) if lines else None


def _matches(tags: str, asset: Asset, *, weak: bool) -> bool:
    """Whether a list of entity tags names the asset; a weak one counts only in a weak comparison."""
    if tags.strip() == "*":
        return True
    return any(found[2] == asset.sha256 and (weak or not found[1]) for found in _ENTITY_TAG.finditer(tags))


def _asked_span(asset: Asset, headers: Headers) -> range | None:
    """The one range that was asked for; None for all of it, which is also the answer to what is not understood.

    Raises:
        RangeError: ``range-not-satisfiable``.
    """
    asked = _joined(headers, "range")
    found = None if asked is None else _ONE_RANGE.fullmatch(asked)
    if asked is None or found is None:
        return None
    condition = _joined(headers, "if-range")
    if condition is not None and condition.strip() != asset.etag:
        return None
    first, last = found[1], found[2]
    if first:
        start, stop = _number(first), (_number(last) + 1 if last else asset.size)
        if stop <= start and last:
            return None  # Not a range at all, by RFC 9110.
        if start >= asset.size:
            raise RangeError.outside(asset, asked)
        return range(start, min(stop, asset.size))
    if not last:
        return None
    if _number(last) == 0:
        raise RangeError.outside(asset, asked)
    # No range can be named of nothing: all of it is the right answer.
    return range(max(asset.size - _number(last), 0), asset.size) if asset.size else None


def _number(digits: str) -> int:
    # Beyond any file's size, and Python refuses to read thousands of digits.
    significant = digits.lstrip("0")
    return int(significant or "0") if len(significant) < 20 else 10**20


class _FileResponse(StreamingResponse):
    """Part of a file: opened once, compared with what was promised, and that very file sent."""

    def __init__(
        self, asset: Asset, part: range, status: int, headers: dict[str, str], *, body: bool
    ) -> None:
        self._asset = asset
        self._part = part if body else range(0)
        super().__init__(iter(()), status, headers, asset.media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        file = await to_thread.run_sync(_open_asset, self._asset)
        try:
            self.body_iterator = _read_part(file, self._part, self._asset)
            await super().__call__(scope, receive, send)
        finally:
            file.close()


def _open_asset(asset: Asset) -> FileIO:
    """The asset's file, opened.

    Raises:
        ApiError: ``asset-altered``.
    """
    assert asset.path is not None
    try:
        # Not to wait for a writer, should a pipe have taken the file's place.
        descriptor = os.open(
            asset.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
    except OSError as error:
        raise _altered(asset, error.strerror or str(error)) from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _altered(asset, "it is no longer a file")
        if asset.identity is not None and Identity.of(descriptor) != asset.identity:
            raise _altered(asset, "it was written to, or another one is in its place")
        if found.st_size != asset.size:
            raise _altered(asset, f"it has {found.st_size} bytes and had {asset.size}")
        return FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _altered(asset: Asset, why: str) -> ApiError:
    return ApiError(
        "asset-altered",
        f"The file of {asset.key} cannot be given: {why}.",
        "It was removed or written to since it was read; ask for the anchor again.",
    )


async def _read_part(file: FileIO, part: range, asset: Asset) -> AsyncIterator[bytes]:
    file.seek(part.start)
    left = len(part)
    while left:
        chunk = await to_thread.run_sync(file.read, min(_CHUNK, left))
        if not chunk:
            # Too late for another answer: the connection ends short of what it promised.
            raise _altered(asset, "it became shorter while it was sent")
        left -= len(chunk)
        yield chunk
