"""Requests byte by byte, and what no answer to any of them may hold."""

from __future__ import annotations

import json

from tests.results.log_root import CANARY

from .listening import head_and_body


def split(answers: bytes) -> list[bytes]:
    """The answers on one connection, each with its head and as long a body as it says."""
    found = []
    while answers:
        head, end, rest = answers.partition(b"\r\n\r\n")
        length = int(head_and_body(head)[1].get("content-length", 0))
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
        if status >= 400:
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


def judge_but_501(answers: bytes) -> list[int]:
    """As `judge`; 501 for a transfer coding that is not known is RFC 9112's own answer."""
    if answers.startswith(b"HTTP/1.1 501 "):
        assert head_and_body(answers)[1]["content-type"] == "application/problem+json"
        return [501]
    return judge(answers)
