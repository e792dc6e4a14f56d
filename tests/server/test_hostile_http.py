"""Requests that are hardly any, at the level of HTTP: nothing fails, nothing is given away, nothing stays open."""

from __future__ import annotations

import socket
import struct

import pytest

from .hostile import judge, request
from .listening import head_and_body
from .served import Served

pytestmark = pytest.mark.usefixtures("bundles_made", "nothing_left_open")


@pytest.mark.parametrize(
    "value",
    [
        "bytes", "bytes=", "bytes=-", "bytes=--1", "bytes=a-b", "bytes=1-0", "bytes=0-0,1-1", "bytes= 0-0",
        "bytes=0 - 0", "items=0-1", "bytes=0x0-0x1", "bytes=+0-1", "bytes=0-1;", "bytes=0-1, ", "bytes=,",
        "bytes=\xb2-", "bytes=0-\xb2",
        "bytes=" + ",".join(f"{n}-{n}" for n in range(1200)), "bytes=" + "0-," * 4000, "=0-1", "\xff", "bytes==0-1",
    ],
)  # fmt: skip
def test_ranges_that_are_none(served: Served, value: str) -> None:
    """What is not a single range of bytes is answered with all of it, as RFC 9110 has it."""
    lines = b"Range: " + value.encode("latin-1")
    answer = served.send(request(b"/tasks/accepted/asset_bytes?key=model.pkl", lines))
    judge(answer)
    status, fields, body = head_and_body(answer)
    if value == "bytes= 0-0":
        assert status in {200, 206}
        return
    assert status == 200
    assert len(body) == int(fields["content-length"]) > 1000


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("bytes=0-99999999999999999999999999", 206),
        ("bytes=0-" + "9" * 9000, 206),
        ("bytes=-99999999999999999999999999", 206),
        ("bytes=0-18446744073709551615", 206),
        ("bytes=0-9223372036854775807", 206),
        ("bytes=18446744073709551616-", 416),
        ("bytes=" + "9" * 9000 + "-", 416),
        ("bytes=9223372036854775807-9223372036854775808", 416),
        ("bytes=-0", 416),
        ("bytes=" + "0" * 9000 + "-0", 206),
    ],
)
def test_ranges_beyond_all_numbers(served: Served, value: str, status: int) -> None:
    """Positions that no machine counts to are positions beyond the end."""
    answer = served.asset("accepted", "model.pkl", Range=value)
    size = served.asset("accepted", "model.pkl").headers["content-length"]
    assert answer.status == status
    assert answer.headers["content-range"].endswith(f"/{size}")
    if status == 206:
        assert int(answer.headers["content-length"]) == len(answer.body) <= int(size)


@pytest.mark.parametrize(
    "value",
    ['"', '""', "W/", "*,*", '"' + "a" * 9000, '"a",' * 3000, "\xe9", ",,,,", '"' + "0" * 64 + '"', "{tag}",
     'W/"{tag}"', "'{tag}'"],
)  # fmt: skip
def test_tags_that_are_none(served: Served, value: str) -> None:
    """Only the very tag of the asset matches; what is not a tag matches none."""
    tag = served.asset("accepted", "model.pkl").headers["etag"].strip('"')
    filled = value.replace("{tag}", tag)
    for name, expected in (("If-Match", {412}), ("If-None-Match", {200}), ("If-Range", {200})):
        weak = value.startswith("W/") and "{tag}" in value and name == "If-None-Match"
        lines = [f"{name}: {filled}".encode("latin-1"), b"Range: bytes=0-3"]
        statuses = judge(
            served.send(
                request(b"/tasks/accepted/asset_bytes?key=model.pkl", *lines[: 1 + (name == "If-Range")])
            )
        )
        assert set(statuses) <= ({304} if weak else expected), name


