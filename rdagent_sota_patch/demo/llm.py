"""An OpenAI-compatible server that answers each of RD-Agent's prompts from the script.

A prompt is recognised by a sentence of RD-Agent's own templates (``prompts.yaml`` in
``rdagent/components/proposal``, ``components/coder/*`` and ``scenarios/qlib``). Where a run is in the
script follows from the names in the prompt's history and from what this run was told before, so that a
retried, a resumed or a parallel run never gets a proposal twice.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.demo.script import (
    FACTOR_SCRIPT,
    FactorProposal,
    ModelProposal,
    ModelType,
    ScriptedFactor,
    extra_factor_proposal,
)

if TYPE_CHECKING:
    from types import TracebackType

_MODEL_NAME = re.compile(r"Scripted(MLP|GRU)(\d+)")
_FACTOR_TASK = re.compile(r"factor_name: (\w+)")
_TRIAL = re.compile(r"^\s*# Trial \d+:", re.MULTILINE)
_NO_CRITICS = "No critics found"
_MOST_FACTOR_LOOPS = 300


@dataclass(frozen=True, slots=True)
class Prompt:
    """The system and the user part of one chat request."""

    system: str
    user: str


class UnscriptedPromptError(LookupError):
    """RD-Agent asked something that the script has no answer to."""


@dataclass(slots=True)
class Screenplay:
    """The script of one run, and how far the run has come.

    Attributes:
        model_types: Types of the models proposed, in turn.
        accept_models: Whether model experiments are accepted.
        accept_factors: Whether factor experiments are accepted; None leaves it to the script.
    """

    model_types: tuple[ModelType, ...] = (ModelType.TABULAR,)
    accept_models: bool = True
    accept_factors: bool | None = None
    _factors_given: int = field(default=0, init=False)
    _models_given: int = field(default=0, init=False)

    def answer(self, prompt: Prompt) -> str:
        """The scripted answer.

        Raises:
            UnscriptedPromptError: None of the known sentences occurs in the prompt.
        """
        for sentence, reply in _REPLIES:
            if sentence in prompt.system:
                return reply(self, prompt)
        raise UnscriptedPromptError(f"the script has no answer to: {prompt.system[:300]}")

    def next_factor_proposal(self, history: str) -> FactorProposal:
        """The first proposal that this run has neither made nor finds in ``history`` or among known factors."""
        number = self._factors_given
        while any(factor.name in history for factor in _factor_proposal(number).factors):
            number += 1
        self._factors_given = number + 1
        return _factor_proposal(number)

    def next_model_proposal(self, history: str) -> ModelProposal:
        """A model that this run has neither proposed nor finds in ``history``."""
        past = [int(number) for _, number in _MODEL_NAME.findall(history)]
        number = max([self._models_given, *past]) + 1
        self._models_given = number
        return ModelProposal(number, self.model_types[(number - 1) % len(self.model_types)])


def _factor_proposal(number: int) -> FactorProposal:
    if number < len(FACTOR_SCRIPT):
        return FACTOR_SCRIPT[number]
    return extra_factor_proposal(number - len(FACTOR_SCRIPT))


def _factor_proposals() -> Iterator[FactorProposal]:
    return (_factor_proposal(number) for number in range(_MOST_FACTOR_LOOPS))


def _find_factor_proposal(text: str) -> FactorProposal:
    for proposal in _factor_proposals():
        if proposal.hypothesis in text:
            return proposal
    raise UnscriptedPromptError(f"no factor proposal of the script is named in: {text[:300]}")


def _find_factor(name: str) -> ScriptedFactor:
    for proposal in _factor_proposals():
        for factor in proposal.factors:
            if factor.name == name:
                return factor
    raise UnscriptedPromptError(f"the script has no factor named {name}")


def _find_model(text: str) -> ModelProposal:
    found = _MODEL_NAME.search(text)
    if found is None:
        raise UnscriptedPromptError(f"no model of the script is named in: {text[:300]}")
    model_type = ModelType.TIME_SERIES if found[1] == "GRU" else ModelType.TABULAR
    return ModelProposal(int(found[2]), model_type)


def _choose_action(_: Screenplay, prompt: Prompt) -> str:
    return json.dumps({"action": ("factor", "model")[len(_TRIAL.findall(prompt.user)) % 2]})


def _propose(screenplay: Screenplay, prompt: Prompt) -> str:
    about_models = re.search(r"new hypotheses for the (factor|model)", prompt.system)
    if about_models is not None and about_models[1] == "model":
        hypothesis, action = screenplay.next_model_proposal(prompt.user).hypothesis, "model"
    else:
        hypothesis, action = screenplay.next_factor_proposal(prompt.system + prompt.user).hypothesis, "factor"
    reply = {"hypothesis": hypothesis, "reason": "It is what the script of the demonstration says."}
    # fin_quant's output format asks for the action as well.
    if '"action"' in prompt.system:
        reply["action"] = action
    return json.dumps(reply)


def _describe_experiment(_: Screenplay, prompt: Prompt) -> str:
    # The target hypothesis comes first; the history after it names earlier ones.
    target = prompt.user.split("The former hypothesis and the corresponding feedbacks", 1)[0]
    if _MODEL_NAME.search(target):
        return json.dumps(_describe_model(_find_model(target)))
    proposal = _find_factor_proposal(target)
    return json.dumps(
        {
            factor.name: {
                "description": factor.description,
                "formulation": factor.formulation,
                "variables": dict(factor.variables),
            }
            for factor in proposal.factors
        }
    )


def _describe_model(model: ModelProposal) -> dict[str, Any]:
    layers = "a GRU over the window beside the last day" if model.model_type.value == "TimeSeries" else "one"
    return {
        model.name: {
            "description": f"A small network with {layers} hidden layer of {model.hidden_size} units.",
            "formulation": r"\hat{y} = w^\top \phi(W x + b) + c",
            "architecture": f"hidden layer of {model.hidden_size} units with SiLU, linear output",
            "variables": {r"\hat{y}": "predicted return", "x": "features of a stock"},
            "hyperparameters": {"hidden_size": str(model.hidden_size)},
            "training_hyperparameters": {
                "n_epochs": str(model.epochs),
                "lr": "0.005",
                "early_stop": str(model.epochs),
                "batch_size": "512",
                "weight_decay": "0.0001",
            },
            "model_type": model.model_type.value,
        }
    }


def _write_factor(_: Screenplay, prompt: Prompt) -> str:
    # The first name is the target; later ones are examples of earlier successes.
    name = _FACTOR_TASK.search(prompt.user)
    if name is None:
        raise UnscriptedPromptError(f"no factor is named in: {prompt.user[:300]}")
    return json.dumps({"code": _find_factor(name[1]).code})


def _write_model(_: Screenplay, prompt: Prompt) -> str:
    return json.dumps({"code": _find_model(prompt.user).code})


def _approve_code(_: Screenplay, __: Prompt) -> str:
    return _NO_CRITICS


def _approve_format(_: Screenplay, __: Prompt) -> str:
    return json.dumps({"output_format_decision": True, "output_format_feedback": "The format is correct."})


def _decide_on_code(_: Screenplay, prompt: Prompt) -> str:
    # RD-Agent's wording for a run of the code that failed; approving it would only postpone the error.
    failed = "Execution error" in prompt.user or "output file not found" in prompt.user
    feedback = "The code did not run." if failed else "The code runs and does what was asked for."
    return json.dumps({"final_decision": not failed, "final_feedback": feedback})


def _name_components(_: Screenplay, __: Prompt) -> str:
    return json.dumps({"component_no_list": []})


def _give_feedback(screenplay: Screenplay, prompt: Prompt) -> str:
    # fin_model uses the factor stage's system prompt, so the user prompt tells the two apart.
    if "Current Round Information" in prompt.user:
        accept = screenplay.accept_models
    else:
        accept = _find_factor_proposal(prompt.user).accept
        if screenplay.accept_factors is not None:
            accept = screenplay.accept_factors
    verdict = "accepted" if accept else "rejected"
    return json.dumps(
        {
            "Observations": f"The script of the demonstration has this experiment {verdict}.",
            "Feedback for Hypothesis": f"The hypothesis is {verdict}.",
            "New Hypothesis": "See the next entry of the script.",
            "Reasoning": "It is what the script of the demonstration says.",
            "Replace Best Result": "yes" if accept else "no",
            "Decision": accept,
        }
    )


_REPLIES: tuple[tuple[str, Callable[[Screenplay, Prompt], str]], ...] = (
    ("decide whether the next experiment should focus on factors or models", _choose_action),
    ("is working on generating new hypotheses", _propose),
    ("based on the hypothesis generated in the previous step", _describe_experiment),
    ("check whether user's code is align with", _approve_code),
    ("check whether the output is align with the format", _approve_format),
    ("User has finished evaluation and got some feedback from the evaluator", _decide_on_code),
    ("User is trying to implement some factors", _write_factor),
    ("User is trying to implement some pytorch models", _write_model),
    ("consist of the components below", _name_components),
    ("financial result analysis assistant", _give_feedback),
    ("quantitative analysis assistant", _give_feedback),
)

MODEL_NAME = "scripted-demo-not-a-language-model"
FINGERPRINT = "scripted"
_EMBEDDING_SIZE = 16


@dataclass(frozen=True, slots=True)
class ChatRecord:
    """One chat request and what it was answered."""

    run: str
    prompt: Prompt
    answer: str


class ScriptedLlm(AbstractContextManager["ScriptedLlm"]):
    """The server; runs in a thread from ``start`` to ``stop``, or as a context manager.

    Each API key is a run of its own: its place in the script is kept apart from the others'.
    """

    def __init__(self, screenplay: Callable[[], Screenplay] = Screenplay) -> None:
        self._new_screenplay = screenplay
        self._screenplays: dict[str, Screenplay] = {}
        self._records: list[ChatRecord] = []
        self._embedded = 0
        self._lock = threading.Lock()
        self._server = _Server(self)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Base address, as ``OPENAI_API_BASE`` wants it."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def records(self) -> tuple[ChatRecord, ...]:
        """Every chat request answered so far, oldest first."""
        with self._lock:
            return tuple(self._records)

    @property
    def embedded(self) -> int:
        """How many texts were embedded so far."""
        with self._lock:
            return self._embedded

    def direct(self, run: str, screenplay: Screenplay) -> None:
        """Give ``run`` (an API key) a script of its own; the default one serves all others."""
        with self._lock:
            self._screenplays[run] = screenplay

    def start(self) -> ScriptedLlm:
        """Start serving on a free port."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop serving and free the port."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> ScriptedLlm:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def complete(self, run: str, body: dict[str, Any]) -> dict[str, Any]:
        """Answer one chat completion request of ``run``.

        Raises:
            UnscriptedPromptError: The script has no answer.
        """
        messages = body.get("messages", [])
        prompt = Prompt(_text_of(messages, "system"), _text_of(messages, "user"))
        with self._lock:
            screenplay = self._screenplays.setdefault(run, self._new_screenplay())
            answer = screenplay.answer(prompt)
            self._records.append(ChatRecord(run, prompt, answer))
            number = len(self._records)
        message = {"role": "assistant", "content": answer}
        return {
            "id": f"chatcmpl-scripted-{number}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": MODEL_NAME,
            "system_fingerprint": FINGERPRINT,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }

    def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer one embeddings request."""
        texts = body.get("input", [])
        texts = [texts] if isinstance(texts, str) else list(texts)
        with self._lock:
            self._embedded += len(texts)
        return {
            "object": "list",
            "model": MODEL_NAME,
            "data": [
                {"object": "embedding", "index": index, "embedding": embed_text(str(text))}
                for index, text in enumerate(texts)
            ],
            "usage": {"prompt_tokens": 0, "total_tokens": 0},
        }


def embed_text(text: str) -> list[float]:
    """A unit vector that depends on ``text`` alone and means nothing."""
    digest = hashlib.sha256(text.encode()).digest()
    values = [byte - 127.5 for byte in digest[:_EMBEDDING_SIZE]]
    length = sum(value * value for value in values) ** 0.5
    return [value / length for value in values]


def _text_of(messages: list[dict[str, Any]], role: str) -> str:
    return "\n".join(str(message.get("content", "")) for message in messages if message.get("role") == role)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, llm: ScriptedLlm) -> None:
        self.llm = llm
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "ScriptedDemoLLM"
    sys_version = ""

    def do_GET(self) -> None:
        """List the one model."""
        if self.path.rstrip("/").endswith("/models"):
            self._send(HTTPStatus.OK, {"object": "list", "data": [{"id": MODEL_NAME, "object": "model"}]})
        else:
            self._send_error(HTTPStatus.NOT_FOUND, f"no such path: {self.path}")

    def do_POST(self) -> None:
        """Answer a chat completion or an embeddings request."""
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            if not isinstance(body, dict):
                raise ValueError("the body is not JSON object")
        except ValueError as error:
            self._send_error(HTTPStatus.BAD_REQUEST, str(error))
            return
        run = self.headers.get("Authorization", "").removeprefix("Bearer ")
        path = self.path.rstrip("/")
        if path.endswith("/chat/completions"):
            if body.get("stream"):
                self._send_error(HTTPStatus.BAD_REQUEST, "this scripted server does not stream")
                return
            try:
                self._send(HTTPStatus.OK, self.server.llm.complete(run, body))
            except UnscriptedPromptError as error:
                self._send_error(HTTPStatus.BAD_REQUEST, str(error))
        elif path.endswith("/embeddings"):
            self._send(HTTPStatus.OK, self.server.llm.embed(body))
        else:
            self._send_error(HTTPStatus.NOT_FOUND, f"no such path: {self.path}")

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: what was asked is kept in ``ScriptedLlm.records``."""

    def _send_error(self, status: HTTPStatus, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": "scripted_demo_server"}})

    def _send(self, status: HTTPStatus, payload: dict[str, Any]) -> None:
        data = json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
