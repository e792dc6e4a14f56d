"""Factors put into a library and taken out of it: once each, whole or not at all, whoever else is at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import SotaError, TableError
from rdagent_sota_patch.factor_library import shelving
from rdagent_sota_patch.factor_library.entries import find_factor, read_library, values_path
from rdagent_sota_patch.factor_library.shelving import Findings, add_factors, use_factors
from rdagent_sota_patch.factor_table import canonical
from rdagent_sota_patch.factor_table.metrics import FactorFigures
from rdagent_sota_patch.factor_table.provenance import read_provenance
from rdagent_sota_patch.hashing import hash_text
from rdagent_sota_patch.lookahead.verdicts import Audit, FactorVerdict

from .made_library import NOTHING, VALUES, add, make_source, write_table


def state(folder: Path) -> dict[str, bytes]:
    """Everything in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_factors_of_a_run(tmp_path: Path) -> None:
    """Each by the hash of its code and values, with the run, the loop that proposed it and that loop's workspace."""
    assert [each.change for each in add(tmp_path)] == ["new", "new"]
    factor = find_factor(tmp_path / "library", "B")
    assert (factor.code, factor.code_sha256) == ("y = 2\n", hash_text("y = 2\n"))
    assert (factor.description, factor.variables, factor.verdict) == ("Second", {"b": "price"}, "not audited")
    (run,) = factor.lineage
    assert (run.task_id, run.loop, run.accepted_loop, run.workspace, run.accepted) == (
        "first",
        2,
        2,
        "/ws/2",
        True,
    )
    values = pd.read_parquet(values_path(tmp_path / "library", factor.id))
    np.testing.assert_array_equal(values[("feature", "value")], VALUES["B"])


def test_adding_again_changes_nothing(tmp_path: Path) -> None:
    """Not a byte."""
    add(tmp_path)
    before = state(tmp_path / "library")
    assert [each.change for each in add(tmp_path)] == ["there", "there"]
    assert state(tmp_path / "library") == before


def test_another_run_of_the_same_factor(tmp_path: Path) -> None:
    """It is one factor with two runs; other code with the same values is another factor."""
    add(tmp_path)
    assert [each.change for each in add(tmp_path, run="second")] == ["updated", "updated"]
    assert [run.task_id for run in find_factor(tmp_path / "library", "A").lineage] == ["first", "second"]
    assert [each.change for each in add(tmp_path, run="third", code="x = 3\n")] == ["new", "updated"]
    with pytest.raises(SotaError) as caught:
        find_factor(tmp_path / "library", "A")
    assert caught.value.slug == "library-ambiguous"


def test_a_table_that_changes_while_it_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No factor gets values of another hash: adding again gives whole factors."""
    source, table = make_source(tmp_path)
    before = table.read_bytes()
    fingerprint = shelving.fingerprint_factors

    def change(*arguments: Any) -> dict[str, str]:
        found = fingerprint(*arguments)
        write_table(table, A=VALUES["C"], B=VALUES["C"])
        os.utime(table, ns=(1, 1))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(shelving, "fingerprint_factors", change)
        with pytest.raises(TableError, match="changed"):
            add_factors(tmp_path / "library", source, table, NOTHING)
    table.write_bytes(before)
    add_factors(tmp_path / "library", source, table, NOTHING)
    factors, _ = read_library(tmp_path / "library")
    assert len(factors) == 2
    assert use_factors(tmp_path / "library", factors, tmp_path / "set.parquet").table.rows == 360


def test_a_table_in_any_order_is_sorted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not again for each factor; the hashes are those of the sorted table's factors."""
    sorted_once = [each.factor.id for each in add(tmp_path)]
    source, table = make_source(tmp_path)
    pd.read_parquet(table).sample(frac=1, random_state=1).to_parquet(table)
    rearrange, calls = canonical._rearrange, []

    def count(*arguments: Any) -> None:
        calls.append(arguments)
        rearrange(*arguments)

    monkeypatch.setattr(canonical, "_rearrange", count)
    added = add_factors(tmp_path / "other", source, table, NOTHING)
    assert [each.factor.id for each in added] == sorted_once
    assert len(calls) == 1


