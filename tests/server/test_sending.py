"""An asset as an answer: whole, in part, unchanged, changed."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.results.assets import Asset, asset_of_bytes
from rdagent_sota_patch.server.sending import RangeError, attachment_named, respond
from tests.server.listening import head_and_body, running, talk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

CONTENT = bytes(range(256)) * 4
BINARY = "application/octet-stream"
IN_MEMORY = asset_of_bytes("factor.py", CONTENT, BINARY)
TEN = asset_of_bytes("ten", b"0123456789", BINARY)
EMPTY = asset_of_bytes("empty", b"", BINARY)


def asset_in_file(path: Path, content: bytes = CONTENT) -> Asset:
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return Asset("model.pkl", BINARY, len(content), sha256, path=path)


def application(asset: Asset) -> Starlette:
    """An application with one asset and the problems of it, as the API has them."""

    async def give(request: Request) -> Response:
        return respond(asset, request.headers, request.method)

    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return PlainTextResponse(error.slug, 409)

    return Starlette(routes=[Route("/", give)], exception_handlers={ApiError: refuse})


def ask(port: int, method: str = "GET", **fields: str) -> tuple[int, dict[str, str], bytes]:
    lines = [f"{method} / HTTP/1.1", "Host: localhost", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return head_and_body(talk(port, "\r\n".join([*lines, "", ""]).encode("latin-1")))


@pytest.fixture(scope="module", params=["memory", "file"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, Asset]]:
    path = tmp_path_factory.mktemp("served") / "params.pkl"
    asset = IN_MEMORY if request.param == "memory" else asset_in_file(path)
    with running(application(asset)) as port:
        yield port, asset


def test_all_of_it(served: tuple[int, Asset]) -> None:
    """The answer names the bytes, says how to go on with them, and is not a page."""
    port, asset = served
    status, fields, body = ask(port)
    assert (status, body) == (200, CONTENT)
    digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    assert fields["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert fields["digest"] == f"sha-256={digest}"
    assert fields["repr-digest"] == f"sha-256=:{digest}:"
    assert fields["content-length"] == str(len(CONTENT))
    assert fields["content-type"] == BINARY
    assert fields["accept-ranges"] == "bytes"
    assert fields["content-disposition"] == f'attachment; filename="{asset.key}"'
    assert fields["cache-control"] == "private, no-cache"
    assert fields["x-content-type-options"] == "nosniff"
    assert "content-range" not in fields


def test_head(served: tuple[int, Asset]) -> None:
    """HEAD has the fields of GET and no body; a range is not for it."""
    port, _ = served
    _, fields, _ = ask(port)
    status, of_head, body = ask(port, "HEAD", Range="bytes=0-9")
    assert (status, body) == (200, b"")
    assert {**of_head, "date": ""} == {**fields, "date": ""}


def test_a_part(served: tuple[int, Asset]) -> None:
    """A range is answered with it alone, and with the digest of all."""
    port, asset = served
    status, fields, body = ask(port, Range="bytes=100-299", If_Match=asset.etag, If_Range=asset.etag)
    assert (status, body) == (206, CONTENT[100:300])
    assert fields["content-range"] == f"bytes 100-299/{len(CONTENT)}"
    assert fields["content-length"] == "200"
    assert fields["etag"] == asset.etag
    assert fields["digest"] == f"sha-256={asset.digest}"


def test_several_on_one_connection(served: tuple[int, Asset]) -> None:
    """Requests that are sent without waiting are answered in turn, whole and in part."""
    port, _ = served
    whole = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    answers = talk(
        port,
        whole
        + b"\r\n"
        + whole
        + b"Range: bytes=-3\r\n\r\n"
        + whole.replace(b"GET", b"HEAD")
        + b"\r\n"
        + whole
        + b"Connection: close\r\n\r\n",
    )
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert answers.count(b"HTTP/1.1 206 Partial Content\r\n") == 1
    assert answers.count(CONTENT) == 2
    assert b"\r\n\r\n" + CONTENT[-3:] + b"HTTP/1.1 200" in answers


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-0", "0"),
        ("bytes=0-", "0123456789"),
        ("bytes=0-9", "0123456789"),
        ("bytes=3-5", "345"),
        ("bytes=9-", "9"),
        ("bytes=9-9", "9"),
        ("bytes=5-99999999999999999999999999999999", "56789"),
        ("bytes=-1", "9"),
        ("bytes=-10", "0123456789"),
        ("bytes=-11", "0123456789"),
        ("bytes=-" + "9" * 5000, "0123456789"),
        ("bytes=" + "0" * 5000 + "8-", "89"),
        ("BYTES=3-5", "345"),
        ("bytes= 3-5 ", "345"),
    ],
)
def test_ranges(asked: str, expected: str) -> None:
    """A range is answered with what of it the asset has."""
    answer = respond(TEN, Headers({"range": asked}), "GET")
    assert (answer.status_code, bytes(answer.body)) == (206, expected.encode())
    start = 10 - len(expected) if expected.endswith("9") else int(expected[0])
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(expected) - 1}/10"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=0-1,3-4",
        "bytes=0-0,-1",
        "bytes=0-1, ",
        "bytes=5-3",
        "bytes=12-11",
        "bytes=-",
        "bytes=",
        "bytes",
        "",
        "items=0-1",
        "bytes=a-b",
        "bytes=1-2x",
        "bytes=+1-2",
        "bytes=1.0-2",
        "bytes=--1",
        "bytes=0x1-2",
        "bytes=١-٣",
        "bytes=1_0-",
        "bytes:0-1",
        "bytes=0 - 1",
    ],
)
def test_what_is_no_single_range(asked: str) -> None:
    """Several ranges, and what is none, are answered with all of it."""
    answer = respond(TEN, Headers(raw=[(b"range", asked.encode())]), "GET")
    assert (answer.status_code, bytes(answer.body)) == (200, b"0123456789")


def test_several_range_lines() -> None:
    """Two lines are one list, so two ranges: all of it."""
    headers = Headers(raw=[(b"range", b"bytes=0-1"), (b"range", b"bytes=3-4")])
    assert respond(TEN, headers, "GET").status_code == 200


@pytest.mark.parametrize(
    ("asset", "asked"),
    [
        (TEN, "bytes=10-"),
        (TEN, "bytes=10-10"),
        (TEN, "bytes=99999999999999999999-"),
        (TEN, "bytes=-0"),
        (EMPTY, "bytes=0-"),
        (EMPTY, "bytes=0-0"),
    ],
)
def test_range_outside(asset: Asset, asked: str) -> None:
    """A range that holds nothing is an error that tells the size."""
    with pytest.raises(RangeError) as caught:
        respond(asset, Headers({"range": asked}), "GET")
    assert caught.value.slug == "range-not-satisfiable"
    assert caught.value.headers["Content-Range"] == f"bytes */{asset.size}"
    assert respond(asset, Headers({"range": asked}), "HEAD").status_code == 200


def test_empty() -> None:
    """Of nothing, the last bytes are nothing, and that is all of it."""
    answer = respond(EMPTY, Headers({"range": "bytes=-5"}), "GET")
    assert (answer.status_code, answer.headers["content-length"], answer.body) == (200, "0", b"")


def test_empty_file(tmp_path: Path) -> None:
    """A file without bytes is sent as such."""
    with running(application(asset_in_file(tmp_path / "empty", b""))) as port:
        assert ask(port)[::2] == (200, b"")


@given(asked=st.text(max_size=40) | st.from_regex(r"bytes=\d{0,3}-\d{0,3}", fullmatch=True))
@example("bytes=-0")
def test_any_range(asked: str) -> None:
    """Whatever is asked for, the answer is all of it, the part that it names, or that there is none."""
    headers = Headers(raw=[(b"range", asked.encode("utf-8", "surrogatepass"))])
    try:
        answer = respond(IN_MEMORY, headers, "GET")
    except RangeError:
        return
    if answer.status_code == 206:
        span = answer.headers["content-range"].removeprefix("bytes ").removesuffix(f"/{len(CONTENT)}")
        start, stop = map(int, span.split("-"))
        assert answer.body == CONTENT[start : stop + 1]
    else:
        assert (answer.status_code, answer.body) == (200, CONTENT)
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize(
    ("tags", "matches"),
    [
        (IN_MEMORY.etag, True),
        ("*", True),
        (" * ", True),
        (f'"other", {IN_MEMORY.etag}', True),
        (f"W/{IN_MEMORY.etag}", False),
        (f'"{"0" * 64}"', False),
        (IN_MEMORY.sha256, False),
        (f'"x{IN_MEMORY.sha256}"', False),
        ('"', False),
        ("", False),
        (f'"*", W/{IN_MEMORY.etag}', False),
    ],
)
def test_if_match(tags: str, matches: bool) -> None:
    """Bytes are given only to whom means these; a weak tag means less than that."""
    headers = Headers({"if-match": tags})
    if matches:
        assert respond(IN_MEMORY, headers, "GET").status_code == 200
        return
    for method in ("GET", "HEAD"):
        with pytest.raises(ApiError) as caught:
            respond(IN_MEMORY, headers, method)
        assert caught.value.slug == "asset-changed"


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        (IN_MEMORY.etag, 304),
        (f"W/{IN_MEMORY.etag}", 304),
        (f'"other",{IN_MEMORY.etag}', 304),
        ("*", 304),
        ('"other"', 200),
        ("nonsense", 200),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_if_none_match(tags: str, status: int, method: str) -> None:
    """Who has the bytes is told so, and sent nothing."""
    answer = respond(IN_MEMORY, Headers({"if-none-match": tags, "range": "bytes=5000-"}), "HEAD")
    assert respond(IN_MEMORY, Headers({"if-none-match": tags}), method).status_code == status
    assert answer.status_code == status
    assert answer.headers["etag"] == IN_MEMORY.etag
    assert answer.body == b""


def test_unchanged_over_the_wire(served: tuple[int, Asset]) -> None:
    """304 has no body and no length."""
    port, asset = served
    status, fields, body = ask(port, If_None_Match=asset.etag)
    assert (status, body) == (304, b"")
    assert fields.keys() == {"etag", "cache-control", "date", "connection"}


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (IN_MEMORY.etag, 206),
        (f"W/{IN_MEMORY.etag}", 200),
        ('"other"', 200),
        ("*", 200),
        ("Sat, 29 Oct 1994 19:43:31 GMT", 200),
        (f'{IN_MEMORY.etag}, "other"', 200),
    ],
)
def test_if_range(condition: str, status: int) -> None:
    """A part goes only to whom has the rest of the same bytes; others get all."""
    headers = Headers({"if-range": condition, "range": "bytes=1-2"})
    answer = respond(IN_MEMORY, headers, "GET")
    assert answer.status_code == status
    assert answer.body == (CONTENT[1:3] if status == 206 else CONTENT)


def test_if_range_forgives_a_range_outside() -> None:
    """To whom has other bytes, a range beyond these is not an error."""
    headers = Headers({"if-range": '"other"', "range": "bytes=5000-"})
    assert respond(IN_MEMORY, headers, "GET").status_code == 200


def _remove(path: Path) -> None:
    path.unlink()


def _shorten(path: Path) -> None:
    os.truncate(path, 5)


def _lengthen(path: Path) -> None:
    path.write_bytes(CONTENT + b"!")


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("alter", [_remove, _shorten, _lengthen, _make_folder, _make_pipe])
def test_a_file_that_is_another_now(alter: Callable[[Path], None], tmp_path: Path) -> None:
    """What is not as it was promised is refused before a byte of it is sent, and nothing waits for a pipe."""
    path = tmp_path / "params.pkl"
    asset = asset_in_file(path)
    alter(path)
    with running(application(asset)) as port:
        assert ask(port)[::2] == (409, b"asset-altered")
        assert ask(port, "HEAD")[::2] == (409, b"")


LARGE = 64 << 20


def _begin(port: int) -> socket.socket:
    """A client that asked, took a little, and waits."""
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert client.recv(12, socket.MSG_PEEK)
    return client


def _take_all(client: socket.socket) -> int:
    taken = 0
    with client:
        while chunk := client.recv(1 << 20):
            taken += len(chunk)
    return taken


def test_replaced_while_it_is_sent(tmp_path: Path) -> None:
    """The file that was opened is sent to its end, though another has its name by then."""
    path = tmp_path / "params.pkl"
    asset = asset_in_file(path, bytes(LARGE))
    with running(application(asset)) as port, _begin(port) as client:
        (tmp_path / "new").write_bytes(b"!" * LARGE)
        (tmp_path / "new").replace(path)
        received = bytearray()
        while chunk := client.recv(1 << 20):
            received += chunk
    assert bytes(received).partition(b"\r\n\r\n")[2] == bytes(LARGE)


def test_shortened_while_it_is_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that ends early ends the connection: nothing is made up, and the client sees that it is short."""
    path = tmp_path / "params.pkl"
    asset = asset_in_file(path, bytes(LARGE))
    with running(application(asset)) as port:
        client = _begin(port)
        os.truncate(path, LARGE // 2)
        assert LARGE // 4 < _take_all(client) < LARGE
        assert "became shorter while it was sent" in caplog.text


def test_large_file(tmp_path: Path) -> None:
    """Many pieces make the same file, and a part of it may begin and end anywhere."""
    content = os.urandom(5 << 20)
    asset = asset_in_file(tmp_path / "params.pkl", content)
    with running(application(asset)) as port:
        assert ask(port)[2] == content
        assert ask(port, Range="bytes=1048575-3145729")[2] == content[1048575:3145730]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.pkl", 'attachment; filename="model.pkl"'),
        ('a"; filename="b', 'attachment; filename="a___filename__b"'),
        ("a\r\nSet-Cookie: b", 'attachment; filename="a__Set-Cookie__b"'),
        ("..", 'attachment; filename="asset"'),
        ("", 'attachment; filename="asset"'),
        ("../../etc", 'attachment; filename="_.._etc"'),
        ("a\\b", 'attachment; filename="a_b"'),
        (".bashrc", 'attachment; filename="bashrc"'),
        ("动量.py", "attachment; filename=\"__.py\"; filename*=UTF-8''%E5%8A%A8%E9%87%8F.py"),
        ("a\u202eyp.exe", 'attachment; filename="a_yp.exe"'),
        ("a\x00\x7f\ud800", 'attachment; filename="a___"'),
    ],
)
def test_file_names(name: str, expected: str) -> None:
    """A name is a plain one, in no other folder, and nothing of the field's own."""
    assert attachment_named(name) == expected


@given(st.text(max_size=300))
def test_any_file_name(name: str) -> None:
    """Whatever the name, the field is one line of plain letters, of bounded length."""
    value = attachment_named(name)
    assert value.isascii() and value.isprintable() and len(value) < 2500
    plain = value.partition('filename="')[2].partition('"')[0]
    assert plain and not plain.startswith(".") and not set(plain) & set('/\\"')


def test_key_in_a_folder() -> None:
    """Only the last part of a key names the file."""
    answer = respond(replace(TEN, key="based_factor_0/Momentum.py"), Headers(), "GET")
    assert answer.headers["content-disposition"] == 'attachment; filename="Momentum.py"'
