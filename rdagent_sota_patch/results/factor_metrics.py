"""Figures of each factor of a loop, from its factor table and the returns; what they are, `factors.metrics` says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from rdagent_sota_patch import __version__
from rdagent_sota_patch.bundle.manifest import utc_now
from rdagent_sota_patch.errors import BundleError, TableError
from rdagent_sota_patch.export.choice import RECORDERS
from rdagent_sota_patch.factor_table.metrics import (
    HORIZONS,
    FactorFigures,
    OrderedDays,
    describe_factor,
    forward_returns,
)
from rdagent_sota_patch.factor_table.reading import iterate_column, open_parquet
from rdagent_sota_patch.factor_table.rows import read_rows
from rdagent_sota_patch.factor_table.schema import parse_schema
from rdagent_sota_patch.factor_table.sources import TABLE_NAME
from rdagent_sota_patch.mlruns.recorder import find_recorder, parse_hint, read_artifact, unreadable
from rdagent_sota_patch.mlruns.trained import read_trained
from rdagent_sota_patch.results.describing import find_loop
from rdagent_sota_patch.results.fields import TaskId, Text
from rdagent_sota_patch.results.schemas import Answer
from rdagent_sota_patch.results.tasks import stamp_files
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.market import read_market
from rdagent_sota_patch.sessions.frames import thaw_frame
from rdagent_sota_patch.sessions.locate import locate_sota
from rdagent_sota_patch.sessions.thaw import Unthawable
from rdagent_sota_patch.sessions.workspaces import find_workspace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rdagent_sota_patch.factor_table.metrics import Matrix
    from rdagent_sota_patch.factor_table.rows import RowIndex
    from rdagent_sota_patch.sessions.records import ExperimentRecord, Session

DATA_NAME = "daily_pv.h5"
LABEL_NAME = "label.pkl"
_CLOSE = "$close"
_LABEL = "Ref($close,-2)/Ref($close,-1)-1"
"""Of RD-Agent's templates: what `forward_returns` gives for one day."""
_MOST_CELLS = 50
"""Days by stocks, for each row of a table: a table that is emptier than this is not a daily table of a market."""
_SMALL = 10_000_000
_THREADS = 2
_SHOWN = 3


def _figure(text: str) -> Any:
    return Field(description=f"{text} Null with its reason in `missing`.")


class FactorMetricsItem(Answer):
    """Figures of one factor: over the whole table, with returns over one trading day unless it says otherwise."""

    factor_name: Annotated[Text, Field(description="Its column in the factor table.")]
    eval_window: Annotated[Literal["full"], Field(description="The whole factor table.")] = "full"
    data_start: Annotated[Text, Field(description="The table's first day.")]
    data_end: Annotated[Text, Field(description="The table's last day.")]
    return_horizon: Annotated[Literal["1d"], Field(description="One trading day.")] = "1d"
    universe: Annotated[Literal["all"], Field(description="All stocks of the table.")] = "all"
    calculated_at: Annotated[Text, Field(description="In ISO 8601 with offset.")]
    calc_batch_id: Annotated[Text, Field(description="The same for all factors of one answer.")]
    ic_mean: Annotated[float | None, _figure("Mean of the daily Pearson correlation with the returns.")]
    ic_std: Annotated[float | None, _figure("Its standard deviation over the days.")]
    icir: Annotated[float | None, _figure("Mean by standard deviation, daily.")]
    ic_t: Annotated[float | None, _figure("t value of the mean.")]
    rank_ic_mean: Annotated[float | None, _figure("Mean of the daily Spearman correlation.")]
    rank_ic_std: Annotated[float | None, _figure("Its standard deviation over the days.")]
    rank_icir: Annotated[float | None, _figure("Mean by standard deviation, daily.")]
    rank_ic_t: Annotated[float | None, _figure("t value of the mean.")]
    rank_ic_1d: Annotated[float | None, _figure("Mean Rank IC with returns over one trading day.")]
    rank_ic_5d: Annotated[float | None, _figure("Over five.")]
    rank_ic_10d: Annotated[float | None, _figure("Over ten.")]
    rank_ic_20d: Annotated[float | None, _figure("Over twenty.")]
    turnover: Annotated[float | None, _figure("Share of the top fifth that was not in it the day before.")]
    autocorrelation: Annotated[float | None, _figure("Of the stocks' ranks from one day to the next.")]
    coverage: Annotated[float | None, _figure("Share of the stocks with a price that have a value.")]
    quantile_returns: Annotated[
        tuple[float, ...] | None, _figure("Mean daily return of each fifth by value, lowest first.")
    ]
    quantile_spread: Annotated[float | None, _figure("Top fifth less bottom fifth, a day.")]
    ic_positive_ratio: Annotated[float | None, _figure("Share of days with a positive IC.")]
    top_annual_return: Annotated[float | None, _figure("Mean daily return of the top fifth, times 252.")]
    benchmark_annual_return: Annotated[float | None, _figure("Of all fifths, times 252.")]
    top_excess_annual_return: Annotated[float | None, _figure("Of the top fifth less all, times 252.")]
    top_sharpe: Annotated[float | None, _figure("Of the top fifth, annualized.")]
    top_excess_sharpe: Annotated[float | None, _figure("Of the top fifth less all, annualized.")]
    top_max_drawdown: Annotated[float | None, _figure("Of the top fifth, compounded; negative.")]
    group_return_monotonicity: Annotated[
        float | None, _figure("Rank correlation of the fifths' numbers and returns.")
    ]
    ic_decay_half_life: Annotated[
        float | None, _figure("Trading days in which the Rank IC halves over the four horizons.")
    ]
    n_trading_days: Annotated[int, Field(ge=0, description="Days with an IC.")]
    missing: Annotated[dict[Text, Text], Field(description="Why a figure is null, by its name.")]


