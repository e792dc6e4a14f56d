"""A run that goes on while it is asked for: answers never go back, never fail, and are up to date in a moment."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.results.log_root import run_of_factors, signed, with_weights, write_run
from tests.sessions.forged import feedback, forge, saved_loop
from tests.sessions.generated_log import KEY

from .served import Served, serving

STEPS = ("0_direct_exp_gen", "1_coding", "2_running", "3_feedback", "4_record")
LOOPS = 12
CLIENTS = 4
IN_TIME = 1.0


@dataclass
class Seen:
    """What one client was answered, in order.

    Attributes:
        wrong: What must not have been.
    """

    lengths: list[int] = field(default_factory=list)
    tags: dict[str, bytes] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def snapshots() -> list[tuple[str, bytes]]:
    """Every snapshot of a run in the order of their writing; every third loop is rejected."""
    written = []
    history = []
    for loop in range(LOOPS):
        experiment = with_weights(run_of_factors(f"Factor{loop}"), f"weights of loop {loop}".encode())
        for step in STEPS:
            if step == STEPS[-1]:
                history.append((experiment, feedback(loop % 3 != 2)))
            places = {place: place for place in range(len(history))}
            content = signed(forge(saved_loop(*history, idx2loop_id=places)))
            written.append((f"{loop}/{step}", content))
    return written


def write_torn(path: Path, content: bytes, chance: random.Random) -> None:
    """Write as RD-Agent does, not atomically, with pauses in the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cuts = sorted(chance.randrange(len(content)) for _ in range(2))
    with path.open("wb", buffering=0) as file:
        for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True):
            file.write(content[start:stop])
            time.sleep(chance.uniform(0.001, 0.005))


def watch(served: Served, seen: Seen, over: threading.Event, task: str = "growing") -> None:
    """Ask for the session's anchor again and again over one connection."""
    connection = HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        while not over.is_set():
            connection.request("GET", f"/tasks/{task}/session_anchor")
            answer = connection.getresponse()
            body = answer.read()
            if answer.status in (404, 409) and not seen.lengths:
                # Before its first snapshot is whole there is nothing to be told.
                assert json.loads(body)["slug"]
                continue
            if answer.status != 200:
                seen.wrong.append(f"{answer.status} {body[:300]!r}")
                continue
            document = json.loads(body)
            if document["task_id"] != task:
                seen.wrong.append(f"asked for {task}, was given {document['task_id']}")
            seen.lengths.append(document["hist_len"])
            tag = answer.headers["etag"]
            if seen.tags.setdefault(tag, body) != body:
                seen.wrong.append(f"{tag} stands for two answers")
    finally:
        connection.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A log root with another run, which must not be mixed up with the growing one."""
    write_run(tmp_path / "log" / "other", [(run_of_factors("Other"), True)] * 3)
    return tmp_path / "log"


@pytest.fixture
def server(root: Path) -> Iterator[Served]:
    with serving(root, key=KEY) as server:
        yield server
        assert "Traceback" not in server.output


def wait_for(server: Served, path: str, name: str, value: object) -> float:
    """Seconds until an answer's field has a value; the last value that it had if that takes too long."""
    start = time.monotonic()
    while (found := server.get(path).document.get(name)) != value:
        assert time.monotonic() - start < 10, f"{name} stays {found}, and not {value}"
        time.sleep(0.01)
    return time.monotonic() - start


def test_a_log_that_is_being_written(server: Served, root: Path) -> None:
    """The history only grows, reaches its end in time, and is never another run's."""
    chance = random.Random(20260116)
    over = threading.Event()
    seen = [Seen() for _ in range(CLIENTS)]
    clients = [threading.Thread(target=watch, args=(server, each, over)) for each in seen]
    other = Seen()
    clients.append(threading.Thread(target=watch, args=(server, other, over, "other")))
    for each in clients:
        each.start()
    try:
        for place, content in snapshots():
            write_torn(root / "growing" / "__session__" / place, content, chance)
        waited = wait_for(server, "/tasks/growing/session_anchor", "hist_len", LOOPS)
    finally:
        over.set()
        for each in clients:
            each.join()
    assert waited < IN_TIME
    assert [each.wrong for each in (*seen, other)] == [[]] * (CLIENTS + 1)
    for each in seen:
        assert each.lengths == sorted(each.lengths)
        assert len(set(each.lengths)) > 2, "It was written before anybody saw it grow."
        # The first snapshots of a loop have as long a history as the one before, and are other files.
        assert len(each.tags) >= len(set(each.lengths))
    assert set(other.lengths) == {3}


