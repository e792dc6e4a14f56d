"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from rdagent_sota_patch.errors import ApiError, Problem, SotaError
from rdagent_sota_patch.results.schemas import ProblemDocument, ProblemItem
from rdagent_sota_patch.server.rendering import CONTENT_SECURITY_POLICY, render_problem
from rdagent_sota_patch.server.sending import RangeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI
    from starlette.requests import Request

MEDIA_TYPE = "application/problem+json"

SECURITY_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer: it is what it says it is, and may be framed or sent on by no other site."""
NOTHING_RUNS = "default-src 'none'; frame-ancestors 'none'"
"""The content security policy of all answers but pages."""

_STATUS: Mapping[str, int] = {
    "bad-request": 400,
    "request-not-valid": 422,
    "token-required": 401,
    "host-not-allowed": 403,
    "task-not-found": 404,
    "log-not-found": 404,
    "session-not-found": 404,
    "no-accepted-run": 404,
    "loop-not-found": 404,
    "asset-not-found": 404,
    "path-not-found": 404,
    "method-not-allowed": 405,
    "asset-changed": 412,
    "range-not-satisfiable": 416,
    "server-error": 500,
    "cannot-write": 507,
    "reading-took-too-long": 504,
    "export-took-too-long": 504,
    "server-stopping": 503,
}
_OF_THE_RUN = 409
"""Of all other slugs: the request is well, and the run on the server is not in a state to answer it."""

_CHALLENGE = 'Bearer realm="rdagent-sota"'
_PASSWORD_CHALLENGE = 'Basic realm="rdagent-sota", charset="UTF-8"'


def handle_problems(app: FastAPI) -> None:
    """Have every error of an application answered with a problem document."""
    app.add_exception_handler(SotaError, _answer_ours)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_unforeseen)


def answer_problem(error: SotaError, path: str, *, as_page: bool) -> Response:
    """The answer that tells of an error.

    Args:
        error: What is wrong.
        path: What was asked for.
        as_page: For a person, as HTML; else as JSON.
    """
    document = describe_problem(error, path)
    # Here, too, and not by the guard alone: the answer to an unforeseen error does not pass it.
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": NOTHING_RUNS, **SECURITY_HEADERS}
    if isinstance(error, RangeError):
        headers |= error.headers
    response: Response
    if as_page:
        headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response = HTMLResponse(render_problem(document), document.status, headers)
    else:
        response = Response(document.model_dump_json(), document.status, headers, MEDIA_TYPE)
    if document.status == 400:
        # Where the request ends is not to be relied upon, and with it where a next one begins.
        response.headers["Connection"] = "close"
    if document.status == 401:
        response.headers.append("WWW-Authenticate", _CHALLENGE)
        # What browsers know to ask a person for.
        response.headers.append("WWW-Authenticate", _PASSWORD_CHALLENGE)
    return response


def describe_problem(error: SotaError, path: str) -> ProblemDocument:
    """An error as a problem document."""
    first = error.problems[0]
    return ProblemDocument(
        type=f"urn:rdagent-sota:{first.slug}",
        title=first.slug.replace("-", " ").capitalize(),
        status=_STATUS.get(first.slug, _OF_THE_RUN),
        detail=first.message,
        instance=path,
        slug=first.slug,
        hint=first.hint,
        problems=tuple(
            ProblemItem(slug=each.slug, message=each.message, hint=each.hint) for each in error.problems
        ),
    )


def wants_page(request: Request) -> bool:
    """Whether a person's browser asks: HTML is what it says first that it reads."""
    return request.headers.get("accept", "").lstrip().startswith("text/html")


async def _answer_ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, SotaError)
    return answer_problem(error, request.scope["path"], as_page=wants_page(request))


async def _answer_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problems = [
        Problem(
            "request-not-valid",
            f"{' '.join(map(str, each['loc']))}: {each['msg']}.",
            "GET /openapi.json describes every parameter.",
        )
        for each in error.errors()
    ]
    return await _answer_ours(request, ApiError.of(problems))


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET")
        ours = ApiError("method-not-allowed", f"{path} cannot be asked by {request.method}.", "Use GET.")
        response = await _answer_ours(request, ours)
        response.headers["Allow"] = ", ".join(sorted({"GET", "HEAD", *allowed.split(", ")}))
        return response
    return await _answer_ours(
        request,
        ApiError("path-not-found", f"There is no {path} here.", "GET /openapi.json lists what there is."),
    )


async def _answer_unforeseen(request: Request, _: Exception) -> Response:
    # The answer tells nothing of the server's inside; starlette raises the error again, and uvicorn logs it.
    ours = ApiError(
        "server-error", "The server failed to answer.", "Its operator finds the error in its log."
    )
    return await _answer_ours(request, ours)
