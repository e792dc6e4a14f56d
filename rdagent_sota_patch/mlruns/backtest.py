"""What Qlib's back-test of a model left day by day: returns, costs, turnover, IC; read without running any of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.factor_table.reading import open_parquet, read_whole
from rdagent_sota_patch.mlruns.recorder import find_recorder, is_only_run, read_artifact, unreadable
from rdagent_sota_patch.sessions.frames import thaw_frame, thaw_series
from rdagent_sota_patch.sessions.thaw import Unthawable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd
    from typing_extensions import Self

    from rdagent_sota_patch.mlruns.recorder import Recorder, RecorderHint

REPORT = "portfolio_analysis/report_normal_1day.pkl"
IC = "sig_analysis/ic.pkl"
RANK_IC = "sig_analysis/ric.pkl"
_MOST_DAYS = 100_000
_COLUMNS = {"returns": "return", "benchmark": "bench", "costs": "cost", "turnover": "turnover"}
"""Ours, and the report's (``qlib.backtest.report.PortfolioMetrics``)."""


@dataclass(frozen=True, slots=True, eq=False)
class Backtest:
    """One back-test day by day: each part a float64 Series by trading day (naive, rising, no day twice), or None.

    Attributes:
        returns: The portfolio's return of the day, costs not yet taken off (Qlib adds them back in its report).
        benchmark: The benchmark's.
        costs: What trading cost that day, as a share of the account.
        turnover: What was traded that day, as a share of the account.
        ic: Correlation over stocks of score and label, of each day that has one.
        rank_ic: The same of their ranks.
        missing: Why a part is None, by its name.
        recorder: Whose it is; None where there is none.
    """

    returns: pd.Series[float] | None = None
    benchmark: pd.Series[float] | None = None
    costs: pd.Series[float] | None = None
    turnover: pd.Series[float] | None = None
    ic: pd.Series[float] | None = None
    rank_ic: pd.Series[float] | None = None
    missing: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    recorder: Recorder | None = None

    @classmethod
    def without(cls, reason: str) -> Self:
        """One of which nothing is left."""
        return cls(missing=MappingProxyType(dict.fromkeys((*_COLUMNS, "ic", "rank_ic"), reason)))

    @property
    def excess(self) -> pd.Series[float] | None:
        """Strategy less benchmark less cost, by day; None where one of the three is missing."""
        if self.returns is None or self.benchmark is None or self.costs is None:
            return None
        return self.returns - self.benchmark - self.costs


def read_backtest(workspace: Path, expected: RecorderHint | None = None) -> Backtest:
    """What the back-test in an experiment's workspace left.

    Args:
        workspace: On this machine.
        expected: What the session says about its recorder, where it does (`recorder.parse_hint`).
    """
    try:
        recorder = find_recorder(workspace, expected)
    except SotaError as error:
        return Backtest.without(error.problems[0].message)
    parts: dict[str, Any] = {}
    missing: dict[str, str] = {}
    source = _find_report(recorder)
    report = _try(missing, tuple(_COLUMNS), _read_report, recorder, source)
    for name, column in _COLUMNS.items():
        if report is not None and column not in report.columns:
            missing[name] = f"{source} has no column {column}"
        elif report is not None:
            parts[name] = _try(missing, (name,), _by_day, source, report[column])
    for name, artifact in (("ic", IC), ("rank_ic", RANK_IC)):
        parts[name] = _try(missing, (name,), _read_daily, recorder, artifact)
    return Backtest(**parts, missing=MappingProxyType(missing), recorder=recorder)


def _try(missing: dict[str, str], names: tuple[str, ...], read: Callable[..., Any], *given: Any) -> Any:
    try:
        return read(*given)
    except SotaError as error:
        missing.update(dict.fromkeys(names, error.problems[0].message))
        return None


def _find_report(recorder: Recorder) -> Path:
    """The recorder's report, or the copy that ``read_exp_res.py`` leaves: parquet, or a pickle before.

    The copy is of the newest run in the workspace, and does not say of which; with several runs it is not taken.
    """
    copies = (recorder.workspace / name for name in ("ret.parquet", "ret.pkl"))
    recorded = recorder.artifacts / REPORT
    if recorded.is_file() or not is_only_run(recorder):
        return recorded
    return next((path for path in copies if path.is_file()), recorded)


def _read_report(recorder: Recorder, path: Path) -> pd.DataFrame:
    if not path.resolve().is_relative_to(recorder.workspace.resolve()):
        raise unreadable(path, "it leads outside of its workspace")
    if path.suffix == ".parquet":
        return _read_parquet(path)
    try:
        # A copy lies in the workspace: `read_artifact` takes its path as it is.
        return thaw_frame(read_artifact(recorder, str(path)))
    except Unthawable as error:
        raise unreadable(path, str(error)) from None


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow as pa

    with open_parquet(path) as file:
        if file.metadata.num_rows > _MOST_DAYS:
            raise unreadable(path, f"it has more than {_MOST_DAYS:,} rows")
        try:
            wanted = [name for name in (*_COLUMNS.values(), "datetime") if name in file.schema_arrow.names]
            frame: pd.DataFrame = read_whole(file, path, wanted).to_pandas()
        except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
            raise unreadable(path, str(error)[:200]) from None
    return frame


def _read_daily(recorder: Recorder, artifact: str) -> pd.Series[float]:
    try:
        series = thaw_series(read_artifact(recorder, artifact))
    except Unthawable as error:
        raise unreadable(recorder.artifacts / artifact, str(error)) from None
    return _by_day(recorder.artifacts / artifact, series)


def _by_day(path: Path, series: pd.Series[Any]) -> pd.Series[float]:
    """A Series by day, as float64.

    Raises:
        BundleError: ``artifact-unreadable``: its index is not of days that rise.
    """
    import pandas as pd

    index = series.index
    if not isinstance(index, pd.DatetimeIndex) or index.tz is not None or index.hasnans:
        raise unreadable(path, "its rows are not by day")
    if not index.is_monotonic_increasing or not index.is_unique:
        raise unreadable(path, "its days do not rise")
    try:
        values = series.to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        raise unreadable(path, f"its values are of type {series.dtype}") from None
    by_day: pd.Series[float] = pd.Series(values, index=index.as_unit("ns").rename("datetime"))
    return by_day