class FactorReport(Answer):
    """How the computation of one factor went."""

    factor_name: Annotated[Text, Field(description="Its column in the factor table.")]
    eval_window: Annotated[Literal["full"], Field(description="The whole factor table.")] = "full"
    status: Annotated[Literal["ok", "skipped"], Field(description="`skipped`: there is no day with an IC.")]
    error_message: Annotated[Text | None, Field(description="Why it was skipped.")]
    n_trading_days: Annotated[int, Field(ge=0, description="Days with an IC.")]
    required_days: Annotated[int, Field(ge=0, description="How many it needs.")] = 1
    data_start: Annotated[Text, Field(description="The table's first day.")]
    data_end: Annotated[Text, Field(description="The table's last day.")]
    data_source: Annotated[Literal["parquet"], Field(description="The factor table.")] = "parquet"
    calc_engine: Annotated[Literal["rdagent-sota"], Field(description="This program.")] = "rdagent-sota"
    calculated_at: Annotated[Text, Field(description="In ISO 8601 with offset.")]


class FactorMetrics(Answer):
    """Figures of every factor in a loop's factor table."""

    task_id: TaskId
    success: Annotated[Literal[True], Field(description="Always true: else it is a problem.")] = True
    loop: Annotated[int, Field(description="RD-Agent's loop index.")]
    factor_count: Annotated[int, Field(ge=0, description="Factors in the table.")]
    metrics_count: Annotated[int, Field(ge=0, description="Length of `metrics`.")]
    parquet_path: Annotated[Text, Field(description="The factor table on the server.")]
    return_source: Annotated[
        Text, Field(description="Where the returns are from: `daily_pv.h5`, or the back-test's `label.pkl`.")
    ]
    return_definition: Annotated[Text, Field(description="What a return over h trading days is.")]
    notices: Annotated[tuple[Text, ...], Field(description="What is odd about the data.")]
    metrics: Annotated[tuple[FactorMetricsItem, ...], Field(description="In the table's order.")]
    factor_reports: Annotated[tuple[FactorReport, ...], Field(description="Likewise.")]
    calc_batch_id: Annotated[Text, Field(description="Names table, returns and program.")]
    error: Annotated[None, Field(description="Always null: else it is a problem.")] = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the figures of a loop are computed from, found and not yet read.

    Attributes:
        table: The factor table.
        data: A ``daily_pv.h5``; None for the back-test's label.
    """

    experiment: ExperimentRecord
    table: Path
    data: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """Whatever the figures depend on."""
        if self.data is not None:
            return self.table, self.data
        return self.table, self.table.parent / RECORDERS


@dataclass(frozen=True, slots=True)
class _Returns:
    """Returns of days and stocks, NaN for none.

    Attributes:
        days: Days since 1970-01-01, rising.
        stocks: Rising.
        by_horizon: Shape (days, stocks) each.
        priced: Which stocks could be traded.
        why_not: For each horizon that is not there, why.
    """

    source: str
    days: NDArray[np.int64]
    stocks: tuple[str, ...]
    by_horizon: Mapping[int, Matrix]
    priced: NDArray[np.bool_]
    why_not: Mapping[int, str]


def find_inputs(session: Session, loop: int | None, roots: Sequence[Path], data: Path | None) -> Inputs:
    """The factor table of a loop, and where its returns are to come from.

    Args:
        session: The run.
        loop: RD-Agent's index of it; the last accepted factor experiment without one.
        roots: The folders of ``SOTA_WORKSPACE_ROOT``.
        data: Market data (a ``daily_pv.h5``, or its folder).

    Raises:
        ApiError: ``loop-not-found``.
        SourceError: ``no-accepted-factors``.
        TableError: ``table-not-found``.
    """
    experiment = locate_sota(session) if loop is None else find_loop(session, loop)
    workspace = None
    if experiment.workspace is not None:
        workspace, _ = find_workspace(experiment.workspace, session.log, roots, holding=TABLE_NAME)
    if workspace is None:
        raise TableError(
            "table-not-found",
            f"Loop {experiment.loop} of {session.task_id} has no factor table: its workspace, recorded as "
            f"{experiment.workspace}, has no {TABLE_NAME} on this machine.",
            "If the workspaces were moved, set SOTA_WORKSPACE_ROOT to the folder that holds them.",
        )
    if data is not None and data.is_dir():
        data = data / DATA_NAME
    return Inputs(experiment, workspace / TABLE_NAME, data)


def name_inputs(session: Session, inputs: Inputs) -> str:
    """A name for what figures are computed from: the loop, and table and returns by size and time."""
    parts = (__version__, str(session.log), str(inputs.experiment.loop), *map(str, inputs.files))
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass"))
    digest.update(stamp_files(inputs.files))
    return digest.hexdigest()[:32]


def measure_factors(task_id: str, inputs: Inputs, batch: str) -> FactorMetrics:
    """Compute the figures of every factor in a table.

    Args:
        task_id: The run's id.
        inputs: From `find_inputs`.
        batch: Names what they are computed from.

    Raises:
        TableError: The table cannot be used.
        BundleError: The returns cannot be read: ``market-data-unreadable``, ``artifact-unreadable``, …
    """
    path = inputs.table
    with open_parquet(path) as file:
        schema = parse_schema(file, path)
    if not schema.rows:
        # Without rows pandas stores no types, and nothing more can be said.
        raise TableError("table-empty", f"{path} has no rows.", "Run the experiment again.")
    if schema.problems:
        raise TableError.of(schema.problems)
    rows = read_rows(path, schema)
    days = np.unique(rows.days).astype(np.int64)
    _require_dense(path, len(days) * len(rows.instruments), schema.rows)
    returns = (
        _read_label(inputs, days, rows.instruments)
        if inputs.data is None
        else _read_prices(inputs.data, days, rows.instruments)
    )
    within = (returns.days >= days[0]) & (returns.days <= days[-1])
    by_horizon = {horizon: OrderedDays(matrix[within]) for horizon, matrix in returns.by_horizon.items()}
    priced, own = returns.priced[within], returns.days[within]
    cells = _Cells(rows, own, len(rows.instruments))
    with open_parquet(path) as file, ThreadPoolExecutor(_THREADS) as pool:
        matrices = (cells.fill(file, path, column.field) for column in schema.columns)
        figures = list(_map_bounded(pool, lambda each: describe_factor(each, by_horizon, priced), matrices))
    now, start, end = utc_now(), str(rows.start), str(rows.end)
    items = tuple(
        FactorMetricsItem(
            factor_name=column.name,
            data_start=start,
            data_end=end,
            calculated_at=now,
            calc_batch_id=batch,
            missing=_explain(found, returns),
            **asdict(found),
        )
        for column, found in zip(schema.columns, figures, strict=True)
    )
    return FactorMetrics(
        task_id=task_id,
        loop=inputs.experiment.loop,
        factor_count=len(items),
        metrics_count=len(items),
        parquet_path=str(path),
        return_source=returns.source,
        return_definition="close[t+1+h] / close[t+1] - 1 on trading days: entered at the close of the day after",
        notices=tuple(_notice(days, own, rows.instruments, returns)),
        metrics=items,
        factor_reports=tuple(_report(item) for item in items),
        calc_batch_id=batch,
    )


def _require_dense(path: Path, cells: int, rows: int) -> None:
    if cells > max(_SMALL, _MOST_CELLS * rows):
        raise TableError(
            "table-too-sparse",
            f"{path} has {rows:,} rows for {cells:,} pairs of day and stock: it is not a daily table of a market.",
            "Figures of single factors need most stocks on most days.",
        )


@dataclass(frozen=True, slots=True)
class _Cells:
    """Where the rows of a table belong in a matrix of days by stocks."""

    rows: RowIndex
    days: NDArray[np.int64]
    stocks: int

    def fill(self, file: Any, path: Path, field: str) -> Matrix:
        """One column as such a matrix; rows of other days are left out."""
        matrix = np.full((len(self.days), self.stocks), np.nan)
        position = 0
        for array in iterate_column(file, path, field):
            values = array.cast("float64", safe=False).to_numpy(zero_copy_only=False)
            part = slice(position, position + len(values))
            days = self.rows.days[part]
            places = np.searchsorted(self.days, days)
            known = places < len(self.days)
            known[known] = self.days[places[known]] == days[known]
            matrix[places[known], self.rows.codes[part][known]] = values[known]
            position += len(values)
        return matrix


def _map_bounded(pool: ThreadPoolExecutor, work: Any, matrices: Iterator[Matrix]) -> Iterator[FactorFigures]:
    """`map`, with no more matrices in memory than there are threads."""
    waiting: list[Any] = []
    for matrix in matrices:
        waiting.append(pool.submit(work, matrix))
        del matrix
        if len(waiting) > _THREADS:
            yield waiting.pop(0).result()
    for each in waiting:
        yield each.result()


def _read_prices(data: Path, days: NDArray[np.int64], stocks: tuple[str, ...]) -> _Returns:
    with Jail() as jail:
        frame = read_market(data, jail=jail).frame()
    if _CLOSE not in frame.columns:
        raise BundleError(
            "market-data-unreadable",
            f"The market data {data} cannot be used: it has no column {_CLOSE}.",
            "Give the daily_pv.h5 that RD-Agent's factors read.",
        )
    market, close = _spread(frame[_CLOSE], stocks)
    _require_known(data, stocks, close)
    kept = market >= days[0]
    market, close = market[kept], close[kept]
    priced = np.isfinite(close) & (close > 0)
    by_horizon = {horizon: forward_returns(close, horizon) for horizon in HORIZONS}
    return _Returns(str(data), market, stocks, by_horizon, priced, {})


def _read_label(inputs: Inputs, days: NDArray[np.int64], stocks: tuple[str, ...]) -> _Returns:
    record = inputs.experiment.artifacts
    recorder = find_recorder(inputs.table.parent, None if record is None else parse_hint(record))
    path = recorder.artifacts / LABEL_NAME
    label = read_trained(recorder).label
    if len(label) != 1 or [text.replace(" ", "") for text in label.values()] != [_LABEL]:
        raise BundleError(
            "label-unknown",
            f"The back-test in {recorder.workspace} was trained on {', '.join(label.values()) or 'no label'}, which is "
            "no return over a horizon that is known here.",
            "Name market data with --data.",
        )
    try:
        frame = thaw_frame(read_artifact(recorder, LABEL_NAME))
    except Unthawable as error:
        raise unreadable(path, str(error)) from None
    if list(frame.index.names) != ["datetime", "instrument"] or frame.shape[1] != 1:
        raise unreadable(path, f"it has index {list(frame.index.names)} and {frame.shape[1]} columns")
    if frame.dtypes.iloc[0].kind != "f":
        raise unreadable(path, f"its labels are of type {frame.dtypes.iloc[0]}")
    known, returns = _spread(frame.iloc[:, 0], stocks)
    _require_known(path, stocks, returns)
    why = (
        f"Without market data (--data) the returns are those of the back-test's {LABEL_NAME}: over one trading day, "
        f"from {_to_date(known[0])} to {_to_date(known[-1])}."
    )
    return _Returns(
        str(path),
        known,
        stocks,
        {1: returns},
        np.isfinite(returns),
        {horizon: why for horizon in HORIZONS if horizon != 1},
    )


def _spread(series: pd.Series[Any], stocks: tuple[str, ...]) -> tuple[NDArray[np.int64], Matrix]:
    """A series by day and stock as a matrix: its own days, rising, by the stocks that are asked for."""
    index = series.index
    assert isinstance(index, pd.MultiIndex)
    stamps = index.get_level_values("datetime").to_numpy().astype("datetime64[D]").astype(np.int64)
    days, rows = np.unique(stamps, return_inverse=True)
    places = pd.Index(stocks).get_indexer(index.levels[1].astype(str))
    columns = places[index.codes[1]]
    known = columns >= 0
    matrix = np.full((len(days), len(stocks)), np.nan)
    matrix[rows[known], columns[known]] = series.to_numpy(dtype=np.float64)[known]
    return days, matrix


def _require_known(path: Path, stocks: tuple[str, ...], matrix: Matrix) -> None:
    known = int((~np.isnan(matrix)).any(axis=0).sum()) if matrix.size else 0
    if 2 * known < len(stocks):
        raise BundleError(
            "returns-do-not-fit",
            f"{path} knows {known} of the factor table's {len(stocks)} stocks, such as "
            f"{', '.join(stocks[:_SHOWN])}.",
            "Name the market data of the run; stocks must be spelled as in its factor table.",
        )


def _explain(figures: FactorFigures, returns: _Returns) -> dict[str, str]:
    """Why figures are missing."""
    reasons = {}
    for name, value in asdict(figures).items():
        if value is not None:
            continue
        horizon = next((each for each in HORIZONS if name == f"rank_ic_{each}d"), None)
        if horizon is not None and horizon in returns.why_not:
            reasons[name] = returns.why_not[horizon]
        elif name == "ic_decay_half_life":
            reasons[name] = "The Rank IC does not fall with the horizon, or is known for one horizon alone."
        elif not figures.n_trading_days:
            reasons[name] = "On no day have at least 6 stocks a value and a return, neither of them constant."
        else:
            reasons[name] = "There are too few days for it, too few stocks, or too many equal values."
    return reasons


def _notice(
    days: NDArray[np.int64], own: NDArray[np.int64], stocks: tuple[str, ...], returns: _Returns
) -> Iterator[str]:
    foreign = np.setdiff1d(days, own)
    if len(foreign):
        yield (
            f"{len(foreign)} of the factor table's {len(days)} days are not in {returns.source}, "
            f"{_to_date(foreign[0])} the first of them: they are left out."
        )
    unknown = int((~returns.priced.any(axis=0)).sum())
    if unknown:
        yield f"{unknown} of the factor table's {len(stocks)} stocks have nothing in {returns.source}."


def _report(item: FactorMetricsItem) -> FactorReport:
    return FactorReport(
        factor_name=item.factor_name,
        status="ok" if item.n_trading_days else "skipped",
        error_message=None if item.n_trading_days else item.missing.get("ic_mean"),
        n_trading_days=item.n_trading_days,
        data_start=item.data_start,
        data_end=item.data_end,
        calculated_at=item.calculated_at,
    )


def _to_date(day: np.int64) -> date:
    return date(1970, 1, 1) + timedelta(days=int(day))
