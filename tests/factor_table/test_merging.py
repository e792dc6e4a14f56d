"""The factors of several runs as one table."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdagent_sota_patch.errors import SotaError, TableError
from rdagent_sota_patch.factor_table import alignment, merging
from rdagent_sota_patch.factor_table.alignment import Part
from rdagent_sota_patch.factor_table.merging import Merged, merge_tables
from rdagent_sota_patch.factor_table.provenance import FactorOrigin, Provenance, read_provenance
from rdagent_sota_patch.factor_table.table import read_factor_table

from .frames import INDEX, flatten

DAYS, STOCKS = 30, 12
DRAW = np.random.default_rng(3)
VALUES = {name: DRAW.standard_normal(DAYS * STOCKS) for name in "ABCD"}


def made(columns: dict[str, np.ndarray], start: str = "2020-01-01", first: int = 600000) -> pd.DataFrame:
    """A table as RD-Agent writes it."""
    index = pd.MultiIndex.from_product(
        [
            pd.date_range(start, periods=DAYS).astype("datetime64[ns]"),
            [f"SH{first + each}" for each in range(STOCKS)],
        ],
        names=INDEX,
    )
    frame = pd.DataFrame(columns, index=index)
    frame.columns = pd.MultiIndex.from_product([["feature"], frame.columns])
    return frame


def merge(folder: Path, *frames: pd.DataFrame, codes: tuple[str, ...] = ()) -> tuple[Merged, pd.DataFrame]:
    """Each frame as a run of its own, called run1 and so on."""
    parts = []
    for number, frame in enumerate(frames, start=1):
        frame.to_parquet(folder / f"run{number}.parquet")
        table = read_factor_table(folder / f"run{number}.parquet")
        origins = tuple(
            FactorOrigin(name, code=f"code of {name} in {number}", loop=number, task_id=f"log{number}")
            for name in table.names
        )
        parts.append(Part(table, table.names, origins, f"run {number}", f"run{number}"))
    merged = merge_tables(parts, folder / "merged.parquet")
    return merged, flatten(pd.read_parquet(folder / "merged.parquet"))


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    """Factors that differ are all there, each with its own values and its own origin."""
    one, two = made({"A": VALUES["A"], "B": VALUES["B"]}), made({"C": VALUES["C"]})
    merged, frame = merge(tmp_path, one, two)
    pd.testing.assert_frame_equal(
        frame, flatten(pd.concat([one, two], axis=1)), check_exact=True, check_freq=False
    )
    assert merged.table == read_factor_table(tmp_path / "merged.parquet")
    assert merged.table.canonical and merged.left_out == () and merged.notices == ()
    provenance = read_provenance(tmp_path / "merged.parquet")
    assert provenance is not None and (provenance.task_id, provenance.loop) == ("", None)
    assert [(each.name, each.task_id, each.loop) for each in provenance.factors] == [
        ("A", "log1", 1),
        ("B", "log1", 1),
        ("C", "log2", 2),
    ]
    assert provenance.fingerprint == merged.table.fingerprint


def test_near_duplicates_go(tmp_path: Path) -> None:
    """One of 0.99 and more is left out, said with its like; the mirror of one stays, as RD-Agent's rule has it."""
    near = VALUES["A"] + 0.01 * VALUES["D"]
    two = made({"Near": near, "Mirror": -VALUES["A"], "C": VALUES["C"]})
    merged, frame = merge(tmp_path, made({"A": VALUES["A"], "B": VALUES["B"]}), two)
    assert list(frame.columns) == ["A", "B", "Mirror", "C"]
    (left,) = merged.left_out
    assert (left.name, left.label, left.like, left.same) == ("Near", "run 2", "A", False)
    days = pd.DataFrame({"a": VALUES["A"], "b": near}).groupby(np.repeat(np.arange(DAYS), STOCKS))
    assert left.correlation == pytest.approx(np.mean([day["a"].corr(day["b"]) for _, day in days]), abs=1e-12)


def test_twins_of_one_run_stay(tmp_path: Path) -> None:
    """The rule compares new factors with those that are there, and not with each other."""
    _, frame = merge(tmp_path, made({"A": VALUES["A"]}), made({"B": VALUES["B"], "Twin": VALUES["B"] * 2}))
    assert list(frame.columns) == ["A", "B", "Twin"]


