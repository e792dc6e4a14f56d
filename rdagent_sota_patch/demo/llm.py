"""An OpenAI-compatible HTTP server on loopback that answers from a script, and says so.

RD-Agent talks to it as to any provider (``OPENAI_API_BASE``). The model's name, the ``system_fingerprint``
and the ``Server`` header of each answer say that no language model is behind it.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from rdagent_sota_patch.demo.replies import Prompt, Screenplay, UnscriptedPromptError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

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
                raise ValueError("the body is not a JSON object")
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
