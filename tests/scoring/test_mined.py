"""Mined factors on market data: real code in the real jail."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.documents import FACTORS_NAME, MANIFEST_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.lookahead.verdicts import FactorVerdict
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.sandbox.market import read_market
from rdagent_sota_patch.scoring.mined import (
    MinedFactor,
    cut_histories,
    days_to_read,
    find_missing_data,
    list_mined,
    run_mined,
)
from tests.bundle.made import FACTOR_CODE, MINED, edit_document, make_bundle
from tests.scoring.made_market import MadeMarket, expect_features, make_market

DAYS = pd.DatetimeIndex(["2020-10-19", "2020-10-20"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeMarket:
    return make_market(tmp_path_factory.mktemp("market"))


def mined(name: str, code: str, lookback: int | None = None) -> MinedFactor:
    return MinedFactor(name, code, lookback, None)


def good(name: str, days: int) -> MinedFactor:
    return mined(name, FACTOR_CODE.format(name=name, days=days), lookback=days + 1)


def verdict(code: str, *, lookback: int | None, causal: bool) -> dict[str, Any]:
    return {
        "name": "another name",
        "causal": causal,
        "changed_share": 0.0,
        "max_change": None,
        "lookback_days": lookback,
        "code_sha256": hashlib.sha256(code.encode()).hexdigest(),
    }


def test_lists_what_the_model_takes_with_verdicts(tmp_path: Path) -> None:
    """In the table's order; a verdict is found by the code, whatever the factor is called."""
    folder = make_bundle(tmp_path / "bundle").folder
    code = FACTOR_CODE.format(name="GapA", days=1)

    def audit(document: dict[str, Any]) -> None:
        document["audit"] = {
            "audited_at_utc": "2026-01-01T00:00:00+00:00",
            "data_start": "2020-01-01",
            "data_end": "2020-12-31",
            "cuts": [],
            "factors": [verdict(code, lookback=2, causal=False)],
        }

    edit_document(folder, MANIFEST_NAME, audit)
    first, second = list_mined(open_bundle(folder))
    assert (first.name, second.name) == MINED
    assert (first.verdict, first.lookback) == (None, None)
    assert (second.name, second.code, second.lookback) == ("GapA", code, 2)
    assert second.verdict is not None and second.verdict.causal is False


def test_every_factor_without_code_is_named(tmp_path: Path) -> None:
    """With the reason that the export gave."""
    folder = make_bundle(tmp_path / "bundle").folder

    def lose(document: dict[str, Any]) -> None:
        for factor in document["factors"]:
            factor.update(code_relpath=None, missing_reason=f"{factor['name']} is gone")

    edit_document(folder, FACTORS_NAME, lose)
    for name in MINED:
        relpath = next((folder / "factors").glob(f"*_{name}.py"))
        relpath.unlink()
        edit_document(
            folder,
            MANIFEST_NAME,
            lambda document, gone=relpath.name: document["files"].pop(f"factors/{gone}"),
        )
    with pytest.raises(BundleError) as raised:
        list_mined(open_bundle(folder))
    assert [problem.slug for problem in raised.value.problems] == ["factor-code-missing"] * 2
    assert all(f"{name} is gone" in str(raised.value) for name in MINED)


@pytest.mark.parametrize(("lookback", "days"), [(None, None), (1, 32), (25, 32), (26, 64), (126, 256)])
def test_reads_more_than_is_needed_in_few_sizes(lookback: int | None, days: int | None) -> None:
    """A quarter more at least, since a suspended stock's rows reach further back."""
    assert days_to_read(mined("Gap", "", lookback)) == days


def test_cuts_end_with_the_day_and_give_the_values_of_the_whole(made: MadeMarket) -> None:
    """Factors of one size share a cut, nothing after the day is in it, and the values are those of the whole file."""
    assert made.files.data is not None
    short, shorter, long = good("GapA", 1), good("Short", 2), mined("ZMom", good("ZMom", 3).code)
    with Jail() as jail:
        table = read_market(made.files.data, jail=jail)
        histories = cut_histories([short, shorter, long], table, DAYS)
        spans = {
            name: read_market(path, jail=jail).days
            for name, path in (("short", histories.files[short]), ("long", histories.files[long]))
        }
        values = run_mined(
            {factor: histories.files[factor] for factor in (long, short)},
            DAYS,
            limits=Limits(seconds=60),
            jobs=2,
            report=lambda *_: None,
        )
        assert histories.files[short] == histories.files[shorter]
        last = read_market(histories.last_day, jail=jail).days
    assert (len(spans["short"]), spans["long"][0]) == (33, made.market.days[0])
    assert {span[-1] for span in spans.values()} == {DAYS[-1]}
    assert last.tolist() == [DAYS[-1]]
    expected = expect_features(made.market).loc[DAYS[0] : DAYS[1], ["ZMom", "GapA"]]
    pd.testing.assert_frame_equal(values, expected, check_exact=True, check_freq=False)


