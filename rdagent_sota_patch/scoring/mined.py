"""Mined factors from market data: each factor's own code, confined, several at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rdagent_sota_patch.bundle.documents import NOT_AUDITED, ShippedFactor
from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.lookahead.verdicts import hash_code
from rdagent_sota_patch.sandbox.factors import require_factor_confinement, run_factor
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.market import DATA_NAME, is_daily

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.lookahead.verdicts import FactorVerdict
    from rdagent_sota_patch.sandbox.limits import Limits
    from rdagent_sota_patch.sandbox.market import MarketTable

Report = Callable[[str, int, int], None]
"""Told what is being done, how many of it are done, and of how many."""

_SHORTEST = 32
_SPARE = 1.25
"""A suspended stock has fewer rows than there are trading days, and the audit did not see every one."""


@dataclass(frozen=True, slots=True)
class MinedFactor:
    """A mined factor that the model takes.

    Attributes:
        name: Of its column.
        code: Text of its ``factor.py``.
        lookback: Trading days that its newest value needs, the day itself counted; None where it needs the whole
            history, or it is not known.
        verdict: The audit's; None without one.
    """

    name: str
    code: str
    lookback: int | None
    verdict: FactorVerdict | None = None


def list_mined(bundle: Bundle) -> tuple[MinedFactor, ...]:
    """The mined factors that a bundle's model takes, in the order of its factor table.

    Raises:
        BundleError: ``factor-code-missing``, for every factor without code at once.
    """
    order, _ = bundle.model
    # Of two with one name, RD-Agent keeps the later's column (`factor_runner.py`: duplicated(keep="last")).
    shipped = {factor.name: factor for factor in bundle.factors.factors if factor.in_table}
    problems = [_without_code(name, shipped.get(name)) for name in order.dynamic_factor_order]
    if missing := [problem for problem in problems if problem is not None]:
        raise BundleError.of(missing)
    audit = bundle.manifest.audit
    verdicts = () if audit == NOT_AUDITED else audit.factors
    found = []
    for name in order.dynamic_factor_order:
        code = bundle.read(str(shipped[name].code_relpath)).decode("utf-8")
        verdict = _find_verdict(verdicts, code)
        found.append(MinedFactor(name, code, None if verdict is None else verdict.lookback_days, verdict))
    return tuple(found)


def _without_code(name: str, factor: ShippedFactor | None) -> Problem | None:
    if factor is not None and factor.code_relpath is not None:
        return None
    reason = "the bundle does not list it" if factor is None else factor.missing_reason
    return Problem(
        "factor-code-missing",
        f"The model takes the mined factor {name}, and the bundle does not have its code: {reason}.",
        "Export the run again where its session and workspaces are whole.",
    )


def _find_verdict(verdicts: Sequence[FactorVerdict], code: str) -> FactorVerdict | None:
    sha256 = hash_code(code)
    return next((verdict for verdict in verdicts if verdict.code_sha256 == sha256), None)


def days_to_read(factor: MinedFactor) -> int | None:
    """Trading days of history that a factor is given; None for all there are.

    More than it needs, and in few sizes: the factors of one size share one file.
    """
    if factor.lookback is None:
        return None
    days = _SHORTEST
    while days < factor.lookback * _SPARE:
        days *= 2
    return days


@dataclass(frozen=True, slots=True)
class Histories:
    """Cuts of the market data; they live as long as the table's jail.

    Attributes:
        files: The data folder that each factor is run on: it ends with the last day and reaches back far enough.
        last_day: The ``daily_pv.h5`` of the last day alone.
    """

    files: Mapping[MinedFactor, Path]
    last_day: Path


def cut_histories(factors: Sequence[MinedFactor], table: MarketTable, days: pd.DatetimeIndex) -> Histories:
    """Cut market data for factors that are wanted on ``days``.

    Nothing after the last day is in any cut: that is what was known on that day.

    Raises:
        BundleError: ``market-data-unreadable``.
    """
    starts = find_starts(factors, table, days)
    windows = sorted(set(starts.values()))
    # Each table is read once for all windows; what no factor reads is not cut at all.
    spans = [(table.days[start], days[-1]) for start in windows]
    folders = table.folders([*spans, (days[-1], days[-1])], _read_by(factors))
    by_start = dict(zip(windows, folders, strict=False))
    files = {factor: by_start[start] for factor, start in starts.items()}
    return Histories(files, folders[-1] / DATA_NAME)


def find_starts(
    factors: Sequence[MinedFactor], table: MarketTable, days: pd.DatetimeIndex
) -> dict[MinedFactor, int]:
    """From which of the table's days on each factor is given data, where it is wanted on ``days``."""
    span = int(table.days.searchsorted(days[0])), int(table.days.searchsorted(days[-1]))
    # Code may drop rows that lack any number, and rows without trades.
    counted = table.presence.complete & table.presence.traded
    starts = {}
    for factor in factors:
        wanted = days_to_read(factor)
        starts[factor] = 0 if wanted is None else _reach_back(counted, span, wanted)
    return starts


def _reach_back(traded: NDArray[np.bool_], span: tuple[int, int], wanted: int) -> int:
    """The day from which on every stock that is traded in the span has as many rows as are wanted, or all of its own.

    A stock that was halted has fewer rows than there are trading days, and code that drops empty rows counts in rows.

    Args:
        traded: By day and stock.
        span: First and last of the days that are predicted.
        wanted: Rows up to the first of them, that one counted.
    """
    first, last = span
    alive = traded[first : last + 1].any(axis=0)
    rows = np.cumsum(traded[first::-1, alive], axis=0, dtype=np.int32)
    enough = np.minimum(rows[-1], wanted) if len(rows) else np.zeros(0)
    longest = int((rows < enough).sum(axis=0).max(initial=0))
    return max(0, first - max(longest, wanted - 1))


