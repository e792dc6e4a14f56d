"""Saved tables say where they come from, and files of strangers do no harm."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdagent_sota_patch import __version__
from rdagent_sota_patch.errors import SotaError, TableError
from rdagent_sota_patch.factor_table import provenance as module
from rdagent_sota_patch.factor_table.provenance import FactorOrigin, Provenance, read_provenance, save_table
from rdagent_sota_patch.factor_table.table import read_factor_table

from .frames import flatten, frames, make_frame

PROVENANCE = Provenance(
    task_id="2026-01-02_03-04-05-678901",
    loop=3,
    snapshot="log/__session__/3/4_record",
    factors=(
        FactorOrigin(
            name="Rev5D",
            description="五日反转",
            formulation=r"-\frac{C_t}{C_{t-5}}",
            variables=MappingProxyType({"C_t": "close"}),
            code="import pandas as pd\n",
            loop=1,
        ),
        FactorOrigin(name="Vol20"),
    ),
    metrics=MappingProxyType({"IC": 0.03, "1day.excess_return_with_cost.max_drawdown": -0.1}),
    written_at=datetime(2026, 1, 2, tzinfo=timezone.utc),
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A table as RD-Agent writes it."""
    path = tmp_path / "combined factors 因子.parquet"
    make_frame(days=40).to_parquet(path)
    return path


def test_saves_and_reads_back(source: Path, tmp_path: Path) -> None:
    """Everything that was recorded comes back, with the fingerprint of the table."""
    table = save_table(source, tmp_path / "saved.parquet", PROVENANCE)
    assert table == read_factor_table(tmp_path / "saved.parquet")
    assert table.canonical
    assert table.fingerprint == read_factor_table(source).fingerprint
    assert read_provenance(table.path) == replace(PROVENANCE, fingerprint=table.fingerprint)
    pd.testing.assert_frame_equal(pd.read_parquet(table.path), pd.read_parquet(source), check_exact=True)


def test_the_source_is_only_read(source: Path, tmp_path: Path) -> None:
    """Saving changes neither bytes nor time of the source."""
    before = (source.read_bytes(), source.stat().st_mtime_ns)
    save_table(source, tmp_path / "saved.parquet", PROVENANCE)
    assert (source.read_bytes(), source.stat().st_mtime_ns) == before


def test_defaults() -> None:
    """Time and version are those of the moment."""
    made = Provenance("run", 0)
    assert abs(datetime.now(timezone.utc) - made.written_at) < timedelta(minutes=1)
    assert made.package_version == __version__
    assert json.loads(made.to_json())["written_at"].endswith("+00:00")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_metrics_that_are_no_numbers(source: Path, tmp_path: Path, value: float) -> None:
    """The footer is strict JSON, also for a metric that is NaN."""
    target = tmp_path / "saved.parquet"
    save_table(source, target, replace(PROVENANCE, metrics={"IC": value}))
    text = pq.read_metadata(target).metadata[b"rdagent_sota_patch"]
    json.loads(text, parse_constant=pytest.fail)
    read = read_provenance(target)
    assert read is not None
    assert str(read.metrics["IC"]) == str(value)


def test_saving_again_replaces_the_record(source: Path, tmp_path: Path) -> None:
    """A saved table can be saved again, onto itself too, under another record."""
    target = tmp_path / "saved.parquet"
    first = save_table(source, target, PROVENANCE)
    second = save_table(target, target, replace(PROVENANCE, loop=9))
    assert second.fingerprint == first.fingerprint
    read = read_provenance(target)
    assert read is not None
    assert read.loop == 9


def test_a_table_that_was_read_already(source: Path, tmp_path: Path) -> None:
    """Saving takes a table as well, and notices when its file has changed since."""
    table = read_factor_table(source)
    assert save_table(table, tmp_path / "saved.parquet", PROVENANCE).fingerprint == table.fingerprint
    (make_frame(days=40) + 1).to_parquet(source)
    with pytest.raises(TableError, match="table-changed"):
        save_table(table, tmp_path / "other.parquet", PROVENANCE)
    assert not (tmp_path / "other.parquet").exists()


