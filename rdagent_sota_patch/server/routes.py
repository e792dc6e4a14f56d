"""Which path is answered with what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar

import fastapi
from fastapi import FastAPI, Query, Request
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response

from rdagent_sota_patch import __version__
from rdagent_sota_patch.bundle.documents import ORDER_NAME, FactorOrder
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.results.assets import Asset, asset_of_bytes
from rdagent_sota_patch.results.checkout_answers import (
    AlignedFactors,
    AlignmentPreview,
    AlphaMeta,
    CompleteAssets,
)
from rdagent_sota_patch.results.disk_use import WorkspaceList
from rdagent_sota_patch.results.factor_metrics import FactorMetrics
from rdagent_sota_patch.results.outlines import RunOrder
from rdagent_sota_patch.results.schemas import (
    Health,
    LoopList,
    ModelCode,
    ProblemDocument,
    SessionAnchor,
    SotaFactorAnchor,
    TaskList,
    TaskManifest,
    TaskSummary,
)
from rdagent_sota_patch.results.service import Service
from rdagent_sota_patch.results.sota import ENTRY, WEIGHT_KEYS, in_words
from rdagent_sota_patch.results.tasks import LATEST
from rdagent_sota_patch.results.views import JSON
from rdagent_sota_patch.server.rendering import (
    CONTENT_SECURITY_POLICY,
    LIST_POLICY,
    compared_run,
    render_comparison,
    render_run,
    render_runs,
    view_backtest,
)
from rdagent_sota_patch.server.sending import respond

_RUNS_ON_A_PAGE = 20
_MOST_RUNS = 200
_PATIENCE = 8.0
"""Seconds that a list of the newest runs waits for logs to be read: who asks for it waits for ten."""
_LARGEST_OFFSET = 1_000_000
_MOST_LOOPS = 1_000_000
_MOST_COMPARED = 20

TaskId = Annotated[
    str,
    fastapi.Path(
        min_length=1,
        max_length=255,
        description="A run's id, or `latest`: the newest run with an accepted factor experiment of its own.",
    ),
]
Limit = Annotated[int, Query(ge=1, le=_MOST_RUNS, description="How many runs.")]
Order = Annotated[
    RunOrder | None,
    Query(
        description="The column to sort by, for which all runs are read; the newest written first, when not given. The "
        "newest, the most or the best come first, names and kinds from A on; runs without a value come last."
    ),
]
Reverse = Annotated[bool, Query(description="The other way round.")]
Compared = Annotated[tuple[str, ...], Query(max_length=_MOST_COMPARED)]
LoopOfPage = Annotated[int | None, Query(ge=-_MOST_LOOPS, le=_MOST_LOOPS)]
Offset = Annotated[int, Query(ge=0, le=_LARGEST_OFFSET, description="How many runs to pass over.")]
Loop = Annotated[
    int,
    fastapi.Path(ge=-_MOST_LOOPS, le=_MOST_LOOPS, description="RD-Agent's loop index, as `/loops` has it."),
]
LimitOfLatest = Annotated[
    int | None, Query(ge=1, le=_MOST_RUNS, description="How many runs; makes the answer a list.")
]
OffsetOfLatest = Annotated[
    int | None,
    Query(ge=0, le=_LARGEST_OFFSET, description="How many runs to pass over; makes the answer a list."),
]
Quick = Annotated[
    bool,
    Query(description="Measure for 3 seconds and 20,000 files at most; else for a minute and a million."),
]
RelPath = Annotated[
    str,
    Query(
        min_length=1,
        max_length=512,
        description="`factor_entry.py`, or a key of `asset_bytes`; `workspaces/`, the SOTA's workspace and a slash may "
        "come first.",
    ),
]
Key = Annotated[
    str,
    Query(
        min_length=1,
        max_length=512,
        description="A key from the anchor or the manifest, or the relative path of a file of the run's bundle.",
    ),
]
FromReplay = Annotated[
    bool, Query(description="A file of the bundle with its evidence, which is back-test data, or without.")
]
Stage = Annotated[
    Literal["factor", "model"] | None,
    Query(
        description="The model of the last accepted factor experiment's back-test, or of the last accepted model "
        "experiment; the factors' if the run has accepted any, when not given."
    ),
]
StageOfRun = Annotated[
    Literal["factor", "model"],
    Query(
        description="`model` for the last accepted model experiment: the files of its bundle, and `latest` as the "
        "newest run with one."
    ),
]
WithReplay = Annotated[bool, Query(description="With the evidence, which is back-test data, or without.")]

_MEANINGS = {
    401: "The token is missing or wrong.",
    403: "The request's `Host` is not a name of this server.",
    404: "There is no such run or asset.",
    409: "The run cannot give it: no accepted factors, missing weights, or a log that cannot be read.",
    412: "`If-Match`: the asset has changed.",
    416: "The range is outside the asset.",
    422: "A parameter is not valid.",
    500: "The server failed.",
    503: "The server has reached its limit of connections.",
    507: "The server has no space left for the bundle.",
    504: "Reading or exporting took too long.",
}
_OF_A_RUN = (404, 409, 422, 504)
_OF_AN_ASSET = (*_OF_A_RUN, 416, 507)
_ASSETS = ("application/json", "application/octet-stream", "text/plain", "text/x-python")
_OF_ANY = (401, 403, 412, 500, 503)

Endpoint = TypeVar("Endpoint", bound=Callable[..., Coroutine[Any, Any, Response]])


def add_routes(app: FastAPI, service: Service, *, with_token: bool) -> None:
    """Add every route of the API and its pages.

    Args:
        app: Where.
        service: What they ask.
        with_token: Whether a request needs one, and may then name the server as it likes.
    """
    _add_lists(app, service)
    _add_documents(app, service)
    _add_assets(app, service)
    _add_answers_of_checkouts(app, service)
    _add_pages(app, service, with_token=with_token)


def _add_lists(app: FastAPI, service: Service) -> None:
    @_get(app, "/health", Health)
    async def health(request: Request) -> Response:
        """Say that the server answers. Needs no token."""
        return _answer(Health(version=__version__), request)

    @_get(app, "/tasks", TaskList, 422, 504)
    async def list_tasks(
        request: Request,
        limit: Limit = _RUNS_ON_A_PAGE,
        offset: Offset = 0,
        sort: Order = None,
        reverse: Reverse = False,
    ) -> Response:
        """List the runs with their figures, newest first unless sorted otherwise."""
        return _answer(await service.list_tasks(limit, offset, order=sort, reverse=reverse), request)

    @_get(app, "/tasks/latest", TaskManifest | TaskList, *_OF_A_RUN)
    async def latest(
        request: Request,
        limit: LimitOfLatest = None,
        offset: OffsetOfLatest = None,
        stage: StageOfRun = "factor",
    ) -> Response:
        """Give the manifest of the newest run with accepted factors; with `limit` or `offset` the newest runs.

        The list comes within ten seconds: a run whose log is still being read is listed with that as its problem.
        """
        if limit is None and offset is None:
            return _show(await (await service.find(LATEST, stage)).make("manifest"), request)
        return _answer(await service.list_tasks(limit or _RUNS_ON_A_PAGE, offset or 0, _PATIENCE), request)


def _add_documents(app: FastAPI, service: Service) -> None:
    @_get(app, "/tasks/{task_id}", TaskManifest, *_OF_A_RUN)
    async def manifest(task_id: TaskId, request: Request) -> Response:
        """Say what the run is, and which assets it has."""
        return _show(await (await service.find(task_id)).make("manifest"), request)

    @_get(app, "/tasks/{task_id}/summary", TaskSummary, *_OF_A_RUN)
    async def summary(task_id: TaskId, request: Request) -> Response:
        """Give the run in short: how many loops, the best metrics, the SOTA."""
        return _show(await (await service.find(task_id)).make("summary"), request)

    @_get(app, "/tasks/{task_id}/loops", LoopList, *_OF_A_RUN)
    async def loops(task_id: TaskId, request: Request) -> Response:
        """Give the run's loops, oldest first: decisions, metrics, factors, models."""
        return _show(await (await service.find(task_id)).make("loops"), request)

    @_get(app, "/tasks/{task_id}/session_anchor", SessionAnchor, *_OF_A_RUN)
    async def session_anchor(task_id: TaskId, request: Request) -> Response:
        """Say which snapshot the run's answers are read from."""
        return _show(await (await service.find(task_id)).make("session_anchor"), request)

    @_get(app, "/tasks/{task_id}/sota_factor_anchor", SotaFactorAnchor, *_OF_A_RUN, 507)
    async def sota_factor_anchor(task_id: TaskId, request: Request) -> Response:
        """Locate the last accepted factor experiment and the keys of its assets."""
        return _show(await service.anchor(task_id), request)

    @_get(app, "/tasks/{task_id}/factor_order", FactorOrder, *_OF_A_RUN, 507)
    async def factor_order(task_id: TaskId, request: Request) -> Response:
        """Give the columns of the model's input, in the order in which it was trained."""
        return _show(await service.find_asset(task_id, ORDER_NAME, replay=False), request)


