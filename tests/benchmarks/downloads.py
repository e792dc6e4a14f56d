"""A large download from the API's server, against the least that sends a file over HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.benchmarks.comparison import Bound, Comparison, Limit, compare
from tests.benchmarks.http_clients import download, serving
from tests.benchmarks.processes import run_child

MODULE = "downloads"
_MEGABYTES = 500
_AT_ONCE = 4
_ROUNDS = 11
_LEAST_SHARE = 0.7


def measure(folder: Path) -> list[Comparison]:
    """Measure on a file that is made for it in ``folder``, which needs 500 MB."""
    place = folder / "downloads"
    place.mkdir()
    file = place / "params.pkl"
    with file.open("wb") as writing:
        for _ in range(_MEGABYTES):
            writing.write(os.urandom(1_000_000))
    os.sync()
    ours, plain, several, plain_several, grown = [], [], [], [], []
    for _ in range(_ROUNDS):
        for kind, one, many in (("ours", ours, several), ("plain", plain, plain_several)):
            measured = run_child(MODULE, ["time", kind, file], place)
            one.append(measured["one"])
            many.append(measured["several"])
            if kind == "ours":
                grown.append(measured["grown"])
    file.unlink()
    share = Limit(Bound.RATIO, 1 / _LEAST_SHARE)
    return [
        compare(f"download of {_MEGABYTES} MB / from Python's socket.sendfile", "s", ours, plain, share),
        compare(f"the same, {_AT_ONCE} at once", "s", several, plain_several),
        compare("the same, memory that the server grows by", "MB", grown, (), Limit(Bound.AMOUNT, 32)),
    ]


def _serve_ours(file: Path) -> None:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    from rdagent_sota_patch.results.assets import Asset
    from rdagent_sota_patch.server.sending import respond
    from rdagent_sota_patch.server.server import ServerOptions, run_server

    size = file.stat().st_size
    asset = Asset("model.pkl", "application/octet-stream", size, hashlib.sha256().hexdigest(), path=file)

    async def give(request: Request) -> Response:
        return respond(asset, request.headers, request.method)

    app = Starlette(routes=[Route("/asset", give)])
    run_server(app, ServerOptions(port=0), lambda url: print(url, flush=True))


def _serve_plain(file: Path) -> None:
    """A thread for each connection, and ``socket.sendfile``."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)

    def serve(connection: socket.socket) -> None:
        with connection, file.open("rb") as content:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(1 << 16)
            size = os.fstat(content.fileno()).st_size
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            connection.sendfile(content)

    while True:
        threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()


def _time(kind: str, file: Path) -> dict[str, float]:
    size = file.stat().st_size
    with serving(MODULE, f"serve_{kind}", file) as (process, port):
        # What it imports and allocates for its first answer is not the file's.
        download(port, size)
        before = _peak(process)
        start = time.perf_counter()
        download(port, size)
        one = time.perf_counter() - start
        command = [sys.executable, __file__, "take", str(port), str(size)]
        start = time.perf_counter()
        clients = [subprocess.Popen(command) for _ in range(_AT_ONCE)]
        codes = [client.wait() for client in clients]
        if any(codes):
            raise RuntimeError("a download failed")
        several = time.perf_counter() - start
        return {"one": one, "several": several, "grown": _peak(process) - before}


def _peak(process: int) -> float:
    """The most resident memory of another process so far, in MB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) / 1024


def _main(mode: str, *arguments: str) -> None:
    if mode == "serve_ours":
        _serve_ours(Path(arguments[0]))
    elif mode == "serve_plain":
        _serve_plain(Path(arguments[0]))
    elif mode == "take":
        download(int(arguments[0]), int(arguments[1]))
    else:
        print(json.dumps(_time(arguments[0], Path(arguments[1]))))


if __name__ == "__main__":
    _main(*sys.argv[1:])
