"""How commands speak, in a terminal and in a pipe."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from rich.table import Table

from rdagent_sota_patch.cli.output import count, out, print_json


def _table() -> Table:
    table = Table(box=None)
    for number in range(12):
        table.add_column(f"a heading of some length {number}")
    table.add_row(*["a cell that is not cut"] * 12)
    return table


def test_a_table_in_a_pipe_is_as_wide_as_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without COLUMNS no word is cut or wrapped; with it, the table keeps to it."""
    monkeypatch.delenv("COLUMNS", raising=False)
    out.print(_table())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[1].count("a cell that is not cut") == 12
    monkeypatch.setenv("COLUMNS", "60")
    out.print(_table())
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


def test_json_is_utf8_in_any_locale() -> None:
    """Chinese names are read as they are; what a terminal would obey is escaped, and reads back the same."""
    name = "动量因子 \x9b2J\u202e\ud800"
    code = f"from rdagent_sota_patch.cli.output import print_json; print_json({{'name': {name!r}}})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONIOENCODING": "ascii", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    text = done.stdout.decode("utf-8")
    assert "动量因子" in text
    assert "\x9b" not in text and "\u202e" not in text
    assert json.loads(text) == {"name": name}


def test_json_has_null_for_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    """NaN and infinities are not JSON."""
    print_json({"values": [1.5, float("nan"), float("inf")]})
    assert json.loads(capsys.readouterr().out) == {"values": [1.5, None, None]}


@pytest.mark.parametrize(("number", "said"), [(0, "0 factors"), (1, "1 factor"), (1200, "1,200 factors")])
def test_one_and_many(number: int, said: str) -> None:
    assert count(number, "factor") == said
