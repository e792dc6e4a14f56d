"""The OpenAPI document: FastAPI's, with problem documents under their media type, and the token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.api.problems import MEDIA_TYPE

if TYPE_CHECKING:
    from fastapi import FastAPI

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