def test_names_in_conflict_are_told_apart(tmp_path: Path) -> None:
    """One name with other values gets the run's suffix, also where that is taken; the first keeps its name."""
    one = made({"A": VALUES["A"], "A_run2": VALUES["B"]})
    merged, frame = merge(tmp_path, one, made({"A": VALUES["C"]}), made({"A": VALUES["D"]}))
    assert list(frame.columns) == ["A", "A_run2", "A_run2_2", "A_run3"]
    assert [each.renamed_from for each in merged.origins] == [None, None, "A", "A"]
    np.testing.assert_array_equal(frame["A_run2_2"], VALUES["C"])
    provenance = read_provenance(tmp_path / "merged.parquet")
    assert provenance is not None and provenance.factors == merged.origins


def test_one_name_with_the_same_values_is_there_once(tmp_path: Path) -> None:
    """A constant, too, which has no correlation."""
    one = made({"A": VALUES["A"], "K": np.ones(DAYS * STOCKS)})
    merged, frame = merge(tmp_path, one, one.copy(), made({"K": np.ones(DAYS * STOCKS)}))
    assert list(frame.columns) == ["A", "K"]
    assert [(each.name, each.same) for each in merged.left_out] == [("A", True), ("K", True), ("K", True)]


def test_one_without_any_correlation_goes(tmp_path: Path) -> None:
    """As in RD-Agent: what cannot be compared on any day is left out, and said to be so."""
    merged, frame = merge(tmp_path, made({"A": VALUES["A"]}), made({"K": np.ones(DAYS * STOCKS)}))
    assert list(frame.columns) == ["A"]
    assert [(each.name, each.same, each.correlation) for each in merged.left_out] == [("K", False, None)]


def test_rows_of_one_run_alone(tmp_path: Path) -> None:
    """Other days and stocks: every row is there, what a run lacks is missing, and it is counted."""
    one = made({"A": VALUES["A"]})
    two = made({"C": VALUES["C"]}, start="2020-01-11", first=600004)
    merged, frame = merge(tmp_path, one, two)
    expected = flatten(pd.concat([one, two], axis=1).sort_index())
    pd.testing.assert_frame_equal(frame, expected, check_exact=True, check_freq=False)
    shared = 20 * 8
    assert [(each.rows, each.alone) for each in merged.shares] == [(360, 360 - shared), (360, 360 - shared)]


def test_tables_in_any_order_and_type(tmp_path: Path) -> None:
    """An unsorted table of whole numbers and one of float32 are put together by value, float32 as it is."""
    one = flatten(made({"A": np.arange(DAYS * STOCKS)})).sample(frac=1, random_state=1)
    two = made({"C": VALUES["C"].astype("float32")})
    _, frame = merge(tmp_path, one, two)
    assert list(frame.dtypes) == [np.float64, np.float32]
    pd.testing.assert_series_equal(frame["A"], one.sort_index()["A"].astype(float), check_freq=False)
    np.testing.assert_array_equal(frame["C"], VALUES["C"].astype("float32"))