def test_a_snapshot_that_is_written_over(server: Served, root: Path) -> None:
    """A run that goes on from a checkpoint writes its files again, in place: it is read again, and in time."""
    chance = random.Random(7)
    file = root / "growing" / "__session__" / "0" / STEPS[-1]
    tags = set()
    for length in (1, 2, 3, 4, 5):
        history = [(run_of_factors(f"Factor{number}"), feedback(True)) for number in range(length)]
        places = dict.fromkeys(range(length), 0)
        write_torn(file, signed(forge(saved_loop(*history, idx2loop_id=places))), chance)
        if length == 1:
            wait_until_there(server)
        assert wait_for(server, "/tasks/growing/session_anchor", "hist_len", length) < IN_TIME
        tags.add(server.get("/tasks/growing/loops").headers["etag"])
    assert len(tags) == 5


def wait_until_there(server: Served) -> None:
    end = time.monotonic() + 5
    while server.get("/tasks/growing").status != 200:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_accepted_loop_moves_the_anchor_on(server: Served, root: Path) -> None:
    """New weights, new tags; a download that was begun with the old ones is not gone on with."""
    loops = [
        (with_weights(run_of_factors(f"Factor{number}"), b"weights %d" % number), decision)
        for number, decision in enumerate((True, False, True))
    ]
    write_run(root / "growing", loops[:1])
    wait_until_there(server)
    anchor = "/tasks/growing/sota_factor_anchor"
    before = server.get(anchor)
    assert before.document["last_sota_factor_index"] == 0
    weights = server.asset("growing", "model.pkl")
    assert weights.body == b"weights 0"
    tag = weights.headers["etag"]
    assert tag.strip('"') == before.document["resolved_model_weight_sha256"]

    write_run(root / "growing", loops[:2])
    assert wait_for(server, anchor, "hist_len", 2) < IN_TIME
    rejected = server.get(anchor)
    assert rejected.document["last_sota_factor_index"] == 0
    assert rejected.headers["etag"] != before.headers["etag"]
    assert server.asset("growing", "model.pkl", If_Match=tag).status == 200
    assert server.get(anchor, If_None_Match=rejected.headers["etag"]).status == 304

    write_run(root / "growing", loops)
    assert wait_for(server, anchor, "last_sota_factor_index", 2) < IN_TIME
    after = server.get(anchor)
    assert after.document["resolved_model_weight_sha256"] != before.document["resolved_model_weight_sha256"]
    assert server.asset("growing", "model.pkl").body == b"weights 2"
    refused = server.asset("growing", "model.pkl", If_Match=tag, Range="bytes=3-")
    assert (refused.status, refused.document["slug"]) == (412, "asset-changed")
    assert server.asset("growing", "model.pkl", If_None_Match=tag).status == 200
    assert server.get("/tasks/latest").document["task_id"] == "growing"


def test_a_run_that_goes_away(server: Served, root: Path) -> None:
    """A log that was moved away is not there any more, and another one in its place is that one."""
    write_run(root / "growing", [(run_of_factors("ZMom"), True)])
    wait_until_there(server)
    (root / "growing").rename(root.parent / "away")
    end = time.monotonic() + 5
    while (answer := server.get("/tasks/growing")).status != 404:
        assert time.monotonic() < end, answer
        time.sleep(0.01)
    write_run(root / "growing", [(run_of_factors("Other"), False)] * 2)
    wait_until_there(server)
    assert wait_for(server, "/tasks/growing", "hist_len", 2) < IN_TIME
