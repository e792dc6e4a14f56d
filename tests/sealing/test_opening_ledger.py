"""The ledger of opened days: only added to, and nothing is shown without it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.sealing.opening_ledger import Opening, add_opening, count_openings, read_openings


def opening(**other: object) -> Opening:
    """An opening of January 2021 with one bundle."""
    fields: dict[str, object] = {
        "opened_at": "2021-02-01T00:00:00+00:00",
        "bundle": "/b",
        "manifest_sha256": "a" * 64,
        "task_id": "run",
        "loop": 3,
        "sealed_from": "2021-01-01",
        "first_day": "2021-01-04",
        "last_day": "2021-01-29",
        "days": 20,
        "market": "csi300",
        "benchmark": "SH000300",
        "figures": {"ic": 0.02},
        "backtest": {"ic": 0.05},
    }
    return Opening.model_validate({**fields, **other})


def test_an_opening_is_a_line(tmp_path: Path) -> None:
    """And what was before it is told."""
    ledger = tmp_path / "deep" / "ledger.jsonl"
    assert add_opening(ledger, opening()) == ()
    assert add_opening(ledger, opening(loop=4)) == (opening(),)
    assert [json.loads(line)["loop"] for line in ledger.read_text().splitlines()] == [3, 4]


def test_many_at_once_lose_none(tmp_path: Path) -> None:
    """Each sees all that were before it."""
    ledger = tmp_path / "ledger.jsonl"
    with ThreadPoolExecutor(8) as pool:
        before = list(pool.map(lambda loop: len(add_opening(ledger, opening(loop=loop))), range(40)))
    assert sorted(before) == list(range(40))
    assert len(read_openings(ledger)) == 40


@pytest.mark.parametrize(
    ("other", "counts"),
    [
        ({}, (1, 1)),
        ({"manifest_sha256": "b" * 64}, (0, 1)),
        ({"first_day": "2021-01-29", "last_day": "2021-03-01"}, (1, 1)),
        ({"first_day": "2021-02-01", "last_day": "2021-03-01"}, (0, 0)),
        ({"market": "csi500"}, (0, 0)),
    ],
)
def test_days_are_fresh_once(other: dict[str, object], counts: tuple[int, int]) -> None:
    """Whatever bundle they are opened with; days of another market are others."""
    assert count_openings([opening()], opening(**other)) == counts


@pytest.mark.parametrize(
    "text", ["{}\n", "no json\n", '{"opened_at": "2021', opening().model_dump_json()], ids=str.__len__
)
def test_a_ledger_that_cannot_be_read_is_not_added_to(tmp_path: Path, text: str) -> None:
    """A damaged line may have been an opening; behind one that was cut off just before its end, the next is lost."""
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text(text)
    with pytest.raises(SotaError) as caught:
        add_opening(ledger, opening())
    assert caught.value.slug == "ledger-unreadable"
    assert ledger.read_text() == text


FULL = """
import resource, sys
from pathlib import Path
from rdagent_sota_patch.errors import SotaError
from tests.sealing.test_opening_ledger import add_opening, opening
ledger = Path(sys.argv[1])
limit = ledger.stat().st_size + 40
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    add_opening(ledger, opening(loop=4))
except SotaError as error:
    print(error.slug)
"""


def test_a_line_that_finds_no_room_is_taken_back(tmp_path: Path) -> None:
    """Half a line would close the ledger to all later openings."""
    ledger = tmp_path / "ledger.jsonl"
    add_opening(ledger, opening())
    whole = ledger.read_bytes()
    project = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(ledger)], cwd=project, capture_output=True, text=True, check=False
    )
    assert ran.stdout.strip() == "cannot-write", ran.stderr
    assert ledger.read_bytes() == whole


@pytest.mark.parametrize("name", ["a\u2028b", "a\x85b", "a\nb", os.fsdecode(b"a\xffb")], ids=ascii)
def test_any_name_of_a_folder_is_one_line(tmp_path: Path, name: str) -> None:
    """Also one with what some take for the end of a line, or that is no text."""
    ledger = tmp_path / "ledger.jsonl"
    add_opening(ledger, opening(bundle=f"/{name}"))
    (held,) = add_opening(ledger, opening())
    assert held.loop == 3
    assert len(ledger.read_bytes().splitlines()) == 2


def test_a_new_ledger_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the first opening must not make it the first again."""
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(stat.S_ISDIR(os.fstat(file).st_mode)))
    add_opening(tmp_path / "ledger.jsonl", opening())
    assert synced == [False, True]
    add_opening(tmp_path / "ledger.jsonl", opening())
    assert synced == [False, True, False]