_TEXT = st.text(max_size=10)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frame=frames(),
    provenance=st.builds(
        Provenance,
        task_id=_TEXT,
        loop=st.integers(0, 10**6),
        snapshot=_TEXT,
        factors=st.lists(
            st.builds(
                FactorOrigin,
                name=_TEXT,
                description=_TEXT,
                formulation=_TEXT,
                variables=st.dictionaries(_TEXT, _TEXT, max_size=3),
                code=st.none() | _TEXT,
                loop=st.none() | st.integers(0, 99),
            ),
            max_size=3,
        ).map(tuple),
        metrics=st.dictionaries(_TEXT, st.floats(allow_nan=False), max_size=3),
        written_at=st.datetimes(timezones=st.just(timezone.utc), min_value=datetime(2000, 1, 1)),
    ),
)
def test_round_trip(tmp_path: Path, frame: pd.DataFrame, provenance: Provenance) -> None:
    """Any record and any table, in whatever layout, come back as they were."""
    source, target = tmp_path / "source.parquet", tmp_path / "target.parquet"
    frame.to_parquet(source)
    table = save_table(source, target, provenance)
    assert read_provenance(target) == replace(provenance, fingerprint=table.fingerprint)
    read = pd.read_parquet(target)
    pd.testing.assert_frame_equal(flatten(read), frame.sort_index(), check_exact=True, check_freq=False)


def test_files_without_provenance(source: Path, tmp_path: Path) -> None:
    """RD-Agent's own files, and any other parquet file, have none."""
    assert read_provenance(source) is None
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    assert read_provenance(tmp_path / "x.parquet") is None


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    """A missing file and one of another format are errors."""
    with pytest.raises(TableError, match="table-not-found"):
        read_provenance(tmp_path / "x.parquet")
    (tmp_path / "x.parquet").write_text("text")
    with pytest.raises(TableError, match="table-unreadable"):
        read_provenance(tmp_path / "x.parquet")


def forge(source: Path, data: bytes) -> Path:
    """A table with this record in its footer."""
    table = pq.read_table(source)
    path = source.with_name("forged.parquet")
    pq.write_table(
        table.replace_schema_metadata({**table.schema.metadata, b"rdagent_sota_patch": data}), path
    )
    return path


GOOD = json.loads(PROVENANCE.to_json())


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff\xfe", "JSON"),
        (b"[]", "object"),
        (b"[" * 100_000, "JSON"),
        ({}, "schema_version"),
        ({**GOOD, "schema_version": 2}, "version is 2"),
        ({**GOOD, "schema_version": 2, "loop": {}}, "version is 2"),
        ({**GOOD, "loop": "third"}, "loop"),
        ({**GOOD, "factors": "Rev5D"}, "factors"),
        ({**GOOD, "factors": [{"description": "no name"}]}, "factors.0.name"),
        ({**GOOD, "factors": [{**GOOD["factors"][0], "variables": {"x": []}}]}, "variables"),
        ({**GOOD, "metrics": {"IC": "high"}}, "metrics.IC"),
        ({**GOOD, "written_at": "yesterday"}, "written_at"),
        ({**GOOD, "written_at": "2026-01-02T00:00:00"}, "written_at"),
    ],
)
def test_broken_records(source: Path, record: Any, words: str) -> None:
    """A record that is not of our form is refused with the reason; the table itself stays usable."""
    path = forge(source, record if isinstance(record, bytes) else json.dumps(record).encode())
    with pytest.raises(TableError) as caught:
        read_provenance(path)
    assert caught.value.slug == "provenance-unreadable"
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert read_factor_table(path).canonical


def test_enormous_records(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record above the limit is neither parsed nor written."""
    monkeypatch.setattr(module, "_LARGEST", 100)
    with pytest.raises(TableError, match="provenance-unreadable"):
        read_provenance(forge(source, PROVENANCE.to_json().encode()))
    with pytest.raises(TableError, match="provenance-too-large"):
        save_table(source, tmp_path / "saved.parquet", PROVENANCE)
    assert not (tmp_path / "saved.parquet").exists()


def test_a_failed_save_keeps_the_old_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails at the last moment leaves what was saved before."""
    target = tmp_path / "saved.parquet"
    save_table(source, target, PROVENANCE)
    before = target.read_bytes()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(SotaError, match="cannot-write"):
        save_table(source, target, replace(PROVENANCE, loop=9))
    assert target.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == sorted([source, target])
