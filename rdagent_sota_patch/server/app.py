"""The application, and what its OpenAPI document says beside FastAPI's."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from rdagent_sota_patch import __version__
from rdagent_sota_patch.results.service import Folders, Service
from rdagent_sota_patch.server.access import Access, Guard
from rdagent_sota_patch.server.problems import MEDIA_TYPE, handle_problems
from rdagent_sota_patch.server.routes import add_routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


_TOKEN = "token"

_CONDITIONS = {
    "If-Match": "ETags, or `*`: 412 where the answer's is none of them.",
    "If-None-Match": "ETags, or `*`: 304 without a body where the answer's is one of them.",
}
_RANGES = {
    "Range": "One range of bytes, such as `bytes=100-`: 206, or 416 where it lies outside. Of several, or one that is "
    "not understood, the whole is answered.",
    "If-Range": "An ETag: the whole is answered where it is another one.",
}
_ETAG = {"ETag": "Strong: the SHA-256 of the whole, in hexadecimal and quotes."}
_DIGESTS = {
    "Digest": "`sha-256=` and the SHA-256 of the whole in Base64 (RFC 3230).",
    "Repr-Digest": "`sha-256=:` and the same (RFC 9530).",
}
_IN_PART = {"Content-Range": "Which bytes, and of how many."}
_HEADERS = {
    "200": _ETAG | _DIGESTS,
    "206": _ETAG | _DIGESTS | _IN_PART,
    "304": _ETAG,
    "401": {"WWW-Authenticate": "How to send the token."},
    "416": _IN_PART,
}


def describe_api(app: FastAPI, *, with_token: bool) -> None:
    """Have ``/openapi.json`` say what FastAPI cannot be told.

    Args:
        app: With all its routes.
        with_token: Whether requests need one.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    _correct(operation["responses"])
                    _describe_headers(operation)
                    if path == "/health":
                        operation["security"] = []
            if with_token:
                document["components"]["securitySchemes"] = {_TOKEN: {"type": "http", "scheme": "bearer"}}
                document["security"] = [{_TOKEN: []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _correct(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        content = response.get("content", {})
        if not status.startswith("2") and "application/json" in content:
            content[MEDIA_TYPE] = content.pop("application/json")


def _describe_headers(operation: dict[str, Any]) -> None:
    in_parts = "206" in operation["responses"]
    asked = _CONDITIONS | _RANGES if in_parts else _CONDITIONS
    operation.setdefault("parameters", []).extend(
        {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
        for name, text in asked.items()
    )
    for status, response in operation["responses"].items():
        if status in _HEADERS:
            response["headers"] = {
                name: {"description": text, "required": True, "schema": {"type": "string"}}
                for name, text in _HEADERS[status].items()
            }


def create_app(folders: Folders, access: Access, origins: tuple[str, ...] = ()) -> FastAPI:
    """The results API on one log root. Read-only, on the reader of sessions; it imports no RD-Agent.

    Args:
        folders: What is served, and where to keep what is made for it.
        access: Who may ask.
        origins: Websites whose scripts may read the answers (CORS); none unless named.

    Raises:
        ApiError: ``log-root-not-found``.
        SotaError: ``cannot-write``: the cache cannot be made.
    """
    service = Service(folders)

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(
        title="rdagent-sota results",
        version=__version__,
        description="What runs of RD-Agent produced, by the run's id. Read-only.",
        # Its pages load scripts from the network.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=closing,
    )
    handle_problems(app)
    with_token = access.token is not None
    add_routes(app, service, with_token=with_token)
    describe_api(app, with_token=with_token)
    app.add_middleware(Guard, access=access)
    if origins:
        # Outside of the guard: a browser's question whether it may ask bears no token.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "HEAD"],
            allow_headers=["Authorization", "If-Match", "If-None-Match", "If-Range", "Range"],
            expose_headers=["Content-Range", "Digest", "ETag", "Repr-Digest"],
        )
    return app
