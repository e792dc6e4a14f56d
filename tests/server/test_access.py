"""Who may ask: tokens, names of the server, other websites; and what every answer tells a browser."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import ApiError
from rdagent_sota_patch.results.service import Folders
from rdagent_sota_patch.server import access
from rdagent_sota_patch.server.access import Access, decide_access, is_loopback, read_token
from rdagent_sota_patch.server.app import create_app
from tests.results.log_root import Project
from tests.sessions.generated_log import KEY

from .listening import head_and_body, running, talk
from .served import Answer, Served, serving

TOKEN = "d3b07384d113edec49eaa6238ad5ff00"
SITE = "https://aistock.example"
PATHS = (
    "/tasks",
    "/tasks/accepted",
    "/tasks/accepted/asset_bytes?key=model.pkl",
    "/",
    "/runs/accepted",
    "/openapi.json",
)


@dataclass(frozen=True)
class Guarded:
    """A server with a token, which one website may read from."""

    server: Served

    def get(self, target: str, method: str = "GET", **headers: str) -> Answer:
        return self.server.get(target, method, Authorization=f"Bearer {TOKEN}", **headers)


@pytest.fixture(scope="module")
def guarded(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    file = write_token(tmp_path_factory.mktemp("token") / "api.token", TOKEN.encode() + b"\n")
    with serving(project.log, token_file=file, origins=(SITE,), key=KEY) as server:
        yield Guarded(server)
        # Whatever the tests below asked.
        assert TOKEN not in server.output


def write_token(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def basic(password: str, name: str = "anyone") -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize("path", PATHS)
def test_all_but_health_needs_the_token(guarded: Guarded, path: str) -> None:
    """Without it nothing is told, also not whether there is such a run; with it all is."""
    for target in (path, path.replace("accepted", "nobody")):
        answer = guarded.server.get(target)
        assert (answer.status, answer.document["slug"]) == (401, "token-required")
        assert answer.headers["www-authenticate"].startswith(("Bearer", "Basic"))
    assert guarded.get(path).status == 200


def test_health_needs_none(guarded: Guarded) -> None:
    """Whoever watches over the server need not know it; paths that only look like that one are no way in."""
    assert guarded.server.get("/health").status == 200
    for path in (
        "/health/",
        "//health",
        "/health/../tasks",
        "/Health",
        "/health;/tasks",
        "/health%2f..%2ftasks",
    ):
        assert guarded.server.get(path).status == 401
    assert guarded.server.get("/tasks?/health").status == 401


@pytest.mark.parametrize(
    "value",
    [
        "", "Bearer", "Bearer ", "Bearer  ", TOKEN, f"bearer{TOKEN}", f"Token {TOKEN}", f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN} x", f"Bearer {TOKEN.upper()}", f"Bearer x {TOKEN}",
        f'Bearer "{TOKEN}"',
        "Bearer \xe9\xff", "Bearer " + "a" * 10_000, f"Bearer {TOKEN}, Bearer {TOKEN}", "Bearer null", "Basic",
        "Basic =", "Basic \xe9", "Basic " + TOKEN, basic(""), basic("wrong"), basic("", TOKEN), basic(TOKEN + "\n"),
        "Basic " + base64.b64encode(TOKEN.encode()).decode(), "Digest username=x", f"Negotiate {TOKEN}",
    ],
)  # fmt: skip
def test_what_is_not_the_token(guarded: Guarded, value: str) -> None:
    """Empty, wrong, cut, in other letters or in another place: none of these opens."""
    answer = guarded.server.get("/tasks", Authorization=value)
    assert (answer.status, answer.document["slug"]) == (401, "token-required")
    assert TOKEN.encode() not in answer.body
    assert b"accepted" not in answer.body


@pytest.mark.parametrize(
    "value", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN} ", basic(TOKEN), basic(TOKEN, "")]
)
def test_the_token(guarded: Guarded, value: str) -> None:
    """As a bearer's, or as the password that a browser asks a person for; the scheme in any letters."""
    assert guarded.server.get("/tasks", Authorization=value).status == 200


def test_two_authorizations(guarded: Guarded) -> None:
    """Of two the server takes neither: a proxy may have judged by the other one."""
    for lines in ((TOKEN, "wrong"), ("wrong", TOKEN), (TOKEN, TOKEN)):
        head = "".join(f"Authorization: Bearer {each}\r\n" for each in lines)
        request = f"GET /tasks HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n"
        assert head_and_body(guarded.server.send(request.encode()))[0] == 401