def _add_assets(app: FastAPI, service: Service) -> None:
    @_get(app, "/tasks/{task_id}/asset_bytes", _ASSETS, *_OF_AN_ASSET)
    async def asset_bytes(
        task_id: TaskId, key: Key, request: Request, replay: FromReplay = False, stage: StageOfRun = "factor"
    ) -> Response:
        """Give one asset: weights, factor code, or a file of the run's bundle."""
        asset = await service.find_asset(task_id, key, replay=replay, stage=stage)
        return respond(asset, request.headers, request.method)

    @_get(app, "/tasks/{task_id}/bundle", ("application/zip",), *_OF_AN_ASSET)
    async def bundle(
        task_id: TaskId, request: Request, stage: Stage = None, replay: WithReplay = True
    ) -> Response:
        """Give the run's bundle, as ``rdagent-sota export`` writes it, in a zip file."""
        asset = await service.find_bundle(task_id, stage, replay=replay)
        return respond(asset, request.headers, request.method)


def _add_answers_of_checkouts(app: FastAPI, service: Service) -> None:
    """What programs ask for that were written against the results server of an RD-Agent checkout."""

    @_get(app, "/tasks/{task_id}/v2_alignment_preview", AlignmentPreview, *_OF_A_RUN)
    async def v2_alignment_preview(task_id: TaskId, request: Request) -> Response:
        """Say which features the SOTA's model has, in their true order, and whether that is proven."""
        return _answer(await service.preview_alignment(task_id), request)

    @_get(app, "/tasks/{task_id}/complete_assets", CompleteAssets, *_OF_A_RUN)
    async def complete_assets(task_id: TaskId, request: Request) -> Response:
        """Give the SOTA's factors with their code, where its weights are, and the model's input."""
        return _answer(await service.list_complete_assets(task_id), request)

    @_get(app, "/tasks/{task_id}/loops/{loop}/model_code", ModelCode, *_OF_A_RUN)
    async def model_code(task_id: TaskId, loop: Loop, request: Request) -> Response:
        """Give the code of the model that a loop proposed."""
        return _answer(await service.give_model_code(task_id, loop), request)

    @_get(app, "/tasks/{task_id}/workspaces", WorkspaceList, *_OF_A_RUN)
    async def workspaces(task_id: TaskId, request: Request, quick: Quick = True) -> Response:
        """List the workspaces of the run's experiments with their sizes."""
        return _answer(await service.list_workspaces(task_id, quick=quick), request)

    @_get(app, "/tasks/{task_id}/assets", _ASSETS, *_OF_AN_ASSET)
    async def assets(task_id: TaskId, relpath: RelPath, request: Request) -> Response:
        """Give one asset by its relative path; as `asset_bytes` does by key."""
        asset = await service.find_listed(task_id, relpath)
        return respond(asset, request.headers, request.method)

    @_get(app, "/tasks/{task_id}/factor.py", ("text/x-python",), *_OF_AN_ASSET)
    async def factor_code(task_id: TaskId, request: Request) -> Response:
        """Give the code of the SOTA's first factor that was implemented."""
        return respond(
            await service.find_asset(task_id, ENTRY, replay=False), request.headers, request.method
        )

    @_get(app, "/tasks/{task_id}/model.pkl", ("application/octet-stream",), *_OF_AN_ASSET)
    async def weights(task_id: TaskId, request: Request) -> Response:
        """Give the weights that were trained in the SOTA's back-test."""
        asset = await service.find_asset(task_id, WEIGHT_KEYS[0], replay=False)
        return respond(asset, request.headers, request.method)

    @_get(app, "/api/extractors/sota_factors/v2/{task_id}/aligned", AlignedFactors, *_OF_A_RUN)
    async def aligned(task_id: TaskId, request: Request) -> Response:
        """Give every mined factor of the SOTA's model with its code and the metrics of its loop."""
        return _answer(await service.align_factors(task_id), request)

    @_get(app, "/api/extractors/sota_factors/v2/{task_id}/factor_metrics", FactorMetrics, *_OF_A_RUN, 507)
    async def factor_metrics(task_id: TaskId, request: Request) -> Response:
        """Give figures of each factor in the SOTA's factor table: IC, decay, turnover, returns by fifth, and more."""
        return _show(await service.measure_factors(task_id), request)

    @_get(
        app,
        "/api/extractors/sota_factors/v2/{task_id}/loops/{loop}/factor_metrics",
        FactorMetrics,
        *_OF_A_RUN,
        507,
    )
    async def factor_metrics_of_loop(task_id: TaskId, loop: Loop, request: Request) -> Response:
        """Give the same of the factor table of any loop."""
        return _show(await service.measure_factors(task_id, loop), request)

    @_get(app, "/alpha158/meta", AlphaMeta, 404, 409, 504)
    async def alpha158_meta(request: Request) -> Response:
        """Give the Alpha features of the newest run with accepted factors, with their expressions."""
        return _answer(await service.describe_alpha(), request)


