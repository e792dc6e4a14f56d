"""One file from the API: gone on with where it was, hashed while it is written, kept only if it is the right one."""

from __future__ import annotations

import hashlib
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdagent_sota_patch.errors import ApiError, Problem
from rdagent_sota_patch.sync.client import AnswerError, UnreachableError, tagged_sha256

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    import httpx
    from typing_extensions import Self

    from rdagent_sota_patch.results.exporter import Stage
    from rdagent_sota_patch.sync.client import ApiClient

ASSET_CHANGED = "asset-changed"
"""Slug: what the key names is no longer what it was; the server's, too (412)."""

PART = ".part"

_BLOCK = 1 << 20
_PROGRESS = 1 << 20
_LEAST_IN_WINDOW = 16 << 10
_PARTIAL = 206
# Answered by a proxy in front of a server that is being started, or that has too much to do.
_MOMENTARY = frozenset({429, 502, 503, 504})
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file.

    Attributes:
        key: For ``asset_bytes``.
        size: In bytes.
        sha256: In hexadecimal.
    """

    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Patience:
    """What is done about connections that break.

    Attributes:
        attempts: So many in a row, with less than a mebibyte received in between, and no more.
        first_wait: Seconds before the second attempt; twice as long before each further one.
        window: Seconds in which at least 16 KiB must arrive, or the connection counts as broken.
    """

    attempts: int = 7
    first_wait: float = 0.5
    window: float = 60.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where files come from.

    Attributes:
        replay: Whether they are those of the bundle with evidence.
        stage: Of the bundle.
    """

    client: ApiClient
    task_id: str
    replay: bool
    stage: Stage = "factor"


def download(
    origin: Origin, wanted: Wanted, folder: Path, progress: Callable[[int], None], patience: Patience
) -> Path:
    """Bring one file into ``folder``, under its SHA-256 as name; until it is whole, with ``.part`` at its end.

    What is there of it already is hashed and not transferred again.

    Args:
        origin: Run and server.
        wanted: The file.
        folder: For files on their way.
        progress: Told how many of its bytes are here, now and then.
        patience: With broken connections.

    Raises:
        ApiError: ``transfer-altered``, and nothing of it is left; ``transfer-interrupted``, and what came is kept;
            ``asset-changed``; what `ApiClient.open_asset` raises.
        OSError: The folder cannot be written.
    """
    whole = folder / wanted.sha256
    path = folder / f"{wanted.sha256}{PART}"
    # One that was whole may have been torn since, by a power cut.
    if whole.is_file() and not whole.is_symlink():
        whole.replace(path)
    with _Part(path) as part:
        part.read_in(wanted.size)
        progress(part.size)
        found_here = part.size > 0
        _complete(origin, wanted, part, progress, patience)
        if part.sha256 != wanted.sha256 and found_here:
            # What was here may be the wrong half.
            part.empty()
            _complete(origin, wanted, part, progress, patience)
        if part.sha256 != wanted.sha256:
            path.unlink()
            raise _altered(origin, wanted, "its SHA-256 is not that of the manifest")
    path.replace(whole)
    return whole