def test_a_token_in_the_address_opens_nothing(guarded: Guarded) -> None:
    """Addresses end up in logs and histories."""
    for query in (f"token={TOKEN}", f"access_token={TOKEN}", f"authorization=Bearer%20{TOKEN}"):
        assert guarded.server.get(f"/tasks?{query}").status == 401


def test_the_comparison_takes_as_long_for_every_token(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much of a guess is right must not show in the time that it takes."""
    compared = []
    truly = hmac.compare_digest

    def compare(given: bytes, wanted: bytes) -> bool:
        compared.append((given, wanted))
        return truly(given, wanted)

    monkeypatch.setattr(access.hmac, "compare_digest", compare)
    app = create_app(Folders(project.log, tmp_path / "cache"), Access(TOKEN.encode(), None))
    with running(app) as port:
        for given in (b"Bearer guess", f"Bearer {TOKEN}".encode(), b"Basic eDp5"):
            talk(port, b"GET /tasks HTTP/1.0\r\nHost: x\r\nAuthorization: " + given + b"\r\n\r\n")
    ours = [given for given, wanted in compared if wanted == TOKEN.encode()]
    assert ours == [b"guess", TOKEN.encode(), b"y"]


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.2", "example.com", "", "127.0.0.1.example", "localhost.example"]
)
def test_other_machines_need_a_token(host: str, tmp_path: Path) -> None:
    """A server that others reach does not start without one."""
    with pytest.raises(ApiError) as caught:
        decide_access(host, None)
    assert caught.value.slug == "token-needed"
    assert not is_loopback(host)
    file = write_token(tmp_path / "token", TOKEN.encode())
    assert decide_access(host, file) == Access(TOKEN.encode(), None)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    """And is called by no other name than its own."""
    found = decide_access(host, None)
    assert found.token is None
    assert found.hosts is not None and "evil.example" not in found.hosts


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (b"", 0o600), (b"\n", 0o600), (b" \t\n " * 20, 0o600), (b"short", 0o600), (b"x" * 15, 0o600),
        (b"two words of a token that is long", 0o600), (b"one line of it\nand another one" * 2, 0o600),
        (b"\x00" * 32, 0o600), (b"\x9c\xfe\x01" + b"\xff\x00" * 32, 0o600), ("höchst geheim und lang".encode(), 0o600),
        (b"x" * 4097, 0o600), (b"x" * 10_000_000, 0o600), (b"x" * 20 + b" " * 5000, 0o600),
        (TOKEN.encode(), 0o604), (TOKEN.encode(), 0o644), (TOKEN.encode(), 0o666), (TOKEN.encode(), 0o602),
    ],
)  # fmt: skip
def test_token_files_that_are_none(tmp_path: Path, content: bytes, mode: int) -> None:
    """Too little to be secret, no one line of text, or there for everyone to read: the server does not start."""
    with pytest.raises(ApiError) as caught:
        read_token(write_token(tmp_path / "token", content, mode))
    assert caught.value.slug == "bad-token-file"
    text = str(caught.value)
    assert TOKEN not in text
    assert len(text) < 1000


def test_token_files_that_are_not_there(tmp_path: Path) -> None:
    """A missing file, a folder and a link that leads nowhere are named."""
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("missing", "folder", "link", "folder/x/y"):
        with pytest.raises(ApiError) as caught:
            read_token(tmp_path / name)
        assert caught.value.slug == "bad-token-file"
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "content", [TOKEN.encode(), TOKEN.encode() + b"\n", b"  " + TOKEN.encode() + b"\r\n"]
)
def test_token_files(tmp_path: Path, content: bytes) -> None:
    """A line's end is not a part of it."""
    assert read_token(write_token(tmp_path / "token", content)) == TOKEN.encode()


def test_any_name_will_do_with_a_token(guarded: Guarded) -> None:
    """A website that is made to mean this machine does not have it."""
    assert guarded.get("/tasks", Host="evil.example").status == 200
    assert guarded.server.get("/tasks", Host="evil.example").status == 401


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST:80", "[::1]", "[::1]:8900", "127.0.0.1:1"]
)
def test_the_names_of_this_machine(served: Served, host: str) -> None:
    """Without a token, on any port: it may be forwarded."""
    assert served.get("/tasks", Host=host).status == 200


