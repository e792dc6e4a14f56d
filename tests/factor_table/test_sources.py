"""The SOTA of a run that was itself made on top of another run's SOTA factors."""

from __future__ import annotations

import math
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Any

import pytest

from rdagent_sota_patch.errors import SourceError
from rdagent_sota_patch.factor_table.sources import TABLE_NAME, _read_metrics, source_of
from rdagent_sota_patch.sessions.records import (
    ExperimentKind,
    ExperimentRecord,
    Factor,
    Session,
    Signature,
)


def session(log: Path, workspace: Path, sota_source: dict[str, Any] | None) -> Session:
    """A fin_quant run with one accepted factor loop."""
    record = ExperimentRecord(
        2,
        ExperimentKind.FACTOR,
        True,
        factors=(Factor("New", "about New", "n", code="print('New')\n"),),
        workspace=PurePath(workspace),
        sota_source=None if sota_source is None else MappingProxyType(sota_source),
    )
    return Session(log, log / "__session__/2/4_record", Signature.VERIFIED, "QuantRDLoop", (record,))


def test_origins_reach_back(tmp_path: Path) -> None:
    """The factors that the run began with are known as its own are; what is not a factor is left out."""
    (tmp_path / TABLE_NAME).touch()
    recorded = [
        {"name": "Old", "description": "about Old", "formulation": "o", "code": "print(1)\n", "loop": 0},
        {"name": "Bare", "description": None, "code": 5},
        {"name": 7},
        "text",
    ]
    source = source_of(session(tmp_path, tmp_path, {"factors": recorded}))
    old, bare, new = source.describe_factors(("Old", "Bare", "New"))
    assert (old.description, old.formulation, old.code) == ("about Old", "o", "print(1)\n")
    assert (bare.description, bare.formulation, bare.code) == ("", "", None)
    assert new.loop == 2
    assert len(source.origins) == 3


def test_a_smaller_set_is_not_rebuilt(tmp_path: Path) -> None:
    """Its log holds the code of its own factors alone: without the table there is no such set any more."""
    gone = tmp_path / "gone"
    assert source_of(session(tmp_path, gone, None)).table is None
    with pytest.raises(SourceError, match=r"table-gone.*on top of another run's SOTA factors"):
        source_of(session(tmp_path, gone, {"factors": [{"name": "Old"}]}))


def test_odd_record_is_no_crash(tmp_path: Path) -> None:
    """A stranger's log may hold anything there."""
    (tmp_path / TABLE_NAME).touch()
    assert len(source_of(session(tmp_path, tmp_path, {"factors": {"name": "Old"}})).origins) == 1


def test_metrics_that_are_no_numbers(tmp_path: Path) -> None:
    """A metric that is written as text is not a number, under its own name; other lines are passed over."""
    (tmp_path / "qlib_res.csv").write_text(",0\nIC,0.25\nICIR,none\nwith,three,cells\n", encoding="utf-8")
    found = _read_metrics(tmp_path / "qlib_res.csv")
    assert list(found) == ["IC", "ICIR"]
    assert found["IC"] == 0.25 and math.isnan(found["ICIR"])
