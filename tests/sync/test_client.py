"""The client against a real server: typed answers, its problems as ours, and every answer that is not the API's."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rdagent_sota_patch.bundle.documents import MANIFEST_NAME, WEIGHTS_NAME
from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.sync.client import LARGEST_DOCUMENT, AnswerError, ApiClient, Timeouts
from tests.bundle.made import make_bundle
from tests.sync.contract_server import ContractServer, running

ANCHOR = "/tasks/latest/sota_factor_anchor"
QUICK = Timeouts(connect=1, silence=0.5, document=1, building=1)


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ContractServer, Path]]:
    bundle = make_bundle(tmp_path_factory.mktemp("served") / "bundle", replay=False).folder
    with running(ContractServer()) as server:
        yield server, bundle


@pytest.fixture
def server(listening: tuple[ContractServer, Path]) -> ContractServer:
    server, bundle = listening
    server.serve(bundle)
    return server


@pytest.fixture
def client(server: ContractServer) -> Iterator[ApiClient]:
    with ApiClient(server.url, timeouts=QUICK) as client:
        yield client


def refused(client: ApiClient, slug: str, task: str = "latest") -> str:
    """Why the anchor cannot be had."""
    with pytest.raises(ApiError) as caught:
        client.anchor(task)
    assert caught.value.slug == slug
    return str(caught.value)


def test_answers_are_typed(server: ContractServer, client: ApiClient) -> None:
    """Anchor, run and list as the schemas have them."""
    assert client.anchor("latest") == server.anchor()
    assert client.task("made") == server.task()
    assert [item.task_id for item in client.tasks().tasks] == ["made"]


def test_a_small_asset_is_held_to_its_hash(server: ContractServer, client: ApiClient) -> None:
    """Nothing comes where it is known already; one that is another on the way is refused."""
    content = client.small_asset("made", MANIFEST_NAME)
    assert content is not None and content == (server.folder / MANIFEST_NAME).read_bytes()
    assert server.asked[-1].status == 200
    assert client.small_asset("made", MANIFEST_NAME, known=hashlib.sha256(content).hexdigest()) is None
    assert (server.asked[-1].status, server.asked[-1].sent) == (304, 0)
    server.faults.flips[MANIFEST_NAME] = 3
    with pytest.raises(ApiError) as caught:
        client.small_asset("made", MANIFEST_NAME)
    assert caught.value.slug == "transfer-altered"


def test_an_asset_without_its_hash_is_refused(server: ContractServer, client: ApiClient) -> None:
    """There is nothing to hold it to."""
    server.faults.raw["/tasks/made/asset_bytes"] = (200, {}, b"{}")
    with pytest.raises(ApiError) as caught:
        client.small_asset("made", MANIFEST_NAME)
    assert caught.value.slug == "unusable-answer"


def test_a_problem_is_the_servers(client: ApiClient) -> None:
    """Its slug, message, hint and status."""
    with pytest.raises(AnswerError) as caught:
        client.anchor("unknown")
    assert (caught.value.status, caught.value.slug) == (404, "task-not-found")
    assert caught.value.problems[0].hint == "Do something else."


def test_a_token_is_sent_to_this_server(server: ContractServer) -> None:
    """And without it the server's refusal is told."""
    server.token = "0123456789abcdef"
    with ApiClient(server.url, token=server.token) as client:
        client.anchor("latest")
    with ApiClient(server.url) as client:
        refused(client, "token-required")


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_token_that_cannot_be_sent(token: str) -> None:
    """It could make another header."""
    with pytest.raises(ApiError) as caught:
        ApiClient("http://127.0.0.1:1", token=token)
    assert caught.value.slug == "bad-token"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8900",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "http://",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:port",
        "http://127.0.0.1/?a=b",
        "http://127.0.0.1/#a",
        "http://[::1",
        "http://host\n.org",
    ],
)
def test_an_address_that_is_none(url: str) -> None:
    """Another scheme, no host, a query: refused before anything is sent."""
    with pytest.raises(ApiError) as caught:
        ApiClient(url)
    assert caught.value.slug == "bad-api-url"


@pytest.mark.parametrize(
    "url", ["http://user:hush@127.0.0.1", "https://hush@127.0.0.1", "http://a:hush@[::1", "hush@here"]
)
def test_a_password_in_an_address_is_refused_and_not_shown(url: str) -> None:
    """Also where the address is not a URL otherwise."""
    with pytest.raises(ApiError) as caught:
        ApiClient(url)
    assert caught.value.slug == "bad-api-url"
    assert "hush" not in str(caught.value)


def test_a_path_before_the_apis_own_is_kept(server: ContractServer) -> None:
    """A proxy may serve it below one."""
    with ApiClient(f"{server.url}/below/") as client:
        refused(client, "task-not-found")
    assert server.paths == [f"/below{ANCHOR}"]


