"""Ids, keys and queries from outside: none is a path, each finds what it names or nothing, and refusals say why."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.results.log_root import CANARY

from .hostile import judge, request
from .served import Served

pytestmark = pytest.mark.usefixtures("bundles_made", "nothing_left_open")

IDS = (
    "..",
    ".",
    "../..",
    "../../etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "///",
    "accepted/..",
    "latest/..",
    "latest/../accepted",
    "accepted/../../outside",
    "accepted/__session__/2/4_record",
    "accepted/./",
    "accepted//",
    "./accepted",
    "accepted\0",
    "accepted\0.txt",
    "\0",
    "accepted\\..\\..\\outside",
    "..\\..\\windows\\win.ini",
    "C:\\Windows\\win.ini",
    "file:///etc/passwd",
    "http://127.0.0.1/",
    "~",
    "~root",
    "$HOME",
    "%HOME%",
    "${jndi:ldap://127.0.0.1/x}",
    "{{7*7}}",
    "%s%s%s%n",
    "' OR 1=1 --",
    "accepted;",
    "accepted;a=b",
    "accepted?",
    "accepted#",
    "accepted&",
    " accepted",
    "accepted ",
    "accepted.",
    "ACCEPTED",
    "Latest",
    "latest\n",
    "accepted\r\nSet-Cookie: owned=1",
    "accepted\r\n\r\nHTTP/1.1 200 OK",
    "*",
    "accept*",
    "[a-z]ccepted",
    "plain.txt",
    "nolog",
    "empty",
    "link-to-file",
    "link-to-folder",
    "canary.txt",
    "CON",
    "NUL",
    "COM1",
    "aux.txt",
    "accepted::$DATA",
    "ａｃｃｅｐｔｅｄ",
    "．．",
    "‥",
    "．．／outside",
    "..\u2215outside",
    "..\u2044outside",
    "\u202edetpecca",
    "accepted\u200b",
    "\ufeffaccepted",
    "é",
    "\ud7ff",
    "\U0010ffff",
    "a" * 255,
    "a" * 256,
    "a" * 300,
    "é" * 200,
    "../" * 90,
    "a" * 10_000,
    "../" * 3_000,
    "a" * 100_000,
)
ENCODED = (
    b"%2e%2e%2f",
    b"%2e%2e/%2e%2e/etc/passwd",
    b"..%2f..%2foutside",
    b"%252e%252e%252f",
    b"..%252foutside",
    b"%25252e",
    b"..%c0%af",
    b"%c0%ae%c0%ae%c0%af",
    b"..%5c..%5c",
    b"%00",
    b"accepted%00",
    b"accepted%0d%0aSet-Cookie:%20owned=1",
    b"%0a",
    b"%ff%fe",
    b"%ed%a0%80",
    b"%f8%80%80%80",
    b"%",
    b"%zz",
    b"%2",
    b"%u002e",
    b"+",
    b"a%20b",
)
KEYS = (
    "..",
    "../canary.txt",
    "../../canary.txt",
    "../../../../../../etc/passwd",
    "/etc/passwd",
    "//etc/passwd",
    "file:///etc/passwd",
    "model.pkl/..",
    "model.pkl/../../canary.txt",
    "model.pkl/",
    "./model.pkl",
    "/model.pkl",
    "model.pkl\0",
    "model.pkl\0.txt",
    "model.pkl ",
    "MODEL.PKL",
    "model.pkl;",
    "model.pkl::$DATA",
    "factor.py/../../canary.txt",
    "factors/../../canary.txt",
    "factors/..",
    "factors/",
    "factors",
    "factors//factor_1_ZMom.py",
    "factors/./factor_1_ZMom.py",
    "factors\\factor_1_ZMom.py",
    "replay/../manifest.json",
    "replay/",
    "manifest.json/",
    "manifest.json.sig",
    "manifest.json/../../../../weights",
    "manifest.jsonx",
    "factor_order.json\r\nSet-Cookie: owned=1",
    "based_factor_0/../factor.py",
    "based_factor_-1/factor.py",
    "based_factor_99999999999999999999/factor.py",
    "based_factor_0/",
    "based_factor_0//factor.py",
    "__session__/0/4_record",
    "mlruns",
    "params.pkl/../../../../meta.yaml",
    "dataset",
    "task",
    "pred.pkl",
    "CON",
    "NUL.json",
    "aux.py",
    "ｍodel.pkl",
    "model.pkl\u200b",
    "\u202elkp.ledom",
    "*",
    "[m]odel.pkl",
    "é" * 200,
    "a" * 512,
    "a" * 513,
    "../" * 1_000,
    "a" * 10_000,
    "a" * 100_000,
)
ROUTES = (
    "/tasks/{}",
    "/tasks/{}/summary",
    "/tasks/{}/sota_factor_anchor",
    "/tasks/{}/asset_bytes?key=model.pkl",
    "/tasks/{}/bundle",
    "/runs/{}",
)
REAL_IDS = {"accepted", "latest", "CON"}


@pytest.mark.parametrize("route", ROUTES)
def test_ids_from_outside_name_no_path(served: Served, route: str) -> None:
    """However an id is spelled, raw or encoded once or twice, only the runs' own names are found."""
    for each in IDS:
        # As much as can stand in a request line.
        raw = "".join(mark if mark > " " else quote(mark) for mark in each).encode("utf-8", "surrogatepass")
        once, twice = quote(each, safe=""), quote(quote(each, safe=""), safe="")
        for spelled in (raw, once.encode(), twice.encode()):
            answers = judge(served.send(request(route.encode().replace(b"{}", spelled))))
            assert len(answers) <= 1
            if route == "/tasks/{}" and spelled != raw and each not in {*REAL_IDS, "a" * 255, "é"}:
                assert answers[0] in {400, 404, 422, 431}, each
    for spelled in ENCODED:
        statuses = judge(served.send(request(route.encode().replace(b"{}", spelled))))
        assert statuses[0] in {400, 404, 422}, spelled


