from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from rdagent_sota_patch.demo.llm import FINGERPRINT, MODEL_NAME, Screenplay, ScriptedLlm
from rdagent_sota_patch.demo.script import ModelType

PROPOSE_MODEL = "The user is working on generating new hypotheses for the model tuning"


@pytest.fixture
def llm() -> Iterator[ScriptedLlm]:
    """A running server."""
    with ScriptedLlm() as server:
        yield server


def post(llm: ScriptedLlm, path: str, body: dict[str, Any], run: str = "run") -> tuple[dict[str, Any], str]:
    """Send a request as a client would; returns the answer and the Server header."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {run}"}
    with urlopen(Request(llm.url + path, json.dumps(body).encode(), headers), timeout=5) as response:
        return json.load(response), response.headers["Server"]


def chat(llm: ScriptedLlm, system: str, run: str = "run") -> str:
    """The content of one chat completion."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "first round"}]
    answer, _ = post(llm, "/chat/completions", {"model": "any", "messages": messages}, run)
    return str(answer["choices"][0]["message"]["content"])


def test_server_says_that_it_is_scripted(llm: ScriptedLlm) -> None:
    """Model name, fingerprint and header all say that no language model answered."""
    body = {"model": "gpt-4", "messages": [{"role": "system", "content": PROPOSE_MODEL}]}
    answer, server = post(llm, "/chat/completions", body)

    assert answer["model"] == MODEL_NAME
    assert "not-a-language-model" in MODEL_NAME
    assert answer["system_fingerprint"] == FINGERPRINT
    assert server.strip() == "ScriptedDemoLLM"


def test_runs_have_places_of_their_own_in_the_script(llm: ScriptedLlm) -> None:
    """Two API keys each start at the beginning; the same key goes on."""
    first, again, other = (chat(llm, PROPOSE_MODEL, run) for run in ("a", "a", "b"))

    assert "ScriptedMLP1" in first
    assert "ScriptedMLP2" in again
    assert other == first


def test_run_can_be_directed(llm: ScriptedLlm) -> None:
    """A run that was given a screenplay follows it, others the default."""
    llm.direct("timed", Screenplay(model_types=(ModelType.TIME_SERIES,)))

    assert "ScriptedGRU1" in chat(llm, PROPOSE_MODEL, "timed")
    assert "ScriptedMLP1" in chat(llm, PROPOSE_MODEL, "plain")


def test_requests_are_recorded(llm: ScriptedLlm) -> None:
    """Each chat request is kept with its run, its prompt and its answer."""
    content = chat(llm, PROPOSE_MODEL, "a")
    (record,) = llm.records

    assert (record.run, record.prompt.user, record.answer) == ("a", "first round", content)


def test_embeddings_depend_on_the_text_alone(llm: ScriptedLlm) -> None:
    """The same text has the same unit vector, another text another one."""
    answer, _ = post(llm, "/embeddings", {"model": "any", "input": ["one", "two", "one"]})
    one, two, again = (entry["embedding"] for entry in answer["data"])

    assert one == again != two
    assert sum(value * value for value in one) == pytest.approx(1.0)
    assert llm.embedded == 3


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/chat/completions", {"messages": [{"role": "system", "content": "Write a poem."}]}, 400),
        ("/chat/completions", {"messages": [], "stream": True}, 400),
        ("/images", {}, 404),
    ],
)
def test_unanswerable_request_is_refused(
    llm: ScriptedLlm, path: str, body: dict[str, Any], status: int
) -> None:
    """What is not scripted is refused with a reason, never answered with an invention."""
    with pytest.raises(HTTPError) as refused:
        post(llm, path, body)

    with refused.value as response:
        assert response.code == status
        assert json.load(response)["error"]["message"]
