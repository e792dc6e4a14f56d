"""The server: where it listens, how it stops, and what clients may hold."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.results.assets import Asset
from rdagent_sota_patch.results.schemas import ProblemDocument
from rdagent_sota_patch.server import server as server_module
from rdagent_sota_patch.server.sending import respond
from rdagent_sota_patch.server.server import Limits, Server, ServerOptions, listen, run_server
from tests.server.listening import head_and_body, read_all, running, talk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

LARGE = 24 << 20
"""More than the buffers of two sockets hold."""
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = GET[:-2] + b"Connection: close\r\n\r\n"


async def _ready(_: Request) -> Response:
    return PlainTextResponse("ready")


async def _large(_: Request) -> Response:
    return Response(bytes(LARGE))


async def _slow(_: Request) -> Response:
    await asyncio.sleep(0.5)
    return PlainTextResponse("slow")


async def _file(request: Request) -> Response:
    path = Path(os.environ["SERVED_FILE"])
    asset = Asset("model.pkl", "application/octet-stream", path.stat().st_size, "0" * 64, path=path)
    return respond(asset, request.headers, request.method)


APP = Starlette(
    routes=[Route("/", _ready), Route("/large", _large), Route("/slow", _slow), Route("/file", _file)]
)


@pytest.fixture
def served_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "params.pkl"
    with path.open("wb") as file:
        file.truncate(LARGE)
    monkeypatch.setenv("SERVED_FILE", str(path))
    return path


def _connect(port: int, sent: bytes = b"") -> socket.socket:
    client = socket.socket()
    client.settimeout(10)
    # Before it connects, so that little can be under way to whom does not read.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    client.connect(("127.0.0.1", port))
    client.sendall(sent)
    return client


def _get(path: str) -> bytes:
    return LAST.replace(b"GET /", f"GET {path}".encode(), 1)


def _problem_of(answer: bytes) -> ProblemDocument:
    status, fields, body = head_and_body(answer)
    assert fields["content-type"] == "application/problem+json"
    assert fields["connection"] == "close"
    document = ProblemDocument.model_validate_json(body)
    assert document.status == status
    return document


def test_answers_on_the_port_it_announces() -> None:
    """What is announced can be asked, and the answer does not say by which software."""
    with running(APP) as port:
        status, fields, body = head_and_body(talk(port, LAST))
    assert (status, body) == (200, b"ready")
    assert "date" in fields
    assert "server" not in fields


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_hosts(host: str) -> None:
    """Names and both kinds of addresses can be listened on, and become part of the URL as they must."""
    if host == "::1" and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    urls: list[str] = []

    def stop(url: str) -> None:
        urls.append(url)
        server.stop()

    server = Server(APP, ServerOptions(host, 0), stop)
    server.run()
    assert urls[0].startswith("http://[::1]:" if ":" in urls[0][7:-6] else "http://127.0.0.1:")


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["", "no.such.host.invalid", "203.0.113.1", "a" * 300, "\x00"])
def test_cannot_listen(host: str) -> None:
    """A host that is not this machine's is refused, and none is not all of them."""
    with pytest.raises(ApiError) as caught:
        run_server(APP, ServerOptions(host, 0), pytest.fail)
    assert caught.value.slug == "cannot-listen"


def test_port_in_use() -> None:
    """A port that another program has is refused, with a way out."""
    with listen("127.0.0.1", 0) as taken, pytest.raises(ApiError) as caught:
        run_server(APP, ServerOptions(port=taken.getsockname()[1]), pytest.fail)
    assert caught.value.slug == "cannot-listen"
    assert "already in use" in str(caught.value)


@pytest.mark.parametrize("port", [-1, 65536, 1 << 40])
def test_no_port(port: int) -> None:
    """A number that is not a port is refused in the same way."""
    with pytest.raises(ApiError) as caught:
        listen("127.0.0.1", port)
    assert caught.value.slug == "cannot-listen"


def test_too_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that would run out of open files is told of at the start."""
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 1000))
    with pytest.raises(ApiError) as caught:
        run_server(APP, ServerOptions(port=0), pytest.fail)
    assert caught.value.slug == "too-few-open-files"
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: raised.append(both))
    server_module._allow_open_files(512)
    assert raised == [(1664, 4096)]


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from rdagent_sota_patch.server.server import Limits
from rdagent_sota_patch.server.server import ServerOptions, run_server
from tests.server.test_server import APP

run_server(APP, ServerOptions(port=0, limits=Limits(stop_seconds=3)), lambda url: print(url, flush=True))
print("stopped", flush=True)
"""


