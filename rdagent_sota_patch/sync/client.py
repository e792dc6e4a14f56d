"""One server, asked: its address, a run's id and a token judged first; typed answers, its problems as ours."""

from __future__ import annotations

import hashlib
import re
import ssl
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from rdagent_sota_patch import __version__
from rdagent_sota_patch.errors import ApiError, Problem
from rdagent_sota_patch.results.hosts import is_loopback
from rdagent_sota_patch.results.schemas import ProblemDocument, SotaFactorAnchor, TaskList, TaskManifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from pydantic import BaseModel
    from typing_extensions import Self

    from rdagent_sota_patch.results.exporter import Stage

_LAST_PORT = 65535
_LONGEST_TASK = 255


def parse_url(text: str) -> tuple[str, str]:
    """The API's URL without a slash at its end, and its host.

    Raises:
        ApiError: ``bad-api-url``; one with a password is not shown.
    """
    hint = "Give it as http://HOST:PORT, as `rdagent-sota serve` prints it."
    # Before anything else, and whatever it is: a password must not be shown.
    if "@" in text:
        raise ApiError(
            "bad-api-url",
            "The API's URL holds a user name or password.",
            "Leave them out, and put the token into a file for --token-file.",
        )
    try:
        url = httpx.URL(text.strip())
    except (httpx.InvalidURL, ValueError) as error:
        raise ApiError("bad-api-url", f"{text!r} is not a URL: {error}.", hint) from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise ApiError("bad-api-url", f"{text!r} is not an http or https URL.", hint)
    if url.port is not None and not 0 < url.port <= _LAST_PORT:
        raise ApiError("bad-api-url", f"{text!r} has a port that there is not.", hint)
    if url.query or url.fragment:
        raise ApiError("bad-api-url", f"{text!r} has a query or a fragment.", hint)
    return str(url).rstrip("/"), url.host


