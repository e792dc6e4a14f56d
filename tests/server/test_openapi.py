"""The API keeps what its OpenAPI document says, to requests of all kinds; schemathesis thinks them up."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

pytest.importorskip("schemathesis")

import jsonschema_rs
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from tests.results.log_root import ODD_NAMES

if TYPE_CHECKING:
    from schemathesis import BaseSchema

    from .served import Served

OPERATIONS = {
    "/health",
    "/tasks",
    "/tasks/{task_id}",
    "/tasks/{task_id}/summary",
    "/tasks/{task_id}/loops",
    "/tasks/{task_id}/session_anchor",
    "/tasks/{task_id}/sota_factor_anchor",
    "/tasks/{task_id}/factor_order",
    "/tasks/{task_id}/asset_bytes",
    "/tasks/{task_id}/bundle",
    "/tasks/latest",
    "/tasks/{task_id}/v2_alignment_preview",
    "/tasks/{task_id}/complete_assets",
    "/tasks/{task_id}/loops/{loop}/model_code",
    "/tasks/{task_id}/workspaces",
    "/tasks/{task_id}/assets",
    "/tasks/{task_id}/factor.py",
    "/tasks/{task_id}/model.pkl",
    "/api/extractors/sota_factors/v2/{task_id}/aligned",
    "/api/extractors/sota_factors/v2/{task_id}/factor_metrics",
    "/api/extractors/sota_factors/v2/{task_id}/loops/{loop}/factor_metrics",
    "/alpha158/meta",
}
IDS = [
    "accepted",
    "latest",
    "embedded",
    "rejected",
    "model",
    "torn",
    "altered",
    "gone",
    "..",
    *ODD_NAMES[:-1],
]
KEYS = [
    "model.pkl", "params.pkl", "factor.py", "GapA.py", "based_factor_0/factor.py", "manifest.json",
    "model_meta.json", "model.txt", "replay/predictions.parquet", "../../canary.txt", "factor_entry.py",
]  # fmt: skip
RANGES = ["bytes=0-9", "bytes=5-", "bytes=-4", "bytes=999999999-", "bytes=0-1,3-4"]
SEEN_BY_ALL = {200, 304, 412}
SEEN = {200, 206, 304, 404, 405, 409, 412, 416, 422}


def load(served: Served, **more: Any) -> BaseSchema:
    config = SchemathesisConfig.from_dict({"seed": 20260116, **more})
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json", config=config)


def test_the_document_is_openapi(served: Served) -> None:
    """It is valid by OpenAPI 3.1, and each of its schemas by JSON Schema 2020-12."""
    document = served.get("/openapi.json").document
    assert document["openapi"].startswith("3.1.")
    load(served).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema | {"$schema": "https://json-schema.org/draft/2020-12/schema"})


def test_everything_is_described(served: Served) -> None:
    """Every operation, parameter, answer, header, schema and field says what it is."""
    document = served.get("/openapi.json").document
    assert document["paths"].keys() == OPERATIONS
    bare = []
    for path, operations in document["paths"].items():
        for operation in operations.values():
            parts = {"": operation}
            parts |= {each["name"]: each for each in operation.get("parameters", ())}
            for status, response in operation["responses"].items():
                parts[status] = response
                parts |= {f"{status} {name}": each for name, each in response.get("headers", {}).items()}
            bare += [f"{path} {name}" for name, part in parts.items() if not part.get("description")]
    for name, schema in document["components"]["schemas"].items():
        fields = {"": schema, **schema.get("properties", {})}
        bare += [f"{name} {field}" for field, part in fields.items() if not part.get("description")]
    assert bare == []


def is_valid_as_sent(message: str, sample: str) -> bool:
    """Whether the only fault is a list of one number in place of the number: in a query both are the same bytes."""
    told = re.search(r"parameter `(limit|offset)` in query - .*\(was integer, became array\)$", message)
    sent = told and re.findall(rf"[?&]{told[1]}=(\d+)(?:\.0)?(?=[&'])", sample)
    return bool(sent) and len(sent) == 1


@pytest.mark.usefixtures("bundles_made")
def test_requests_of_all_kinds(served: Served) -> None:
    """Valid and invalid, by the document: every answer is one that it has, and as it describes it."""
    schema = load(
        served,
        **{
            "dictionaries": {
                "ids": {"values": IDS},
                "keys": {"values": KEYS},
                "ranges": {"values": RANGES},
                "tags": {"values": ["*"]},
            },
            "parameters": {
                "path.task_id": {"dictionary": "ids", "probability": 0.8},
                "query.key": {"dictionary": "keys", "probability": 0.8},
                "query.relpath": {"dictionary": "keys", "probability": 0.8},
                "header.Range": {"dictionary": "ranges", "probability": 0.6},
                "header.If-Match": {"dictionary": "tags", "probability": 0.8},
            },
            "generation": {"mode": "all", "max-examples": 40, "deterministic": True},
            "checks": {
                "positive_data_acceptance": {
                    # A condition that does not hold is not a flaw of the request.
                    "expected-statuses": ["2xx", "304", "404", "409", "412", "416"]
                }
            },
        },
    )
    seen: Counter[int] = Counter()
    failures = {}
    for event in from_schema(schema).execute():
        assert not isinstance(event, events.FatalError | events.NonFatalError), event
        if not isinstance(event, events.ScenarioFinished):
            continue
        for interaction in event.recorder.interactions.values():
            assert interaction.response is not None, "A request was not answered."
            seen[interaction.response.status_code] += 1
        for checks in event.recorder.checks.values():
            for check in checks:
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    if is_valid_as_sent(failure.message, check.failure_info.code_sample):
                        continue
                    failures[event.label, check.name, failure.message] = check.failure_info.code_sample
    assert failures == {}
    assert seen.keys() >= SEEN, seen
    assert seen.total() > 700
    assert served.get("/health").status == 200


@pytest.mark.parametrize("path", sorted(OPERATIONS))
def test_every_operation_is_reached(served: Served, path: str) -> None:
    """With a run and keys that are there, and by conditions, each gives the answers that it is documented to give."""
    operation = load(served)[path]["GET"]
    names: dict[str, Any] = {"task_id": "accepted"} if "{task_id}" in path else {}
    if "{loop}" in path:
        names["loop"] = 2
    if path.endswith("model_code"):
        names |= {"task_id": "model", "loop": 0}
    query = {"key": "model.pkl"} if path.endswith("asset_bytes") else {}
    query = {"relpath": "model.pkl"} if path.endswith("assets") and "complete" not in path else query

    def ask(names: dict[str, Any] = names, query: dict[str, Any] = query, **headers: str) -> Any:
        case = operation.Case(path_parameters=names, query=query, headers=headers)
        answer = case.call()
        case.validate_response(answer)
        return answer

    def statuses(**headers: str) -> int:
        return int(ask(**{name.replace("_", "-"): value for name, value in headers.items()}).status_code)

    whole = ask()
    assert whole.status_code == 200
    tag = whole.headers["etag"][0]
    assert statuses(If_None_Match=tag) == statuses(If_None_Match="*") == 304
    assert statuses(If_Match=tag) == statuses(If_Match="*") == 200
    assert statuses(If_Match='"another"') == 412
    if path.endswith(("asset_bytes", "bundle", "}/assets", ".py", ".pkl")):
        assert statuses(Range="bytes=1-4") == statuses(Range="bytes=1-4", If_Range=tag) == 206
        assert statuses(Range="bytes=1-4", If_Range='"another"') == 200
        assert statuses(Range=f"bytes={len(whole.content)}-") == 416
    else:
        assert statuses(Range="bytes=1-4") == 200
    if names:
        assert ask(names | {"task_id": "nobody's"}).status_code == 404
        assert ask(names | {"task_id": "torn"}).status_code == 409
        assert ask(names | {"task_id": "x" * 256}).status_code == 422


@pytest.mark.parametrize("name", ODD_NAMES)
def test_runs_of_any_name_are_reached(served: Served, name: str) -> None:
    """What the list calls a run is what it can be asked for by."""
    case = load(served)["/tasks/{task_id}"]["GET"].Case(path_parameters={"task_id": quote(name, safe="")})
    answer = case.call_and_validate()
    assert (answer.status_code, answer.json()["task_id"]) == (200, name)
    listed = served.get("/tasks?limit=100").document["tasks"]
    assert name in {each["task_id"] for each in listed}
