"""A server that keeps the API's contract for one bundle, on a real port, and breaks it where a test says so."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn

from rdagent_sota_patch.bundle.documents import FACTORS_NAME, MANIFEST_NAME, WEIGHTS_NAME
from rdagent_sota_patch.results.schemas import (
    AssetItem,
    BasedFactorEntry,
    ProblemDocument,
    ProblemItem,
    SotaFactorAnchor,
    TaskItem,
    TaskList,
    TaskManifest,
)

NOW = "2026-01-16T18:42:35+00:00"
PIECE = 64 << 10


@dataclass
class Asked:
    """A request for an asset, and what was answered.

    Attributes:
        start: Where the range that was asked for begins; 0 without one.
        sent: Bytes of the body that were sent.
    """

    key: str
    status: int
    start: int = 0
    sent: int = 0


@dataclass
class Faults:
    """What goes wrong, by asset key; each cut happens once.

    Attributes:
        cuts: After how many bytes of an answer the connection breaks.
        flips: At which byte of the file another one is sent.
        problems: Status and slug in place of the asset.
        seconds: Pause before each piece of a body.
        piece: Bytes of a piece.
        no_range: Whether ranges are ignored.
        on_asset: Called before an asset is answered.
        raw: Answers in place of the right ones, by path: status, headers and body.
    """

    cuts: dict[str, list[int]] = field(default_factory=dict)
    flips: dict[str, int] = field(default_factory=dict)
    problems: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    seconds: float = 0.0
    piece: int = PIECE
    no_range: bool = False
    on_asset: Callable[[str], None] | None = None
    raw: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)


class ContractServer:
    """Serves a bundle's folder as the run ``made``; what changes there is served changed."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def serve(self, folder: Path, evidence: Path | None = None, model: Path | None = None) -> None:
        """From now on serve this bundle, others for ``replay=true`` and ``stage=model``, and without any fault."""
        self.folder = folder
        self.model = model
        self.evidence = evidence
        self.task_id = "made"
        self.token: str | None = None
        self.faults = Faults()
        self.asked: list[Asked] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.anchor_changes: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def transferred(self) -> list[str]:
        """Keys of the assets whose bytes were sent since the last call, each as often as it was asked for."""
        keys = [asked.key for asked in self.asked if asked.sent]
        self.asked.clear()
        return keys

    def start(self) -> None:
        # With its protocol named, or asyncio would leave Nagle's delays on.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        config = uvicorn.Config(
            self._answer,
            log_level="error",
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            interface="asgi3",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listening],))
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        self._listening = listening

    def stop(self) -> None:
        """End at once: what is being sent breaks off."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._listening.close()

    def anchor(self) -> SotaFactorAnchor:
        weights = self._read(WEIGHTS_NAME)
        values: dict[str, Any] = dict.fromkeys(SotaFactorAnchor.model_fields)
        values |= {
            "ok": True,
            "task_id": self.task_id,
            "chosen_session_file": "__session__/1/4_record",
            "source_session_dir_id": 1,
            "hist_len": 2,
            "last_sota_factor_index": 1,
            "factor_file_dict_keys": ("factor.py", "model.pkl"),
            "resolved_factor_entry_key": "factor.py",
            "based_factor_entries": (
                BasedFactorEntry(
                    based_index=0,
                    factors=("ZMom",),
                    resolved_factor_entry_keys=("based_factor_0/factor.py",),
                    resolved_factor_entry_keys_error=None,
                ),
            ),
            "resolved_model_weight_key": "model.pkl",
            "resolved_model_weight_source": "factor_exp",
            "resolved_model_weight_sha256": hashlib.sha256(weights).hexdigest(),
            "resolved_model_meta_key": "model_meta.json",
        }
        return SotaFactorAnchor.model_validate(values | self.anchor_changes)

    def task(self) -> TaskManifest:
        factors = json.loads(self._read(FACTORS_NAME))["factors"]
        codes = {"factor.py": factors[-1], "based_factor_0/factor.py": factors[0]}
        assets = [_asset("model.pkl", "model_weight", None, self._read(WEIGHTS_NAME))]
        assets += [
            _asset(key, "factor_code", one["name"], self._read(one["code_relpath"]))
            for key, one in codes.items()
        ]
        return TaskManifest(
            task_id=self.task_id,
            updated_at_utc=NOW,
            kind="factor",
            loop_class="FactorRDLoop",
            hist_len=2,
            has_sota=True,
            chosen_session_file="__session__/1/4_record",
            signature="unsigned",
            assets=tuple(assets),
            bundle_stages=("factor",) if self.model is None else ("factor", "model"),
        )

    def _read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.paths.append(path)
        self.headers.append(headers)
        if path in self.faults.raw:
            await _send(send, *self.faults.raw[path])
        elif self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            await self._problem(send, path, 401, "token-required")
        elif path == "/tasks":
            item = TaskItem(
                task_id=self.task_id, updated_at_utc=NOW, kind="factor", loops=2, has_sota=True, problem=None
            )
            listing = TaskList(tasks=(item,), total=1, limit=20, offset=0)
            await _send(send, 200, {}, listing.model_dump_json().encode())
        elif path in {"/tasks/latest/sota_factor_anchor", f"/tasks/{self.task_id}/sota_factor_anchor"}:
            await _send(send, 200, {}, self.anchor().model_dump_json().encode())
        elif path in {"/tasks/latest", f"/tasks/{self.task_id}"}:
            await _send(send, 200, {}, self.task().model_dump_json().encode())
        elif path == f"/tasks/{self.task_id}/asset_bytes":
            query = parse_qs(scope["query_string"].decode())
            of_model = query.get("stage") == ["model"]
            folder = self.evidence if "replay" in query and self.evidence is not None else self.folder
            await self._asset(send, query["key"][0], (of_model and self.model) or folder, headers)
        else:
            await self._problem(send, path, 404, "task-not-found")

    async def _asset(self, send: Any, key: str, folder: Path, headers: dict[str, str]) -> None:
        faults = self.faults
        if faults.on_asset is not None:
            faults.on_asset(key)
        if faults.problems.get(key):
            status, slug = faults.problems[key].pop(0)
            self.asked.append(Asked(key, status))
            await self._problem(send, key, status, slug)
            return
        listed = json.loads((folder / MANIFEST_NAME).read_text())["files"]
        if key not in listed and key != MANIFEST_NAME:
            await self._problem(send, key, 404, "asset-not-found")
            return
        content = (folder / key).read_bytes()
        # As the manifest has it: a file that was damaged on the server's disk is sent under its old name.
        sha256 = hashlib.sha256(content).hexdigest() if key == MANIFEST_NAME else listed[key]["sha256"]
        if headers.get("if-match") not in {None, f'"{sha256}"'}:
            self.asked.append(Asked(key, 412))
            await self._problem(send, key, 412, "asset-changed")
            return
        if headers.get("if-none-match") == f'"{sha256}"':
            self.asked.append(Asked(key, 304))
            await _send(send, 304, {"etag": f'"{sha256}"'}, b"")
            return
        if key in faults.flips:
            at = faults.flips[key]
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        await self._send_content(send, key, content, sha256, headers)

    async def _send_content(
        self, send: Any, key: str, content: bytes, sha256: str, headers: dict[str, str]
    ) -> None:
        digest = base64.b64encode(bytes.fromhex(sha256)).decode()
        told = {"etag": f'"{sha256}"', "repr-digest": f"sha-256=:{digest}:", "accept-ranges": "bytes"}
        start, status = 0, 200
        if "range" in headers and not self.faults.no_range:
            start, status = int(headers["range"].removeprefix("bytes=").partition("-")[0]), 206
            told["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        told["content-length"] = str(len(body))
        asked = Asked(key, status, start)
        self.asked.append(asked)
        cuts = self.faults.cuts.get(key, [])
        end = cuts.pop(0) if cuts else len(body)
        await send({"type": "http.response.start", "status": status, "headers": _encoded(told)})
        size = self.faults.piece
        for at in range(0, min(end, len(body)), size):
            if self.faults.seconds:
                await asyncio.sleep(self.faults.seconds)
            piece = body[at : min(at + size, end)]
            asked.sent += len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if end >= len(body):
            await send({"type": "http.response.body", "body": b""})

    async def _problem(self, send: Any, path: str, status: int, slug: str) -> None:
        item = ProblemItem(slug=slug, message=f"{path} is refused.", hint="Do something else.")
        document = ProblemDocument(
            type=f"urn:rdagent-sota:{slug}",
            title=slug,
            status=status,
            detail=item.message,
            instance=path,
            slug=slug,
            hint=item.hint,
            problems=(item,),
        )
        headers = {"content-type": "application/problem+json"}
        await _send(send, status, headers, document.model_dump_json().encode())


@contextmanager
def running(server: ContractServer) -> Iterator[ContractServer]:
    """The server, listening inside the block."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _asset(key: str, role: str, name: str | None, content: bytes) -> AssetItem:
    sha256 = hashlib.sha256(content).hexdigest()
    return AssetItem.model_validate(
        {"key": key, "role": role, "name": name, "size": len(content), "sha256": sha256}
    )


async def _send(send: Any, status: int, headers: dict[str, str], body: bytes) -> None:
    told = {"content-type": "application/json", **headers}
    if status != 304:
        told = {"content-length": str(len(body)), **told}
    await send({"type": "http.response.start", "status": status, "headers": _encoded(told)})
    await send({"type": "http.response.body", "body": body})


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