def test_all_that_is_wrong_is_said_at_once(made: MadeMarket) -> None:
    """A crash, an endless loop, another column and no value on the day: four problems, in the table's order."""
    code = good("Gap", 1).code
    factors = [
        mined("Crashes", "raise ValueError('no such column')"),
        mined("Endless", "while True: pass"),
        mined("Gap", code),
        mined("Renamed", code),
        mined("Late", code.replace("Gap", "Late").replace(".dropna()", ".iloc[:100]")),
    ]
    assert made.files.data is not None
    told: list[tuple[str, int, int]] = []
    with pytest.raises(BundleError) as raised:
        run_mined(
            dict.fromkeys(factors, made.files.data),
            DAYS,
            limits=Limits(seconds=5),
            jobs=3,
            report=lambda *step: told.append(step),
        )
    problems = {problem.slug: problem.message for problem in raised.value.problems}
    assert list(problems) == ["factor-failed", "factor-over-limit", "model-input-mismatch", "factor-empty"]
    assert "no such column" in problems["factor-failed"]
    assert "'Gap'" in problems["model-input-mismatch"]
    assert "2020-10-20" in problems["factor-empty"]
    assert told == [("factors", number, 5) for number in range(6)]


BY_ROWS = """
import pandas as pd
df = pd.read_hdf("daily_pv.h5", key="data").dropna()
df = df[df["$volume"] > 0]
mean = df.groupby(level="instrument")["$close"].transform(lambda rows: rows.rolling(20, min_periods=1).mean())
(df["$close"] / mean - 1).astype("float64").to_frame("Rows20").to_hdf("result.h5", key="data", mode="w")
"""


HALTS: dict[str, dict[str, float]] = {
    "no number": {},
    "as Qlib's data have it": {"$factor": 1.0},
    "the last price again": {
        "$factor": 1.0,
        "$close": 9.0,
        "$open": 9.0,
        "$high": 9.0,
        "$low": 9.0,
        "$volume": 0.0,
    },
}


@pytest.mark.parametrize("halt", HALTS.values(), ids=HALTS)
def test_a_stock_that_was_halted_gets_as_many_rows_as_any(
    made: MadeMarket, tmp_path: Path, halt: dict[str, float]
) -> None:
    """Its value is that of the whole history, however long it was away."""
    assert made.files.data is not None
    frame = pd.read_hdf(made.files.data, key="data")
    stocks, days = (frame.index.get_level_values(name) for name in ("instrument", "datetime"))
    halted = stocks.unique().sort_values()[0]
    calendar = days.unique().sort_values()
    away = (stocks == halted) & (days >= calendar[21]) & (days < calendar[-2])
    frame.loc[away, :] = np.nan
    for column, value in halt.items():
        frame.loc[away, column] = value
    frame.to_hdf(tmp_path / "daily_pv.h5", key="data")
    last = calendar[-1:]
    factor, whole = mined("Rows20", BY_ROWS, lookback=20), mined("Rows20", BY_ROWS)
    with Jail() as jail:
        table = read_market(tmp_path / "daily_pv.h5", jail=jail)
        values = [
            run_mined(
                cut_histories([one], table, last).files, last, limits=Limits(), jobs=1, report=lambda *_: None
            )
            for one in (factor, whole)
        ]
        others = cut_histories([factor], table, calendar[20:21]).files[factor]
        assert read_market(others, jail=jail).days[0] == calendar[0]
    pd.testing.assert_frame_equal(*values, check_exact=False, rtol=1e-6)
    assert values[0].loc[(last[0], halted), "Rows20"] != 0


def test_all_that_the_folder_lacks_is_said_before_anything_runs(made: MadeMarket, tmp_path: Path) -> None:
    """A file, columns, and the newest day: what each factor's audit saw it read."""
    assert made.files.data is not None
    shutil.copy(made.files.data, tmp_path / "daily_pv.h5")
    frame = pd.read_hdf(made.files.data, key="data")[["$close"]].rename(columns={"$close": "mf_net"})
    frame[frame.index.get_level_values("datetime") < DAYS[-1]].to_parquet(tmp_path / "static_factors.parquet")
    reads = [
        {"name": "static_factors.parquet", "columns": ["mf_net", "db_pe"], "dated": True},
        {"name": "events.csv", "dated": True},
    ]
    known = FactorVerdict.model_validate({**verdict("", lookback=2, causal=True), "reads": reads})
    factors = [MinedFactor(name, "", 2, known) for name in ("A", "B")]
    with Jail() as jail:
        problems = find_missing_data(factors, read_market(tmp_path, jail=jail), DAYS[-1])
    assert [problem.slug for problem in problems] == [
        "factor-file-missing",
        "market-data-too-short",
        "factor-file-missing",
    ]
    assert "lacks the columns db_pe, which the code of A, B reads" in problems[0].message
    assert "ends on 2020-10-19, before 2020-10-20" in problems[1].message
    assert "lacks events.csv" in problems[2].message