@pytest.mark.parametrize("path", ["/health", *PATHS])
def test_other_names(served: Served, path: str) -> None:
    """Without a token a website whose name is made to point here (DNS rebinding) reads nothing."""
    answer = served.get(path, Host="evil.example:8900")
    assert (answer.status, answer.document["slug"]) == (403, "host-not-allowed")


def test_no_other_site_reads_unless_named(served: Served, guarded: Guarded) -> None:
    """No answer allows it, to no question; where one site is named, to that one alone."""
    for path in ("/tasks", "/tasks/nobody", "/", "/health", "/nothing"):
        for origin in (SITE, "null", "http://127.0.0.1", "https://evil.example"):
            assert allowing(served.get(path, Origin=origin)) == {}
            found = allowing(guarded.get(path, Origin=origin))
            expected = SITE if origin == SITE else None
            assert found.get("access-control-allow-origin") == expected
            assert "access-control-allow-credentials" not in found
    refused = guarded.server.get("/tasks", Origin=SITE)
    assert (refused.status, allowing(refused)["access-control-allow-origin"]) == (401, SITE)
    assert "Origin" in guarded.get("/tasks", Origin=SITE).headers["vary"]


def allowing(answer: Answer) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def ask_first(server: Served, origin: str, method: str = "GET", **more: str) -> Answer:
    """What a browser asks before it sends a request of a script."""
    return server.get("/tasks", "OPTIONS", Origin=origin, Access_Control_Request_Method=method, **more)


def test_what_a_browser_asks_first(served: Served, guarded: Guarded) -> None:
    """The site that is named may send the token and ask for parts; no other may ask, and none may change."""
    answer = ask_first(guarded.server, SITE, Access_Control_Request_Headers="authorization, range, if-match")
    assert answer.status == 200
    assert allowing(answer)["access-control-allow-origin"] == SITE
    for refused in (
        ask_first(guarded.server, "https://evil.example"),
        ask_first(guarded.server, SITE + ".evil.example"),
        ask_first(guarded.server, "null"),
        ask_first(served, SITE),
    ):
        assert 400 <= refused.status < 500
        assert "access-control-allow-origin" not in refused.headers
    assert ask_first(guarded.server, SITE, "DELETE").status == 400
    assert ask_first(guarded.server, SITE, Access_Control_Request_Headers="x-other").status == 400


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/health", "GET", 200), ("/tasks", "GET", 200), ("/tasks/accepted/asset_bytes?key=model.pkl", "GET", 200),
        ("/tasks/accepted/asset_bytes?key=model.pkl", "HEAD", 200), ("/tasks/accepted/bundle", "GET", 200),
        ("/", "GET", 200), ("/runs/accepted", "GET", 200), ("/openapi.json", "GET", 200), ("/nothing", "GET", 404),
        ("/tasks/nobody", "GET", 404), ("/tasks/torn", "GET", 409), ("/tasks?limit=x", "GET", 422),
        ("/tasks", "POST", 405),
        ("/tasks/nobody", "HEAD", 404),
    ],
)  # fmt: skip
@pytest.mark.parametrize("accept", ["*/*", "text/html"])
def test_what_every_answer_says(served: Served, target: str, method: str, status: int, accept: str) -> None:
    """It is what it says it is, runs nothing, and is framed, cached for others and passed on by nobody."""
    hold(served.get(target, method, Accept=accept), status)


def hold(answer: Answer, status: int) -> None:
    assert answer.status == status
    headers = answer.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] in {"private, no-cache", "no-store"}
    assert "server" not in headers
    assert "x-powered-by" not in headers


def test_refusals_say_it_too(served: Served, guarded: Guarded) -> None:
    """Those that come before all else, as well."""
    hold(served.get("/tasks", Host="evil.example"), 403)
    hold(guarded.server.get("/tasks"), 401)
    hold(guarded.server.get("/", Accept="text/html"), 401)


def test_a_failure_tells_nothing_and_says_it_too(
    project: Project, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that nobody foresaw is the operator's to read, and not the client's."""
    app = create_app(Folders(project.log, tmp_path / "cache"), Access(TOKEN.encode(), None))

    async def fail() -> None:
        raise RuntimeError("the secret inside")

    app.add_api_route("/fail", fail)
    with running(app) as port:
        answer = talk(
            port, f"GET /fail HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
    status, headers, body = head_and_body(answer)
    hold(Answer(status, headers, body), 500)
    assert b"server-error" in body
    assert b"secret" not in answer and b"Traceback" not in answer
    assert "the secret inside" in caplog.text
    assert TOKEN not in caplog.text