@pytest.mark.parametrize("task", ["", ".", "..", "a/b", "..\\a", "a\0", "a\n", "x" * 256, "\ud800"])
def test_an_id_that_is_no_folders_name(server: ContractServer, client: ApiClient, task: str) -> None:
    """It is not asked for."""
    refused(client, "bad-task-id", task)
    assert server.paths == []


@pytest.mark.parametrize("task", ["a b", "ä%2F", "a?b#c", "a;b", "%2e%2e"])
def test_any_other_id_is_one_part_of_the_path(server: ContractServer, client: ApiClient, task: str) -> None:
    """However it is spelled, it arrives as it was given."""
    refused(client, "task-not-found", task)
    assert server.paths == [f"/tasks/{task}/sota_factor_anchor"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(server: ContractServer, status: int) -> None:
    """Not even to the same server: the token is for what was asked."""
    server.faults.raw[ANCHOR] = (status, {"location": f"{server.url}/tasks"}, b"")
    with ApiClient(server.url, token="0123456789abcdef") as client:
        assert "redirects are not followed" in refused(client, "unusable-answer")
    assert server.paths == [ANCHOR]


HTML = {"content-type": "text/html"}
PROBLEM = {"content-type": "application/problem+json"}
BAD_SLUG = json.dumps(
    dict.fromkeys(("type", "title", "detail", "instance", "hint"), "x")
    | {"status": 400, "slug": "\x1b[31m", "problems": []}
).encode()


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, HTML, b"<html>"),
        (200, {}, b""),
        (200, {}, b"[]"),
        (200, {}, b'{"ok": true}'),
        (200, {}, b"[" * 100_000),
        (200, {"content-encoding": "gzip"}, gzip.compress(bytes(1000), mtime=0)),
        (204, {}, b""),
        (500, HTML, b"<html>"),
        (404, PROBLEM, b"{}"),
        (400, PROBLEM, BAD_SLUG),
        (502, HTML, b""),
    ],
)
def test_what_is_no_answer_of_the_api(
    server: ContractServer, client: ApiClient, status: int, headers: dict[str, str], body: bytes
) -> None:
    """Another program's page, an empty one, other JSON: said so, and nothing of it shown."""
    server.faults.raw[ANCHOR] = (status, headers, body)
    assert "\x1b" not in refused(client, "unusable-answer")


def test_too_large_an_answer_is_not_read(server: ContractServer, client: ApiClient) -> None:
    """It ends at the limit, whatever length was told."""
    server.faults.raw[ANCHOR] = (200, {}, b" " * (LARGEST_DOCUMENT + 1))
    assert "more than" in refused(client, "unusable-answer")


@contextmanager
def answering(*pieces: bytes, seconds: float = 0.0) -> Iterator[str]:
    """The URL of a server that answers one connection with these bytes, and closes it."""

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            for piece in pieces:
                try:
                    connection.sendall(piece)
                except OSError:  # The client had enough.
                    return
                time.sleep(seconds)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [(), (b"no HTTP\r\n\r\n",), (HEAD, b"{"), (HEAD.replace(b"1000", b"-1"),), (b"HTTP/1.1 200 OK\r\n",)],
)
def test_a_broken_answer_is_none(pieces: tuple[bytes, ...]) -> None:
    """No bytes, no HTTP, half a body, a wrong length."""
    with answering(*pieces) as url, ApiClient(url, timeouts=QUICK) as client:
        refused(client, "api-unreachable")


def test_headers_without_end_are_none() -> None:
    """They are bounded, too."""
    with (
        answering(b"HTTP/1.1 200 OK\r\n", *[b"X-More: " + b"x" * 60_000 + b"\r\n"] * 20) as url,
        ApiClient(url, timeouts=QUICK) as client,
    ):
        refused(client, "api-unreachable")


def test_an_answer_that_trickles_ends() -> None:
    """Each piece comes in time, and the whole must, too."""
    began = time.monotonic()
    with answering(HEAD, *[b" "] * 40, seconds=0.05) as url, ApiClient(url, timeouts=QUICK) as client:
        assert "not complete after 1 s" in refused(client, "api-unreachable")
    assert time.monotonic() - began < 4


def test_nobody_listens() -> None:
    """With the address, and what to look at."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with ApiClient(url, timeouts=QUICK) as client:
            assert url in refused(client, "api-unreachable")


def test_this_machine_is_asked_without_a_proxy(
    server: ContractServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment's proxy knows nothing of this machine's ports."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with ApiClient(server.url, timeouts=QUICK) as client:
        assert client.anchor("latest").ok


def test_content_is_asked_for_as_it_is_stored(server: ContractServer, client: ApiClient) -> None:
    """Unpacking would have no bound."""
    with client.open_asset("made", WEIGHTS_NAME, {}):
        pass
    assert server.headers[-1]["accept-encoding"] == "identity"
