"""Figures of a run's factors: from its own table, real market data or the back-test's label; or why there are none."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.results import factor_metrics
from rdagent_sota_patch.results.factor_metrics import FactorMetrics, Inputs, find_inputs, measure_factors
from rdagent_sota_patch.results.service import Folders, Service
from tests.export.made_run import DAYS, MadeRun, factor_experiment, make_label, make_run
from tests.results.log_root import Project, run_of_factors, write_run
from tests.scoring.made_market import MadeMarket, make_market
from tests.sessions.generated_log import KEY


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> MadeMarket:
    return make_market(tmp_path_factory.mktemp("market"))


@pytest.fixture(scope="module")
def table(market: MadeMarket, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two factors on that market: the last day's return, with gaps, and the next day's, which peeks."""
    close = market.market.frame()["$close"].unstack()
    gone = np.random.default_rng(5).random(close.shape) < 0.1
    columns = {
        "Past": (close / close.shift(1) - 1).mask(gone),
        "Peek": close.shift(-2) / close.shift(-1) - 1,
    }
    frame = pd.concat(
        {("feature", name): wide.stack() for name, wide in columns.items()}, axis=1
    ).sort_index()
    frame.index.names = ["datetime", "instrument"]
    path = tmp_path_factory.mktemp("workspace") / "combined_factors_df.parquet"
    frame.iloc[30 * 51 :].to_parquet(path)
    return path


def measure(table: Path, data: Path | None) -> FactorMetrics:
    return measure_factors("mined", Inputs(factor_experiment(0, ("A",)), table, data), "0" * 32)


def test_figures_are_those_of_the_market(market: MadeMarket, table: Path) -> None:
    """Against the prices themselves, computed here with pandas; returns may lie after the table's last day."""
    found = measure(table, market.files.data)
    assert [each.factor_name for each in found.metrics] == ["Past", "Peek"]
    past, peek = found.metrics
    assert (peek.ic_mean, peek.rank_ic_mean) == (pytest.approx(1), pytest.approx(1))
    close = market.market.frame()["$close"].unstack().astype(float)
    frame = pd.read_parquet(str(table))["feature"]
    for horizon in (1, 5, 10, 20):
        returns = (close.shift(-1 - horizon) / close.shift(-1) - 1).stack().rename("return")
        both = pd.concat([frame["Past"], returns], axis=1, join="inner").dropna()
        daily = both.groupby(level=0).apply(lambda day: day["Past"].corr(day["return"], "spearman"))
        assert getattr(past, f"rank_ic_{horizon}d") == pytest.approx(daily.mean(), abs=1e-12)
    listed = frame["Past"].groupby(level=0).agg(["count", "size"])
    assert past.coverage == pytest.approx((listed["count"] / 51).mean())
    assert past.missing.keys() <= {"ic_decay_half_life"}
    assert (found.notices, found.success, found.factor_count) == ((), True, 2)
    assert found.factor_reports[0].status == "ok"


def test_the_folder_may_be_named(market: MadeMarket, tmp_path: Path) -> None:
    """As RD-Agent names it: the one with ``daily_pv.h5`` in it."""
    run = make_run(tmp_path)
    assert market.files.data is not None
    found = find_inputs(run.session, None, (), market.files.data.parent)
    assert found == Inputs(run.session.experiments[2], found.table, market.files.data)
    assert found.table == run.workspace / "combined_factors_df.parquet"


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return make_run(tmp_path / "project")


def test_without_market_data_the_label_gives_what_it_covers(run: MadeRun) -> None:
    """One day's return; figures over other horizons are null, and say why."""
    inputs = find_inputs(run.session, None, (), None)
    found = measure_factors("mined", inputs, "0" * 32)
    first = found.metrics[0]
    assert (first.factor_name, first.n_trading_days) == ("ZMom", len(DAYS) - 2)
    frame = pd.read_parquet(str(inputs.table))
    both = pd.concat([frame["feature"]["ZMom"], make_label(frame)["LABEL0"]], axis=1).dropna()
    daily = both.groupby(level=0).apply(lambda day: day["ZMom"].corr(day["LABEL0"]))
    assert first.ic_mean == pytest.approx(daily.mean(), abs=1e-12)
    for name in ("rank_ic_5d", "rank_ic_10d", "rank_ic_20d", "ic_decay_half_life"):
        assert getattr(first, name) is None and first.missing[name]
    assert "--data" in first.missing["rank_ic_5d"]
    assert found.return_source.endswith("label.pkl")


def test_every_null_has_its_reason(market: MadeMarket, table: Path, tmp_path: Path) -> None:
    """For a factor that is the same for all, and for one without a value."""
    frame = pd.read_parquet(str(table))
    frame["feature", "Same"], frame["feature", "None"] = 1.0, np.nan
    frame.to_parquet(tmp_path / "odd.parquet")
    found = measure(tmp_path / "odd.parquet", market.files.data)
    for item in found.metrics:
        nulls = {name for name, value in item.model_dump().items() if value is None}
        assert item.missing.keys() == nulls
    assert [report.status for report in found.factor_reports] == ["ok", "ok", "skipped", "skipped"]
    assert (
        found.metrics[2].coverage is not None
        and found.metrics[2].coverage > 0.9
        and found.metrics[3].coverage == 0
    )