def _add_pages(app: FastAPI, service: Service, *, with_token: bool) -> None:
    def address(request: Request) -> str | None:
        # By the Host header, which without a token has been checked against this machine's names.
        return None if with_token else str(request.base_url).rstrip("/")

    @_page(app, "/")
    async def runs_page(
        request: Request, offset: Offset = 0, sort: Order = None, reverse: Reverse = False
    ) -> Response:
        patience = None if sort is None else _PATIENCE
        listing = await service.list_tasks(_RUNS_ON_A_PAGE, offset, patience, sort, reverse=reverse)
        return _html(render_runs(listing, address(request), order=sort, reverse=reverse), LIST_POLICY)

    @_page(app, "/compare")
    async def compare_page(run: Compared = ()) -> Response:
        found = await service.compare(dict.fromkeys(run))
        return _html(render_comparison([compared_run(row, summary) for row, summary in found]))

    @_page(app, "/runs/{task_id}")
    async def run_page(
        task_id: TaskId, request: Request, figures: bool = False, loop: LoopOfPage = None
    ) -> Response:
        view = await service.find(task_id)
        found, why = await service.find_figures(view), None
        if found is None and figures:
            try:
                found = await service.measure_factors(view.session.task_id)
            except SotaError as error:
                why = in_words(error)
        days = await service.find_backtest(view, loop)
        # In a thread, since a hundred formulas take their time.
        return _html(
            await asyncio.to_thread(
                render_run,
                view.manifest,
                view.summary,
                view.loops,
                view.anchor,
                view.codes,
                address=address(request),
                figures=None if found is None else FactorMetrics.model_validate_json(found.content or b""),
                no_figures=why,
                backtest=None if days is None else view_backtest(*days),
                given_known=await service.knows(
                    None if view.session.given is None else view.session.given.task_id
                ),
            )
        )