def _read_by(factors: Sequence[MinedFactor]) -> frozenset[str] | None:
    """The names of the files that factors read; None where that is not known of each."""
    reads = [factor.verdict.reads if factor.verdict is not None else () for factor in factors]
    return frozenset(one.name for each in reads for one in each) if all(reads) else None


def find_missing_data(factors: Sequence[MinedFactor], table: MarketTable, day: pd.Timestamp) -> list[Problem]:
    """All that a data folder lacks of what the factors' audits saw them read.

    Returns:
        ``factor-file-missing`` for each file, and for columns of a file; ``market-data-too-short`` for a table of
        daily data that ends before ``day``.
    """
    readers: dict[str, dict[str, None]] = {}
    columns: dict[str, dict[str, None]] = {}
    for factor in factors:
        for read in factor.verdict.reads if factor.verdict is not None else ():
            readers.setdefault(read.name, {})[factor.name] = None
            columns.setdefault(read.name, {}).update(dict.fromkeys(read.columns))
    problems = []
    for name, who in readers.items():
        known = table.tables.get(name)
        if name not in table.names:
            problems.append(_lacks(f"{table.data} lacks {name}", who))
            continue
        if known is None:
            continue
        if lacking := [column for column in columns[name] if column not in known.columns]:
            problems.append(_lacks(f"{name} in {table.data} lacks the columns {', '.join(lacking)}", who))
        if (
            name != DATA_NAME
            and known.days is not None
            and is_daily(known, table.days)
            and known.days[-1] < day
        ):
            problems.append(
                Problem(
                    "market-data-too-short",
                    f"{name} in {table.data} ends on {known.days[-1]:%Y-%m-%d}, before {day:%Y-%m-%d}; "
                    f"{', '.join(who)} read it.",
                    "Bring it up to date, or name an earlier day.",
                )
            )
    return problems


def _lacks(what: str, who: Mapping[str, None]) -> Problem:
    return Problem(
        "factor-file-missing",
        f"{what}, which the code of {', '.join(who)} reads.",
        "Name the whole folder that the factors were mined with (--data), brought up to date.",
    )


def run_mined(
    files: Mapping[MinedFactor, Path],
    days: pd.DatetimeIndex,
    *,
    limits: Limits,
    jobs: int,
    report: Report,
    trusted: bool = False,
) -> pd.DataFrame:
    """Run factors' code, each on its data folder, and take their values on ``days``.

    Returns:
        Index (datetime, instrument), sorted; one column per factor, in the order of ``files``. A row for every pair
        that any factor has on ``days``; NaN where one has none.

    Raises:
        BundleError: ``trust-needed``; or everything that is wrong with any factor at once: ``factor-failed``,
            ``factor-over-limit``, ``factor-bad-result``, ``factor-empty``.
    """
    columns: dict[str, pd.Series] = {}
    problems: dict[str, tuple[Problem, ...]] = {}
    report("factors", 0, len(files))
    if files:
        require_factor_confinement(trusted=trusted)
    with Jail(trusted=trusted) as jail, _pool(jobs) as pool:
        running = {
            pool.submit(_run_one, factor, path, days, limits, jail): factor for factor, path in files.items()
        }
        for done, future in enumerate(as_completed(running), start=1):
            name = running[future].name
            try:
                columns[name] = future.result()
            except BundleError as error:
                problems[name] = error.problems
            report("factors", done, len(files))
    if problems:
        in_order = [problem for factor in files for problem in problems.get(factor.name, ())]
        raise BundleError.of(in_order)
    if not columns:
        empty = pd.MultiIndex.from_arrays([pd.DatetimeIndex([]), []], names=["datetime", "instrument"])
        nothing: pd.DataFrame = pd.DataFrame(index=empty)
        return nothing
    joined: pd.DataFrame = pd.concat([columns[factor.name] for factor in files], axis=1).sort_index()
    return joined


@contextmanager
def _pool(jobs: int) -> Iterator[ThreadPoolExecutor]:
    """Threads, each of which waits for one factor; on Ctrl-C those not begun are not begun."""
    pool = ThreadPoolExecutor(max_workers=max(1, jobs), thread_name_prefix="factor")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _run_one(
    factor: MinedFactor, path: Path, days: pd.DatetimeIndex, limits: Limits, jail: Jail
) -> pd.Series:
    outcome = run_factor(factor.code, path, limits, name=factor.name, jail=jail)
    values = outcome.values
    if values.index.has_duplicates:
        raise BundleError(
            "factor-bad-result",
            f"{factor.name}: its result has several values for one stock on one day.",
            "RD-Agent could not have joined such a factor either; export the run again.",
        )
    column = str(values.columns[0])
    if column != factor.name:
        raise BundleError(
            "model-input-mismatch",
            f"{factor.name}: its code names its column {column!r}, a feature that the model does not take.",
            "The bundle's code is not the code that the model was trained on. Export the run again.",
        )
    series = values.iloc[:, 0]
    series = series[series.index.get_level_values("datetime").isin(days)]
    if not series[series.index.get_level_values("datetime") == days[-1]].notna().any():
        raise BundleError(
            "factor-empty",
            f"{factor.name}: no stock has a value on {days[-1]:%Y-%m-%d}.",
            "Its code may need more history, or data that this day does not have yet.",
        )
    return series