class _Part:
    """A file that is being written, and the hash of what it holds."""

    def __init__(self, path: Path) -> None:
        self._file = os.fdopen(os.open(path, _FLAGS, 0o666), "r+b", buffering=0)
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read_in(self, limit: int) -> None:
        """Hash what is there; more than ``limit`` bytes are none of it."""
        if os.fstat(self._file.fileno()).st_size > limit:
            self.empty()
        while block := self._file.read(_BLOCK):
            self._digest.update(block)
            self.size += len(block)

    def append(self, piece: bytes) -> None:
        self._digest.update(piece)
        view = memoryview(piece)
        while view:
            count = self._file.write(view)
            self.size += count
            view = view[count:]

    def empty(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self.size, self._digest = 0, hashlib.sha256()


def _complete(
    origin: Origin, wanted: Wanted, part: _Part, progress: Callable[[int], None], patience: Patience
) -> None:
    """Ask until the part has as many bytes as it should."""
    failures, since = 0, part.size
    while part.size < wanted.size:
        try:
            _receive(origin, wanted, part, progress, patience)
            continue
        except UnreachableError as error:
            reason: ApiError = error
        except AnswerError as error:
            if error.status not in _MOMENTARY:
                raise
            reason = error
        failures = 1 if part.size - since >= _PROGRESS else failures + 1
        since = part.size
        if failures >= patience.attempts:
            raise _interrupted(wanted, part, reason) from reason
        time.sleep(patience.first_wait * 2 ** (failures - 1))


def _receive(
    origin: Origin, wanted: Wanted, part: _Part, progress: Callable[[int], None], patience: Patience
) -> None:
    """One answer: from where the part ends to the file's end, or to where the connection breaks."""
    # The bytes of one file alone: the server answers 412 once the key names another.
    headers = {"If-Match": f'"{wanted.sha256}"'}
    if part.size:
        headers["Range"] = f"bytes={part.size}-"
    with origin.client.open_asset(
        origin.task_id, wanted.key, headers, replay=origin.replay, stage=origin.stage
    ) as response:
        _check_head(origin, wanted, part, response)
        began, arrived = time.monotonic(), 0
        # Piece by piece as they come: what is gathered into larger ones is lost when the connection breaks.
        for piece in response.iter_raw():
            if part.size + len(piece) > wanted.size:
                part.path.unlink()
                raise _altered(origin, wanted, f"it has more than {wanted.size:,} bytes")
            part.append(piece)
            progress(part.size)
            arrived += len(piece)
            if time.monotonic() - began > patience.window:
                if arrived < _LEAST_IN_WINDOW and part.size < wanted.size:
                    text = (
                        f"{wanted.key} comes at less than {_LEAST_IN_WINDOW:,} bytes in {patience.window:g} s"
                    )
                    raise UnreachableError.of([Problem("api-unreachable", f"{origin.client.url}: {text}.")])
                began, arrived = time.monotonic(), 0
    if part.size < wanted.size:
        text = f"{wanted.key} ended after {part.size:,} of {wanted.size:,} bytes"
        raise UnreachableError.of([Problem("api-unreachable", f"{origin.client.url}: {text}.")])


def _check_head(origin: Origin, wanted: Wanted, part: _Part, response: httpx.Response) -> None:
    tagged = tagged_sha256(response)
    if tagged is not None and tagged != wanted.sha256:
        raise ApiError(
            "asset-changed", f"{wanted.key} of {origin.task_id} is no longer what it was.", "Sync again."
        )
    if response.status_code == _PARTIAL:
        text = response.headers.get("Content-Range", "")
        found = _RANGE.fullmatch(text)
        if found is None or [int(number) for number in found.groups()] != [
            part.size,
            wanted.size - 1,
            wanted.size,
        ]:
            raise origin.client.unusable(
                f"of {wanted.key} it sends the range {text!r}, another than asked for"
            )
        return
    # The whole file, whatever was asked for.
    if part.size:
        part.empty()
    length = response.headers.get("Content-Length")
    if length is not None and length != str(wanted.size):
        raise _altered(origin, wanted, f"it has {length} bytes in place of {wanted.size:,}")


def _altered(origin: Origin, wanted: Wanted, text: str) -> ApiError:
    return ApiError(
        "transfer-altered",
        f"{wanted.key} of {origin.task_id} from {origin.client.url} is not the file that was exported: {text}.",
        "Nothing of it was kept. Something between here and the server changes what it sends, or its disk is damaged.",
    )


def _interrupted(wanted: Wanted, part: _Part, reason: ApiError) -> ApiError:
    return ApiError(
        "transfer-interrupted",
        f"{wanted.key} is not complete, {part.size:,} of {wanted.size:,} bytes: {reason.problems[0].message}",
        "Sync again: it goes on where it was.",
    )
