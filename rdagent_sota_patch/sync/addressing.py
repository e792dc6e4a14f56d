"""Whom a client asks and for what: the API's address, a run's id and a token, before anything is sent."""

from __future__ import annotations

import httpx

from rdagent_sota_patch.errors import ApiError

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
        raise ApiError("bad-api-url", f"{text!r} is no URL: {error}.", hint) from error
    if url.scheme not in {"http", "https"} or not url.host:
        raise ApiError("bad-api-url", f"{text!r} is no http or https URL.", hint)
    if url.port is not None and not 0 < url.port <= _LAST_PORT:
        raise ApiError("bad-api-url", f"{text!r} has a port that there is not.", hint)
    if url.query or url.fragment:
        raise ApiError("bad-api-url", f"{text!r} has a query or a fragment.", hint)
    return str(url).rstrip("/"), url.host


def check_token(token: str) -> str:
    """A token as it may stand in a header.

    Raises:
        ApiError: ``bad-token``.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ApiError(
            "bad-token",
            "The token is empty, or has characters that cannot stand in a header.",
            "Use the file that the server was given with --token-file.",
        )
    return token


def check_task_id(task_id: str) -> str:
    """A run's id as it may stand in a URL: one part of a path, whatever is in it.

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
            f"{task_id[:_LONGEST_TASK]!r} is no run's id.",
            "It is the name of the run's log folder, such as 2026-01-16_18-42-35-123456, or latest.",
        )
    return task_id