@pytest.mark.parametrize(
    ("lines", "statuses"),
    [
        ([b"X: " + b"a" * 15_000], {200}),
        ([b"X: " + b"a" * 3_000_000], {400, 431}),
        ([b"X%d: y" % n for n in range(500_000)], {400, 431}),
        ([b"X: y"] * 1_000, {200, 400, 431}),
        ([b": empty"], {400}),
        ([b"no colon"], {400}),
        ([b"Bad Name: x"], {400}),
        ([b"X: a\x00b"], {400}),
        ([b"X: a\rb"], {400}),
        ([b" folded: x"], {200, 400}),
        ([b"X: a", b" goes on"], {200, 400}),
        ([b"X : y"], {400}),
        ([b"Host: 127.0.0.1"], {400}),
        ([b"Host: evil.example"], {400}),
        ([b"Range: bytes=0-0", b"Range: bytes=1-1"], {200}),
        ([b"Authorization: Bearer a", b"Authorization: Bearer b"], {200}),
        ([b"Authorization: Basic ====="], {200}),
        ([b"Content-Length: 0", b"Content-Length: 1"], {400}),
        ([b"Content-Length: -1"], {400}),
        ([b"Content-Length: 1e3"], {400}),
        ([b"Content-Length: " + b"9" * 5000], {200, 400}),
        ([b"Transfer-Encoding: chunked, chunked"], {400, 501}),
        ([b"Transfer-Encoding: identity"], {400, 501}),
        ([b"Transfer-Encoding: \x0bchunked"], {400, 501}),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"], {400, 501}),
        ([b"Expect: 100-continue"], {200}),
        ([b"Expect: the unexpected"], {200, 417}),
        ([b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Key: AAAA"], {200, 400}),
        ([b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"], {200}),
        ([b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Host: evil", b"X-Forwarded-Proto: x"], {200}),
        ([b"X-Original-URL: /runs/accepted", b"X-HTTP-Method-Override: DELETE"], {200}),
        ([b"Accept: " + b"text/html;q=0.1," * 800], {200}),
        ([b"Accept-Encoding: " + b"gzip;q=9," * 800], {200}),
        ([b"Cookie: " + b"a=b;" * 3000], {200}),
    ],
)
def test_headers(served: Served, lines: list[bytes], statuses: set[int]) -> None:
    """Headers that are too many, too long, doubled or none at all are refused or pass unread."""
    answered = judge(served.send(request(b"/tasks/accepted", *lines)))
    assert len(answered) <= 1
    assert set(answered) <= statuses


@pytest.mark.parametrize(
    "head",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 4\r\nTransfer-Encoding: xchunked\r\n",
        b"Content-Length: 4\r\nTransfer-Encoding : chunked\r\n",
        b"Content-Length: 4\r\n Transfer-Encoding: chunked\r\n",
        b"Content-Length: 4\r\nTransfer-Encoding:\tchunked\r\n",
        b"Content-Length: 0\r\nContent-Length: 4\r\n",
        b"Content-Length: 4, 0\r\n",
    ],
)
def test_a_request_in_anothers_body(served: Served, head: bytes) -> None:
    """Where a proxy and the server could take a body's end for another place, no answer is the smuggled one's."""
    smuggled = request(b"/tasks/embedded/summary")
    body = b"0\r\n\r\n" + smuggled
    first = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n" + head + b"\r\n" + body
    answers = served.send(first)
    judge(answers)
    assert b"embedded" not in answers


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Content-Length: 5\r\n\r\nhe",
        b"Content-Length: 99999999999\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 100 + b"\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5;" + b"a" * 30_000 + b"\r\nhello\r\n0\r\n\r\n",
        b"Content-Length: 1000000\r\n\r\n" + b"a" * 1_000_000,
        b"Content-Type: application/json\r\nContent-Length: 3\r\n\r\n{{{",
    ],
)
def test_bodies_where_none_belongs(served: Served, body: bytes) -> None:
    """A body is not read for its meaning, however long, short or torn."""
    assert len(judge(served.send(b"GET /tasks/accepted HTTP/1.1\r\nHost: 127.0.0.1\r\n" + body))) <= 2


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "CONNECT", "PROPFIND", "get", "X" * 300]
)
@pytest.mark.parametrize(
    "target", ["/health", "/tasks", "/tasks/accepted", "/", "/runs/accepted", "/openapi.json"]
)
def test_other_methods(served: Served, method: str, target: str) -> None:
    """Nothing here can be changed: all that is there says which methods it has."""
    answer = served.get(target, method)
    assert (answer.status, answer.document["slug"]) == (405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("line", "statuses"),
    [
        (b"GET http://127.0.0.1/tasks/accepted HTTP/1.1", {200, 404}),
        (b"GET http://evil.example/tasks/accepted HTTP/1.1", {200, 403, 404}),
        (b"GET file:///etc/passwd HTTP/1.1", {404}),
        (b"GET //evil.example/tasks HTTP/1.1", {404}),
        (b"GET /\\evil.example HTTP/1.1", {404}),
        (b"GET ?/tasks HTTP/1.1", {200, 400, 404}),
        (b"GET tasks HTTP/1.1", {400, 404}),
        (b"GET * HTTP/1.1", {400, 404}),
        (b"OPTIONS * HTTP/1.1", {200, 400, 404, 405}),
        (b"CONNECT 127.0.0.1:22 HTTP/1.1", {400, 404, 405}),
        (b"CONNECT evil.example:443 HTTP/1.1", {400, 404, 405}),
        (b"GET /tasks/../../etc/passwd HTTP/1.1", {400, 404}),
        (b"GET /tasks/%2e%2e/%2e%2e/etc/passwd HTTP/1.1", {404}),
        (b"GET /tasks/ HTTP/1.1", {404}),
        (b"GET /tasks// HTTP/1.1", {404}),
        (b"GET //tasks HTTP/1.1", {404}),
        (b"GET /tasks;x HTTP/1.1", {404}),
        (b"GET /tasks%00 HTTP/1.1", {404}),
        (b"GET /TASKS HTTP/1.1", {404}),
        (b"GET /tasks/accepted/__session__ HTTP/1.1", {404}),
        (b"GET /tasks/accepted/asset_bytes/model.pkl HTTP/1.1", {404}),
        (b"GET /docs HTTP/1.1", {404}),
        (b"GET /redoc HTTP/1.1", {404}),
        (b"GET /.env HTTP/1.1", {404}),
        (b"GET /static/../../app.py HTTP/1.1", {404}),
        (b"GET /tasks HTTP/1.0", {200}),
        (b"GET /tasks HTTP/0.9", {200, 400}),
        (b"GET /tasks HTTP/2.0", {200, 400}),
        (b"GET /tasks HTTP/9.9", {200, 400}),
        (b"GET /tasks HTTP/10.1", {400}),
        (b"GET /tasks", {400}),
        (b"GET  /tasks HTTP/1.1", {400}),
        (b"GET /a b HTTP/1.1", {400}),
        (b"GET /\xff\xfe HTTP/1.1", {400, 404}),
        (b"GET /\x00 HTTP/1.1", {400}),
        (b"G\x00T / HTTP/1.1", {400}),
        (b"GET /" + b"a" * 15_000 + b" HTTP/1.1", {404}),
        (b"GET /" + b"a/" * 7_000 + b" HTTP/1.1", {404}),
        (b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1", {400, 414, 431}),
        (b"PRI * HTTP/2.0\r\n\r\nSM", {400, 403}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400}),
        (b"\x00" * 1000, {400}),
        (b"\r\n" * 3 + b"GET /tasks HTTP/1.1", {200, 400}),
        (b"SSH-2.0-OpenSSH_9.6", {400}),
        (b"EHLO evil.example", {400}),
        (b"{}", {400}),
    ],
)  # fmt: skip
def test_request_lines(served: Served, line: bytes, statuses: set[int]) -> None:
    """What is a request finds no file, and what is none is refused."""
    answered = judge(served.send(line + b"\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"))
    assert set(answered[:1]) <= statuses, answered


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "127.0.0.1.evil.example", "evil.example:80", "localhost.evil", "[", "[::1", "::1", "]", "a b",
     "127.0.0.1:x", "127.0.0.1:80:80", "127.0.0.1@evil.example", "evil.example/127.0.0.1", "evil#127.0.0.1", "\xe9",
     "0", "127.1", "2130706433", "127.0.0.1.", "a" * 5000, "\xbd", "[v1.x]", "xn--"],
)  # fmt: skip
@pytest.mark.parametrize("accept", [b"*/*", b"text/html"])
def test_hosts(served: Served, host: str, accept: bytes) -> None:
    """A server without a token answers to the names of its machine, so that no website reads from it (rebinding)."""
    target = b"/" if accept == b"text/html" else b"/tasks"
    answer = served.send(request(target, b"Accept: " + accept, host=host.encode("latin-1")))
    status, fields, _ = head_and_body(answer)
    assert status in {400, 403}
    expected = "text/html" if target == b"/" else "application/problem"
    assert fields["content-type"].startswith("text/plain" if status == 400 else expected)
    assert b"/runs/accepted" not in answer
    assert b"FactorRDLoop" not in answer


def test_many_at_once(served: Served) -> None:
    """A hundred connections that say nothing, or half of something, keep nobody from an answer."""
    waiting = [socket.create_connection(("127.0.0.1", served.port), timeout=5) for _ in range(100)]
    try:
        for number, each in enumerate(waiting):
            each.sendall(b"GET /tasks HTTP/1.1\r\nHost: 127"[: number % 30])
        assert served.get("/tasks/accepted").status == 200
    finally:
        for each in waiting:
            each.close()


def test_a_hundred_requests_in_one_go(served: Served) -> None:
    """Requests that come before their turn are answered in order, each once."""
    each = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    answers = served.send(each * 99 + request(b"/tasks/accepted"))
    assert judge(answers) == [200] * 100


def test_who_goes_away(served: Served) -> None:
    """A client that hangs up before its answer, or in the middle, leaves nothing behind."""
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(request(b"/tasks/accepted/asset_bytes?key=model.pkl"))
