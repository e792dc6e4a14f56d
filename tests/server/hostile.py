"""Requests byte by byte, and what no answer to any of them may hold."""

from __future__ import annotations

import json

from tests.results.log_root import CANARY

from .listening import head_and_body

NOT_HTTP = b"Invalid HTTP request received."


def split(answers: bytes) -> list[bytes]:
    """The answers on one connection, each with its head and as long a body as it says."""
    found = []
    while answers:
        head, end, rest = answers.partition(b"\r\n\r\n")
        length = int(head_and_body(head)[1].get("content-length", len(rest)))
        found.append(head + end + rest[:length])
        answers = rest[length:]
    return found


def judge(answers: bytes) -> list[int]:
    """The statuses of all that came back, each held to what no answer may lack or hold."""
    assert CANARY.encode() not in answers
    assert b"root:x:0:0" not in answers
    assert not answers or answers.startswith(b"HTTP/1.1 "), answers[:200]
    statuses = []
    for answer in split(answers):
        status, fields, body = head_and_body(answer)
        assert "set-cookie" not in fields
        assert status < 500, answer[:1000]
        if NOT_HTTP in body:
            # uvicorn's own answer: nothing of ours was asked.
            assert (status, fields["connection"]) == (400, "close")
        elif status >= 400:
            assert fields["content-type"] == "application/problem+json", answer[:500]
            if body:
                document = json.loads(body)
                assert document["slug"]
                assert document["status"] == status
        statuses.append(status)
    return statuses


def request(target: bytes, *lines: bytes, method: bytes = b"GET", host: bytes = b"127.0.0.1") -> bytes:
    head = [method + b" " + target + b" HTTP/1.1", b"Host: " + host, b"Connection: close", *lines]
    return b"\r\n".join(head) + b"\r\n\r\n"