def _get(
    app: FastAPI,
    path: str,
    answer: type[BaseModel] | UnionType | tuple[str, ...],
    *statuses: int,
) -> Callable[[Endpoint], Endpoint]:
    """Register an endpoint for GET, and for HEAD, which the document need not repeat.

    Args:
        app: Where.
        path: Of the route.
        answer: The document that it answers with, which may be one of two, or the media types of files.
        statuses: Of the problems that it may answer with, beside those that any request may meet.
    """
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ProblemDocument, "description": _MEANINGS[status]}
        for status in (*_OF_ANY, *statuses)
    }
    if isinstance(answer, tuple):
        content: dict[str, Any] = {media_type: {} for media_type in answer}
        responses[200] = {"description": "The bytes.", "content": content}
        responses[206] = {"description": "The bytes of the range that was asked for.", "content": content}
    else:
        responses[200] = {"description": "The document.", "model": answer}
    responses[304] = {"description": "`If-None-Match`: the client's copy is current."}

    def register(endpoint: Endpoint) -> Endpoint:
        app.add_api_route(path, endpoint, methods=["GET"], responses=responses, response_class=Response)
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
        return endpoint

    return register


def _page(app: FastAPI, path: str) -> Callable[[Endpoint], Endpoint]:
    def register(endpoint: Endpoint) -> Endpoint:
        app.add_api_route(path, endpoint, methods=["GET", "HEAD"], include_in_schema=False)
        return endpoint

    return register


def _answer(document: BaseModel, request: Request) -> Response:
    return _show(asset_of_bytes("answer", document.model_dump_json().encode(), JSON), request)


def _show(asset: Asset, request: Request) -> Response:
    """A document to be read where it is, and as a whole: neither a file to be saved, nor given in parts."""
    headers = Headers(raw=[field for field in request.headers.raw if field[0] != b"range"])
    response = respond(asset, headers, request.method)
    for name in ("accept-ranges", "content-disposition"):
        if name in response.headers:
            del response.headers[name]
    return response


def _html(text: str, policy: str = CONTENT_SECURITY_POLICY) -> Response:
    return HTMLResponse(text, headers={"Content-Security-Policy": policy})
