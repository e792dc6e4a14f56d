"""The application: the service behind its routes, guarded, with every error told as a problem document."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from rdagent_sota_patch import __version__
from rdagent_sota_patch.api.access import Access, Guard
from rdagent_sota_patch.api.document import describe_api
from rdagent_sota_patch.api.problems import handle_problems
from rdagent_sota_patch.api.routes import add_routes
from rdagent_sota_patch.results.service import Folders, Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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