def test_figures_and_verdicts_come_later(tmp_path: Path) -> None:
    """What was not known is filled in, and what is known is not lost by adding without it."""
    add(tmp_path)
    verdict = FactorVerdict(
        name="A",
        causal=True,
        changed_share=0.0,
        max_change=0.0,
        lookback_days=3,
        code_sha256=hash_text("x = 1\n"),
    )
    audit = Audit(
        audited_at_utc="2026-01-01T00:00:00Z",
        data_start="2020-01-01",
        data_end="2020-02-01",
        cuts=(),
        factors=(verdict,),
    )
    figures = FactorFigures(ic_mean=0.03, quantile_returns=(0.1, 0.2), n_trading_days=9)
    findings = Findings({"A": figures}, "daily_pv.h5", {"A": audit})
    assert [each.change for each in add(tmp_path, findings)] == ["updated", "there"]
    unjudged = audit.model_copy(update={"factors": (verdict.model_copy(update={"causal": None}),)})
    add(tmp_path, Findings({}, "", {"A": unjudged}))
    factor = find_factor(tmp_path / "library", "A")
    assert (factor.figures, factor.figures_from, factor.verdict) == (figures, "daily_pv.h5", "causal")


def test_use_makes_a_factor_file(tmp_path: Path) -> None:
    """With the factors' names, values and origins."""
    add(tmp_path)
    library = tmp_path / "library"
    target = tmp_path / "set.parquet"
    merged = use_factors(library, [find_factor(library, name) for name in "BA"], target)
    assert merged.table.names == ("B", "A")
    frame = pd.read_parquet(target)
    np.testing.assert_array_equal(frame[("feature", "A")], VALUES["A"])
    provenance = read_provenance(target)
    assert provenance is not None
    assert [(each.name, each.task_id, each.loop, each.code) for each in provenance.factors] == [
        ("B", "first", 2, "y = 2\n"),
        ("A", "first", 0, "x = 1\n"),
    ]


def test_values_that_were_exchanged_are_noticed(tmp_path: Path) -> None:
    """And nothing is written."""
    add(tmp_path)
    library = tmp_path / "library"
    a, b = (find_factor(library, name) for name in "AB")
    values_path(library, a.id).write_bytes(values_path(library, b.id).read_bytes())
    with pytest.raises(SotaError, match="not those of its hash") as caught:
        use_factors(library, [b, a], tmp_path / "set.parquet")
    assert caught.value.slug == "library-damaged" and not (tmp_path / "set.parquet").exists()


def test_text_that_is_none(tmp_path: Path) -> None:
    """Code with a lone surrogate has its hash, and no text."""
    (first, _) = add(tmp_path, code="x = '\ud800'\n")
    assert first.factor.code is None and first.factor.code_sha256 == hash_text("x = '\ud800'\n")
    assert len(read_library(tmp_path / "library")[0]) == 2


_ADD = """
import sys
from pathlib import Path
from tests.factor_library.made_library import NOTHING, make_source
from rdagent_sota_patch.factor_library.shelving import add_factors
folder, run = Path(sys.argv[1]), sys.argv[2]
source, table = make_source(folder, run)
print("ready", flush=True)
sys.stdin.readline()
while True:
    add_factors(folder / "library", source, table, NOTHING)
    if run != "killed":
        break
    # Documents first: one whose values are missing is not what a killed process leaves.
    for path in sorted((folder / "library").glob("*.*"), key=lambda path: path.suffix):
        path.unlink()
"""


def start(folder: Path, run: str) -> subprocess.Popen[str]:
    """A process that adds a run once it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", _ADD, str(folder), run],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_several_processes_at_once(tmp_path: Path) -> None:
    """Each run is in every factor's lineage, and nothing is left over."""
    runs = ["one", "two", "three", "four"]
    processes = [start(tmp_path, run) for run in runs]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0] * 4
    factors, problems = read_library(tmp_path / "library")
    assert problems == []
    assert [sorted(run.task_id for run in factor.lineage) for factor in factors] == [sorted(runs)] * 2
    names = {path.name for path in (tmp_path / "library").iterdir()}
    assert names == {".lock"} | {f"{factor.id}.{end}" for factor in factors for end in ("json", "parquet")}


@pytest.mark.parametrize("after", [0.02, 0.05, 0.1, 0.2, 0.4])
def test_killed_at_any_time(tmp_path: Path, after: float) -> None:
    """Whatever is listed is whole, and adding again completes it."""
    process = start(tmp_path, "killed")
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (tmp_path / "library").mkdir(exist_ok=True)
    factors, problems = read_library(tmp_path / "library")
    assert problems == []
    if factors:
        use_factors(tmp_path / "library", factors, tmp_path / "set.parquet")
    add(tmp_path, run="killed")
    factors, _ = read_library(tmp_path / "library")
    assert use_factors(tmp_path / "library", factors, tmp_path / "set.parquet").table.rows == 360


def test_a_table_that_was_changed_since(tmp_path: Path) -> None:
    """Other values are another factor; the old one stays."""
    add(tmp_path)
    source, table = make_source(tmp_path)
    write_table(table, A=VALUES["A"], B=VALUES["C"])
    added = add_factors(tmp_path / "library", replace(source, table=table), table, NOTHING)
    assert [each.change for each in added] == ["there", "new"]