def test_names_that_only_look_the_same(served: Served) -> None:
    """A run is found by its very letters: no case folding, no composing of accents, no trimming."""
    assert served.get("/tasks/" + quote("e\u0301")).status == 200
    assert served.get("/tasks/" + quote("\u00e9")).status == 404
    assert served.get("/tasks/con").status == 404


@pytest.mark.parametrize("task", ["accepted", "embedded", "rejected", "torn"])
def test_keys_from_outside_name_no_path(served: Served, task: str) -> None:
    """However a key is spelled, it is one of those that the run has, or there is none."""
    states = {"torn": {409}, "embedded": {404, 409}}
    expected = states.get(task, {404}) | {400, 422, 431}
    for each in KEYS:
        for spelled in (quote(each, safe=""), quote(quote(each, safe=""), safe="")):
            for more in ("", "&replay=true"):
                target = f"/tasks/{task}/asset_bytes?key={spelled}{more}".encode()
                statuses = judge(served.send(request(target)))
                assert statuses and set(statuses) <= expected, (each, statuses)
    for spelled in ENCODED:
        statuses = judge(served.send(request(f"/tasks/{task}/asset_bytes?key=".encode() + spelled)))
        assert set(statuses) <= expected, spelled


@pytest.mark.parametrize(
    "query",
    [
        "", "key", "key=", "key=&key=", "=model.pkl", "key[]=model.pkl", "KEY=model.pkl", "key=model.pkl&replay=maybe",
        "key=model.pkl&replay=", "key=model.pkl&replay=2", ";key=model.pkl", "key=%zz%", "&" * 5000, "a=b&" * 3000,
    ],
)  # fmt: skip
def test_queries_that_are_none(served: Served, query: str) -> None:
    """A parameter that is missing or not valid is named, and nothing is guessed."""
    assert judge(served.send(request(f"/tasks/accepted/asset_bytes?{query}".encode())))[0] in {404, 422}


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=-1", "limit=201", "limit=1e9", "limit=NaN", "limit=", "limit=" + "9" * 5000, "offset=-1",
     "offset=1.5", "offset=1000001", "offset=" + "9" * 400, "limit=%00", "limit=१०", "offset=0x10"],
)  # fmt: skip
def test_numbers_that_are_none(served: Served, query: str) -> None:
    """Limits and offsets are small whole numbers."""
    for path in ("/tasks", "/") if query.startswith("offset") else ("/tasks",):
        answer = served.get(f"{path}?{quote(query, safe='=%')}")
        assert (answer.status, answer.document["slug"]) == (422, "request-not-valid"), query


def test_the_first_or_the_last_of_two(served: Served) -> None:
    """Of a parameter that is given twice one is taken: another key never slips through the check."""
    answer = served.get("/tasks/accepted/asset_bytes?key=factor.py&key=../../canary.txt")
    assert answer.status in {200, 404, 422}
    assert CANARY.encode() not in answer.body