def test_some_factors_of_one_run(tmp_path: Path) -> None:
    """Whole numbers stay what they are, since no row is missing; the footer can say which run it was."""
    made({"A": VALUES["A"], "Whole": np.arange(DAYS * STOCKS), "B": VALUES["B"]}).to_parquet(
        tmp_path / "run.parquet"
    )
    table = read_factor_table(tmp_path / "run.parquet")
    part = Part(table, ("Whole", "A"), (FactorOrigin("Whole", loop=3), FactorOrigin("A")), "run", "")
    run = Provenance("log", 4, "log/5", metrics={"IC": 0.1})
    merge_tables([part], tmp_path / "some.parquet", run=run)
    expected = pd.read_parquet(tmp_path / "run.parquet")[[("feature", "Whole"), ("feature", "A")]]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "some.parquet"), expected)
    provenance = read_provenance(tmp_path / "some.parquet")
    assert provenance is not None
    assert (provenance.task_id, provenance.loop, provenance.snapshot) == ("log", 4, "log/5")
    assert (provenance.metrics, provenance.factors) == ({"IC": 0.1}, part.origins)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (made({"C": VALUES["C"]}, start="2021-01-01"), "0 rows in common"),
        (made({"C": VALUES["C"]}, first=700000), "0 stocks are in both."),
        (
            made({"C": VALUES["C"]}).rename(index=lambda name: f"{name[2:]}.SH", level=1),
            "600000.SH is probably SH600000",
        ),
    ],
    ids=["days", "stocks", "spelling"],
)
def test_runs_without_overlap_are_refused(tmp_path: Path, second: pd.DataFrame, said: str) -> None:
    """With what each of them has; nothing is written."""
    with pytest.raises(TableError, match="rows in common") as caught:
        merge(tmp_path, made({"A": VALUES["A"]}), second)
    assert caught.value.slug == "tables-do-not-overlap" and said in str(caught.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run1.parquet", "run2.parquet"]


def test_another_frequency_is_said(tmp_path: Path) -> None:
    """A weekly table among daily ones."""
    weekly = made({"C": VALUES["C"]}).groupby(level=1).nth(list(range(0, DAYS, 5)))
    merged, frame = merge(tmp_path, made({"A": VALUES["A"]}), weekly)
    assert [each.slug for each in merged.notices] == ["tables-differ-in-frequency"]
    assert frame["C"].notna().sum() == len(weekly)


def test_what_was_there_stays_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that changes between two readings is noticed, and the old file is whole."""
    (tmp_path / "merged.parquet").write_bytes(b"precious")
    write = merging._write

    def change(*arguments: object, **more: object) -> object:
        made({"C": VALUES["D"]}).to_parquet(tmp_path / "run2.parquet")
        return write(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(merging, "_write", change)
    with pytest.raises(TableError, match="changed"):
        merge(tmp_path, made({"A": VALUES["A"]}), made({"C": VALUES["C"]}))
    assert (tmp_path / "merged.parquet").read_bytes() == b"precious"


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_table_that_changed_since_it_was_checked(tmp_path: Path, shuffled: bool) -> None:
    """It is noticed before the old file is replaced, whether the table has RD-Agent's layout or another."""
    (tmp_path / "merged.parquet").write_bytes(b"precious")
    frame, other = made({"A": VALUES["A"]}), made({"A": VALUES["B"]})
    if shuffled:
        frame, other = (each.sample(frac=1, random_state=1) for each in (frame, other))
    frame.to_parquet(tmp_path / "run.parquet")
    table = read_factor_table(tmp_path / "run.parquet")
    other.to_parquet(tmp_path / "run.parquet")
    os.utime(tmp_path / "run.parquet", ns=(1, 1))
    with pytest.raises(TableError, match="changed"):
        merge_tables([Part(table, ("A",), (FactorOrigin("A"),), "run", "run")], tmp_path / "merged.parquet")
    assert (tmp_path / "merged.parquet").read_bytes() == b"precious"


def test_more_tables_than_files_may_be_open(tmp_path: Path) -> None:
    """Hundreds of tables of one factor are put together all the same."""
    draw = np.random.default_rng(5)
    frames = [made({f"F{number}": draw.standard_normal(DAYS * STOCKS)}) for number in range(150)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        merged, frame = merge(tmp_path, *frames)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert merged.left_out == ()
    pd.testing.assert_frame_equal(
        frame, flatten(pd.concat(frames, axis=1)), check_exact=True, check_freq=False
    )


def test_no_room_for_the_scratch_file(tmp_path: Path) -> None:
    """A limit on a file's size stands in for the disk: an error with the folder, and nothing is written."""
    parts = []
    for number in range(100):
        made({f"F{number}": VALUES["A"]}).to_parquet(tmp_path / f"{number}.parquet")
        table = read_factor_table(tmp_path / f"{number}.parquet")
        parts.append(Part(table, table.names, (FactorOrigin(table.names[0]),), str(number), str(number)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(SotaError, match="scratch file") as caught:
            merge_tables(parts, tmp_path / "merged.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.slug == "cannot-write" and "TMPDIR" in str(caught.value)
    assert not (tmp_path / "merged.parquet").exists()


@given(data=st.data())
def test_blocks_do_not_matter(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever rows each run has and however the days are cut into blocks, the values are those of pandas."""
    folder = tmp_path_factory.mktemp("merge")
    keep = [data.draw(st.integers(150, 360)) for _ in range(2)]
    frames = [
        made({name: VALUES[name]})
        .sample(keep[number], random_state=data.draw(st.integers(0, 9)))
        .sort_index()
        for number, name in enumerate("AC")
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "_BLOCK_BYTES", data.draw(st.integers(1, 20_000)))
        _, frame = merge(folder, *frames)
    expected = flatten(pd.concat(frames, axis=1).sort_index())
    pd.testing.assert_frame_equal(frame, expected, check_exact=True, check_freq=False)