@pytest.fixture
def process(served_file: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The server as a program of its own, and its port."""
    project = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", PROGRAM, project]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            yield started, int(started.stdout.readline().rpartition(":")[2])
        finally:
            started.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal(process: tuple[subprocess.Popen[str], int], number: signal.Signals) -> None:
    """An answer under way is finished, idle clients are let go, and the program goes on after the server."""
    started, port = process
    with _connect(port) as idle, _connect(port, GET[:10]) as half, _connect(port, _get("/slow")) as asking:
        time.sleep(0.2)
        started.send_signal(number)
        assert head_and_body(read_all(asking))[2] == b"slow"
        assert read_all(idle) == read_all(half) == b""
    assert started.communicate(timeout=10) == ("stopped\n", "")
    assert started.returncode == 0


def test_stopped_in_a_transfer(process: tuple[subprocess.Popen[str], int]) -> None:
    """A client that takes nothing more does not keep the server from stopping."""
    started, port = process
    with _connect(port, _get("/file")) as stuck, _connect(port, _get("/large")) as another:
        assert stuck.recv(1) and another.recv(1)
        started.send_signal(signal.SIGTERM)
        _, errors = started.communicate(timeout=10)
        assert len(read_all(stuck)) < LARGE
    assert started.returncode == 0
    assert "Traceback" not in errors


def test_second_signal(process: tuple[subprocess.Popen[str], int]) -> None:
    """A second signal waits for nothing."""
    started, port = process
    with _connect(port, _get("/file")) as stuck:
        assert stuck.recv(1)
        started.send_signal(signal.SIGINT)
        time.sleep(0.3)
        started.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, errors = started.communicate(timeout=10)
    assert time.monotonic() - began < 2
    assert started.returncode == 0
    assert "Traceback" not in errors


QUICK = Limits(
    connections=8,
    header_bytes=2048,
    header_seconds=0.3,
    keep_alive_seconds=1,
    stall_seconds=0.4,
    stop_seconds=1,
)


@pytest.fixture(scope="module")
def quick() -> Iterator[int]:
    """A server that has little patience."""
    with running(APP, QUICK) as port:
        yield port


@pytest.mark.parametrize("sent", [b"", GET[:-2], b"POST / HTTP/1.1\r\nHost: x\r\nContent-Le"])
def test_head_that_does_not_come(quick: int, sent: bytes) -> None:
    """Whoever begins a request must end its head in time."""
    began = time.monotonic()
    assert talk(quick, sent, timeout=3) == b""
    assert 0.2 < time.monotonic() - began < 2


@pytest.mark.parametrize("answered_before", [False, True])
def test_head_that_trickles(quick: int, answered_before: bool) -> None:
    """Single bytes, however many, buy no more time, on a connection that was of use before neither."""
    with _connect(quick) as client:
        if answered_before:
            client.sendall(GET)
            while b"ready" not in client.recv(1 << 10):
                pass
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 3:
                client.sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() - began < 2


def test_body_without_end(quick: int) -> None:
    """A body is never waited for, and one without an end is cut off."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with _connect(quick, head) as client:
        assert client.recv(1 << 10).startswith(b"HTTP/1.1 405")
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < 5:
                client.sendall(b"1\r\nx\r\n")
                time.sleep(0.02)
        assert time.monotonic() - began < 3


def test_idle_connection(quick: int) -> None:
    """A connection is kept for further requests, for a while."""
    began = time.monotonic()
    with _connect(quick, GET) as client:
        time.sleep(0.6)
        client.sendall(GET)
        assert read_all(client).count(b"ready") == 2
    assert 1.5 < time.monotonic() - began < 4


@pytest.mark.parametrize("path", ["/large", "/file"])
def test_client_that_does_not_read(quick: int, served_file: Path, path: str) -> None:
    """Whoever takes nothing of an answer is let go, be it in memory or in a file."""
    with _connect(quick, _get(path)) as client:
        assert client.recv(1)
        time.sleep(0.9)
        received = len(read_all(client))
    assert received < LARGE
    assert talk(quick, LAST).endswith(b"ready")


@pytest.mark.parametrize("path", ["/large", "/file"])
def test_client_that_reads_slowly(quick: int, served_file: Path, path: str) -> None:
    """Whoever goes on taking gets all of it, however long it takes in all."""
    left = LARGE
    with socket.create_connection(("127.0.0.1", quick)) as client:
        client.sendall(_get(path))
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(1)
        began = time.monotonic()
        while left and (taken := client.recv(min(left, 2 << 20), socket.MSG_WAITALL)):
            left -= len(taken)
            time.sleep(0.08)
    assert left == 0
    assert time.monotonic() - began > 2 * QUICK.stall_seconds


def test_too_many_connections(quick: int) -> None:
    """Those beyond the limit are told so; far beyond it nobody is listened to; and it passes."""
    clients = [_connect(quick) for _ in range(QUICK.connections)]
    assert _problem_of(talk(quick, GET)).slug == "server-busy"
    assert head_and_body(talk(quick, GET.replace(b"GET", b"HEAD")))[::2] == (503, b"")
    more = [_connect(quick) for _ in range(QUICK.connections + 4)]
    assert read_all(more[-1]) == b""
    for client in clients + more:
        client.close()
    deadline = time.monotonic() + 3
    while not talk(quick, LAST).endswith(b"ready"):
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n",
        b"GET /" + b"a" * 4000 + b" HTTP/1.1\r\n",
        GET[:-2] + b"X: " + b"a" * 4000,
        GET[:-2] + b"X: a\r\n" * 1000,
    ],
)
def test_what_is_no_request(quick: int, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be read as HTTP is answered by uvicorn, without repeating it, and does not trouble the server."""
    status, fields, body = head_and_body(talk(quick, sent))
    assert (status, fields["connection"], body) == (400, "close", b"Invalid HTTP request received.")
    assert not caplog.records


def test_nonsense_after_a_request(quick: int, caplog: pytest.LogCaptureFixture) -> None:
    """A request is answered though another follows that cannot be read."""
    answers = talk(quick, GET + b"nonsense\r\n\r\n")
    assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"HTTP/1.1 400 Bad Request") == 1
    assert not caplog.records


@pytest.mark.parametrize("wait", [0.0, 0.2, 0.7])
def test_nonsense_in_a_body(quick: int, wait: float, caplog: pytest.LogCaptureFixture) -> None:
    """A body that cannot be read ends the connection, before the answer, in it or after it."""
    with _connect(quick, _get("/slow")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n") as client:
        time.sleep(wait)
        client.sendall(b"nonsense\r\n\r\n")
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 400" if wait < 0.5 else b"HTTP/1.1 200")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert not caplog.records


@pytest.mark.parametrize(
    "field",
    [
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==",
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk",
        b"Expect: 100-continue\r\nContent-Length: 5",
        b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https",
    ],
)
def test_what_is_not_offered(quick: int, field: bytes) -> None:
    """Other protocols are not begun; the request is answered as any other."""
    with _connect(quick, GET[:-2] + field + b"\r\n\r\n") as client:
        received = b""
        while not received.endswith(b"ready"):
            more = client.recv(1 << 10)
            assert more, received
            received += more
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 1


def test_old_client(quick: int, served_file: Path) -> None:
    """HTTP/1.0 is answered, and the connection ended with it, after a file too."""
    assert talk(quick, b"GET / HTTP/1.0\r\n\r\n").endswith(b"ready")
    body = head_and_body(talk(quick, b"GET /file HTTP/1.0\r\n\r\n"))[2]
    assert len(body) == LARGE


def test_no_delay() -> None:
    """Answers on a kept connection do not wait for acknowledgements, which would be 40 ms each."""
    with running(APP) as port, _connect(port) as client:
        took = []
        for _ in range(30):
            began = time.monotonic()
            client.sendall(GET)
            received = b""
            while not received.endswith(b"ready"):
                received += client.recv(1 << 10)
            took.append(time.monotonic() - began)
        assert statistics.median(took) < 0.02


def test_clients_that_vanish(served_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Clients that go away in the middle leave nothing open and nothing in the log."""
    with running(APP) as port:
        assert talk(port, LAST).endswith(b"ready")
        before = len(list(Path("/proc/self/fd").iterdir()))
        for path in ("/file", "/large", "/slow") * 5:
            with _connect(port, _get(path)) as client:
                if path != "/slow":
                    client.recv(100)
        deadline = time.monotonic() + 5
        while len(list(Path("/proc/self/fd").iterdir())) > before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert talk(port, LAST).endswith(b"ready")
    assert not caplog.records


def test_others_have_their_turn(served_file: Path) -> None:
    """While files are sent to quick clients, others are answered."""
    download = (
        "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
        f"s.sendall({_get('/file')!r});\nwhile s.recv(1 << 20): pass"
    )
    with running(APP) as port:
        clients = [subprocess.Popen([sys.executable, "-c", download, str(port)]) for _ in range(3)]
        answered = 0
        while any(client.poll() is None for client in clients):
            assert talk(port, LAST).endswith(b"ready")
            answered += 1
    assert answered > 5
    assert {client.returncode for client in clients} == {0}


def test_defaults() -> None:
    """Nobody else's machine is listened to, and two hundred clients are well within what is taken."""
    assert Limits().connections > 2 * 200
    assert ServerOptions().host == "127.0.0.1"