def test_days_that_the_market_lacks_are_told_of(market: MadeMarket, table: Path, tmp_path: Path) -> None:
    """They are left out, and so are stocks without a price."""
    frame = pd.read_parquet(str(table)).reset_index()
    sunday = frame[frame["datetime"] == frame["datetime"].iloc[0]].assign(datetime=pd.Timestamp("2020-09-20"))
    stranger = frame[frame["instrument"] == "SH600001"].assign(instrument="XX000001")
    more = pd.concat([frame, sunday, stranger]).set_index(["datetime", "instrument"]).sort_index()
    more.to_parquet(tmp_path / "more.parquet")
    found = measure(tmp_path / "more.parquet", market.files.data)
    assert len(found.notices) == 2
    assert "1 of the factor table's" in found.notices[0] and "2020-09-20" in found.notices[0]
    assert "1 of the factor table's 52 stocks" in found.notices[1]
    assert found.metrics[1].ic_mean == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        (lambda frame: frame.rename(index=lambda name: f"{name}.SH", level=1), "returns-do-not-fit"),
        (lambda frame: frame.iloc[:0], "table-empty"),
        (lambda frame: frame.reset_index(drop=True), "table-index"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    market: MadeMarket, table: Path, tmp_path: Path, change: Any, slug: str
) -> None:
    """Before anything is computed."""
    change(pd.read_parquet(str(table))).to_parquet(tmp_path / "changed.parquet")
    with pytest.raises(SotaError) as caught:
        measure(tmp_path / "changed.parquet", market.files.data)
    assert caught.value.problems[0].slug == slug


def test_a_table_with_a_stock_for_each_row_takes_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Days by stocks would be the square of its rows."""
    monkeypatch.setattr(factor_metrics, "_SMALL", 1000)
    index = pd.MultiIndex.from_arrays(
        [pd.bdate_range("2000-01-03", periods=200), [f"S{number}" for number in range(200)]],
        names=["datetime", "instrument"],
    )
    pd.DataFrame({"A": np.arange(200.0)}, index=index).to_parquet(tmp_path / "diagonal.parquet")
    with pytest.raises(SotaError) as caught:
        measure(tmp_path / "diagonal.parquet", None)
    assert caught.value.slug == "table-too-sparse"


def test_market_data_that_was_named_is_not_replaced(table: Path, run: MadeRun, tmp_path: Path) -> None:
    """Where it cannot be read, the label does not stand in."""
    (tmp_path / "daily_pv.h5").write_bytes(b"no HDF5")
    inputs = find_inputs(run.session, None, (), tmp_path)
    with pytest.raises(SotaError) as caught:
        measure_factors("mined", inputs, "0" * 32)
    assert caught.value.slug == "market-data-unreadable"


def test_a_loop_is_named_by_its_index(run: MadeRun) -> None:
    """One that there is not is said; so is one whose table is gone."""
    assert find_inputs(run.session, 2, (), None) == find_inputs(run.session, None, (), None)
    for loop, slug in ((7, "loop-not-found"), (0, "table-not-found")):
        with pytest.raises(SotaError) as caught:
            find_inputs(run.session, loop, (), None)
        assert caught.value.slug == slug


def test_a_server_computes_them_once(
    tmp_path: Path, market: MadeMarket, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, for all who ask; again when the market data is another."""
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)
    project = Project(tmp_path)
    project.workspace.mkdir(parents=True)
    (project.workspace / "combined_factors_df.parquet").write_bytes(table.read_bytes())
    write_run(project.log / "mined", [(run_of_factors("Past", "Peek", place=project.workspace), True)])
    data = tmp_path / "daily_pv.h5"
    assert market.files.data is not None
    data.write_bytes(market.files.data.read_bytes())

    async def ask() -> list[bytes]:
        service = Service(Folders(project.log, tmp_path / "cache", data=data))
        try:
            view = await service.find("mined")
            assert await service.find_figures(view) is None
            first, same = await asyncio.gather(
                service.measure_factors("mined"), service.measure_factors("mined", 0)
            )
            assert first.content == same.content
            assert await service.find_figures(view) is first
            data.write_bytes(data.read_bytes() + b"\0")
            second = await service.measure_factors("mined")
            return [each.content or b"" for each in (first, second)]
        finally:
            await service.close()

    first, second = map(FactorMetrics.model_validate_json, asyncio.run(ask()))
    assert first.calc_batch_id != second.calc_batch_id
    assert first.metrics[1].ic_mean == second.metrics[1].ic_mean == pytest.approx(1)