def check_token(token: str) -> str:
    """A token that a header may hold.

    Raises:
        ApiError: ``bad-token``.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ApiError(
            "bad-token",
            "The token is empty, or has characters that a header cannot hold.",
            "Use the file that the server was given with --token-file.",
        )
    return token


def check_task_id(task_id: str) -> str:
    """A run's id that a URL may hold: one part of a path, whatever is in it.

    Raises:
        ApiError: ``bad-task-id``.
    """
    if (
        task_id in {"", ".", ".."}
        or len(task_id.encode("utf-8", "surrogatepass")) > _LONGEST_TASK
        or not task_id.isprintable()
        or set("/\\") & set(task_id)
    ):
        raise ApiError(
            "bad-task-id",
            f"{task_id[:_LONGEST_TASK]!r} is not a run's id.",
            "It is the name of the run's log folder, such as 2026-01-16_18-42-35-123456, or latest.",
        )
    return task_id


D = TypeVar("D", bound="BaseModel")

LARGEST_DOCUMENT = 32 << 20
"""Bytes of a JSON answer: far above any real one, below what would hurt."""

_LARGEST_PROBLEM = 256 << 10
_SLUG = re.compile(r"[a-z][a-z0-9-]{0,60}")
_TAG = re.compile(r'"([0-9a-f]{64})"')
_OK, _NOT_MODIFIED, _SEVERAL, _BAD_REQUEST = 200, 304, 300, 400


class AnswerError(ApiError):
    """The server answered with a problem.

    Attributes:
        status: Of the answer.
    """

    status: int = 0


class UnreachableError(ApiError):
    """The server could not be asked, or its answer broke off; the same may work a moment later."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the server may take, in seconds.

    Attributes:
        connect: To take the connection.
        silence: Between two pieces of a file, and before its first.
        document: For a whole JSON answer, for which it may have to read the log first.
        building: For the first file of a bundle, which it may have to export first.
    """

    connect: float = 10.0
    silence: float = 60.0
    document: float = 330.0
    building: float = 960.0


class ApiClient:
    """Asks one server. A token goes to that server alone: no redirect is followed."""

    def __init__(self, url: str, *, token: str | None = None, timeouts: Timeouts | None = None) -> None:
        """Nothing is sent yet.

        Args:
            url: Where the API is, such as ``http://127.0.0.1:8900``; a path before its own is kept.
            token: Sent as ``Authorization: Bearer``, if given.
            timeouts: The usual ones if not given.

        Raises:
            ApiError: ``bad-api-url``, ``bad-token``.
        """
        self.timeouts = timeouts or Timeouts()
        self.url, host = parse_url(url)
        here = is_loopback(host)
        # Content as it is stored: a small packed answer could grow without bound here.
        headers = {"Accept-Encoding": "identity", "User-Agent": f"rdagent-sota-patch/{__version__}"}
        if token is not None:
            headers["Authorization"] = f"Bearer {check_token(token)}"
        self._http = httpx.Client(
            headers=headers,
            timeout=self._timeout(self.timeouts.silence),
            follow_redirects=False,
            # The environment's proxy, which knows nothing of this machine's own ports.
            trust_env=not here,
            # Reading all certificates takes longer than most answers; without any, no TLS would be accepted.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if here and self.url.startswith("http:") else True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def tasks(self, limit: int = 20, offset: int = 0) -> TaskList:
        """The runs, newest first.

        Raises:
            ApiError: As for `anchor`.
        """
        return self._document("/tasks", {"limit": str(limit), "offset": str(offset)}, TaskList)

    def task(self, task_id: str, stage: Stage = "factor") -> TaskManifest:
        """What a run is, and which assets it has.

        Args:
            task_id: The run; ``latest`` is the newest that accepted an experiment of the stage.
            stage: Asked for.

        Raises:
            ApiError: As for `anchor`.
        """
        return self._document(_path(task_id), _stage(stage), TaskManifest)

    def anchor(self, task_id: str) -> SotaFactorAnchor:
        """The last accepted factor experiment of a run, ``latest`` included.

        Raises:
            ApiError: ``bad-task-id``, ``api-unreachable``, ``unusable-answer``; as `AnswerError` with the server's own
                slug what the server objects to.
        """
        return self._document(f"{_path(task_id)}/sota_factor_anchor", {}, SotaFactorAnchor)

    def small_asset(
        self,
        task_id: str,
        key: str,
        *,
        replay: bool = False,
        known: str | None = None,
        stage: Stage = "factor",
    ) -> bytes | None:
        """An asset of at most `LARGEST_DOCUMENT` bytes, checked against the SHA-256 that the server sends with it.

        Args:
            task_id: The run.
            key: Of the asset.
            replay: Whether it is that of the bundle with evidence.
            known: SHA-256 of what is here already; None is answered where the asset is just that.
            stage: Of the bundle.

        Raises:
            ApiError: As for `anchor`; ``transfer-altered`` when it came as another.
        """
        headers = {} if known is None else {"If-None-Match": f'"{known}"'}
        seconds = self.timeouts.building
        with self.open_asset(task_id, key, headers, replay=replay, silence=seconds, stage=stage) as response:
            if response.status_code == _NOT_MODIFIED:
                return None
            content = self._read(response, LARGEST_DOCUMENT, seconds)
        sha256 = tagged_sha256(response)
        if sha256 is None:
            raise self.unusable(f"{key} came without its SHA-256 as ETag")
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ApiError(
                "transfer-altered",
                f"{key} from {self.url} is not what the server sent: its SHA-256 is another.",
                "Something between here and the server changes what it sends. Nothing of it was kept.",
            )
        return content

    @contextmanager
    def open_asset(
        self,
        task_id: str,
        key: str,
        headers: Mapping[str, str],
        *,
        replay: bool = False,
        silence: float | None = None,
        stage: Stage = "factor",
    ) -> Iterator[httpx.Response]:
        """Ask for an asset, and give the answer (200, 206 or 304) with its body not yet read.

        Args:
            task_id: The run.
            key: Of the asset.
            headers: Conditions and range.
            replay: Whether it is that of the bundle with evidence.
            silence: Seconds to wait for each piece, if not the usual ones.
            stage: Of the bundle.

        Raises:
            ApiError: As for `anchor`, also from the reading inside the block.
        """
        params = {"key": key, **({"replay": "true"} if replay else {}), **_stage(stage)}
        with self._send(f"{_path(task_id)}/asset_bytes", params, headers, silence) as response:
            yield response

    def unusable(self, text: str) -> ApiError:
        """The error of an answer that the API does not give."""
        return ApiError(
            "unusable-answer",
            f"{self.url}: {text}.",
            "Check that the URL is that of `rdagent-sota serve`, of this release, and of nothing in front of it.",
        )

    def _document(self, path: str, params: Mapping[str, str], document: type[D]) -> D:
        seconds = self.timeouts.document
        with self._send(path, params, {"Accept": "application/json"}, seconds) as response:
            content = self._read(response, LARGEST_DOCUMENT, seconds)
        try:
            return document.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "document"
            raise self.unusable(f"the answer to {path} cannot be read: {where}: {first['msg']}") from error

    @contextmanager
    def _send(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str], silence: float | None
    ) -> Iterator[httpx.Response]:
        timeout = self._timeout(self.timeouts.silence if silence is None else silence)
        try:
            with self._http.stream(
                "GET", f"{self.url}{path}", params=dict(params), headers=dict(headers), timeout=timeout
            ) as response:
                if response.status_code >= _BAD_REQUEST:
                    raise self._problem(response)
                if response.status_code != _NOT_MODIFIED and not _OK <= response.status_code < _SEVERAL:
                    raise self._redirected(response)
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise self.unusable("the answer is compressed, which was not asked for")
                yield response
        except httpx.TimeoutException as error:
            raise self._unreachable("it did not answer in time") from error
        except httpx.RequestError as error:
            raise self._unreachable(str(error) or type(error).__name__) from error

    def _read(self, response: httpx.Response, limit: int, seconds: float) -> bytes:
        deadline, content = time.monotonic() + seconds, bytearray()
        for piece in response.iter_raw():
            content += piece
            if len(content) > limit:
                raise self.unusable(f"the answer to {response.url.path} has more than {limit:,} bytes")
            if time.monotonic() > deadline:
                raise self._unreachable(f"its answer was not complete after {seconds:g} seconds")
        return bytes(content)

    def _problem(self, response: httpx.Response) -> ApiError:
        status, kind = response.status_code, response.headers.get("Content-Type", "")
        if kind.partition(";")[0].strip().lower() != "application/problem+json":
            return _with_status([_foreign(self.url, response)], status)
        content = self._read(response, _LARGEST_PROBLEM, self.timeouts.document)
        try:
            document = ProblemDocument.model_validate_json(content)
        except ValidationError:
            return _with_status([_foreign(self.url, response)], status)
        told = [Problem(item.slug, item.message, item.hint) for item in document.problems]
        if not told or not all(_SLUG.fullmatch(problem.slug) for problem in told):
            return _with_status([_foreign(self.url, response)], status)
        return _with_status(told, status)

    def _redirected(self, response: httpx.Response) -> ApiError:
        target = response.headers.get("Location")
        to = f" and points to {target[:200]}" if target else ""
        return self.unusable(f"it answers {response.status_code}{to}; redirects are not followed")

    def _unreachable(self, text: str) -> UnreachableError:
        problem = Problem(
            "api-unreachable",
            f"Cannot get an answer from {self.url}: {text}.",
            "Check that `rdagent-sota serve` runs there, and that this machine reaches its port.",
        )
        return UnreachableError.of([problem])

    def _timeout(self, silence: float) -> httpx.Timeout:
        return httpx.Timeout(silence, connect=self.timeouts.connect)


def tagged_sha256(response: httpx.Response) -> str | None:
    """The SHA-256 that an answer's ETag gives; None where it gives none."""
    # A proxy may make it a weak one; the bytes are checked against it anyway.
    found = _TAG.fullmatch(response.headers.get("ETag", "").removeprefix("W/"))
    return None if found is None else found[1]


def _stage(stage: Stage) -> dict[str, str]:
    # Only where it is not the usual one: a server of an earlier release does not know it.
    return {} if stage == "factor" else {"stage": stage}


def _path(task_id: str) -> str:
    return f"/tasks/{quote(check_task_id(task_id), safe='')}"


def _foreign(url: str, response: httpx.Response) -> Problem:
    return Problem(
        "unusable-answer",
        f"{url} answers {response.status_code} to {response.url.path}, without saying why.",
        "Check that the URL is that of `rdagent-sota serve`, and of nothing in front of it.",
    )


def _with_status(problems: list[Problem], status: int) -> AnswerError:
    error = AnswerError.of(problems)
    error.status = status
    return error
