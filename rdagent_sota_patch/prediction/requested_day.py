"""The day asked for: whether this bundle can be used on it with this market data, and which stocks there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.prediction.eligibility import find_disagreeing, require_common_stocks
from rdagent_sota_patch.prediction.market_days import (
    find_day_problems,
    members_on,
    read_calendar,
    read_closes,
    read_memberships,
)
from rdagent_sota_patch.prediction.market_table import closes_on
from rdagent_sota_patch.prediction.mined import days_to_read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.confinement.market import MarketTable
    from rdagent_sota_patch.prediction.market_days import MarketFiles
    from rdagent_sota_patch.prediction.mined import Histories, MinedFactor


def end_of_backtest(bundle: Bundle) -> pd.Timestamp:
    """The last day that the model was back-tested on, or the day of its training where that is not written down.

    Raises:
        BundleError: ``bundle-damaged``.
    """
    _, meta = bundle.model
    end = meta.segments.get("test", (None, None))[1]
    times = bundle.manifest.times
    written = end or times.get("trained_at_utc") or times.get("exported_at_utc")
    day = _parse_day(str(written)[:10])
    if day is None:
        raise BundleError(
            "bundle-damaged",
            f"{bundle.folder}: it does not say until when its model was back-tested: {str(written)[:40]!r} is no day.",
            "Get the bundle anew, or export it again; do not use this one.",
        )
    return day


def _parse_day(text: str) -> pd.Timestamp | None:
    try:
        day: pd.Timestamp = pd.Timestamp(text)
    except ValueError:
        return None
    return None if pd.isna(day) else day


def find_days(
    bundle: Bundle,
    market: MarketFiles,
    table: MarketTable | None,
    factors: Sequence[MinedFactor],
    day: pd.Timestamp,
) -> tuple[pd.DatetimeIndex, list[Problem]]:
    """The trading days that a sample of the model takes, and everything that is against computing them.

    Args:
        bundle: Holds a model.
        market: The user's market data.
        table: Its ``daily_pv.h5``; None where no factor needs it.
        factors: The mined factors that the model takes.
        day: The day asked for, which is the last of the sample.

    Returns:
        Ascending, and without a meaning if there are problems: ``market-data-too-short``, ``not-a-trading-day``,
        ``no-history``, ``market-data-mismatch``.

    Raises:
        BundleError: ``bad-market-data``.
    """
    _, meta = bundle.model
    steps = meta.step_len or 1
    calendar = read_calendar(market.qlib_dir)
    problems = find_day_problems(
        day, calendar, market.qlib_dir, needed=steps, need_of=f"the model, which looks at {steps} days,"
    )
    if table is not None and market.data is not None:
        hungriest = max(factors, key=lambda factor: factor.lookback or 0)
        lookback = hungriest.lookback or 1
        needed = lookback + steps - 1
        need_of = f"the factor {hungriest.name}" if lookback > 1 else "the model"
        known = {problem.slug for problem in problems} & {"not-a-trading-day"}
        problems += [
            problem
            for problem in find_day_problems(
                day, table.days, market.data, needed=needed, need_of=need_of, calendar=calendar
            )
            if problem.slug not in known
        ]
        problems += _find_gaps(table, calendar, factors, day)
    position = int(calendar.searchsorted(day))
    days: pd.DatetimeIndex = calendar[max(0, position - steps + 1) : position + 1]
    return days, problems


def _find_gaps(
    table: MarketTable, calendar: pd.DatetimeIndex, factors: Sequence[MinedFactor], day: pd.Timestamp
) -> list[Problem]:
    """Earlier trading days that one of the two sources lacks, among those that factors read: history would shift."""
    reads = [days_to_read(factor) for factor in factors]
    longest = None if None in reads else max((days for days in reads if days is not None), default=1)
    ours = table.days[table.days < day]
    ours = ours if longest is None else ours[-longest:]
    if not len(ours):
        return []
    ours = ours[ours >= calendar[0]]
    theirs = calendar[(calendar >= max(ours[0], calendar[0])) & (calendar < day)] if len(ours) else ours
    problems = []
    for lacking, who, other in (
        (theirs.difference(ours), str(table.data), "Qlib's calendar has"),
        (ours.difference(theirs), "Qlib's calendar", f"{table.data} has"),
    ):
        if len(lacking):
            shown = ", ".join(f"{one:%Y-%m-%d}" for one in lacking[:3])
            problems.append(
                Problem(
                    "market-data-mismatch",
                    f"{who} lacks {len(lacking)} trading days that {other}: {shown}"
                    f"{' and more' if len(lacking) > 3 else ''}. The history of every factor would be shifted.",
                    "Make daily_pv.h5 anew from the same Qlib data.",
                )
            )
    return problems


def look_at_stocks(
    bundle: Bundle,
    market: MarketFiles,
    table: MarketTable | None,
    histories: Histories | None,
    day: pd.Timestamp,
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The market's stocks on a day, and those of them whose prices the two sources of market data disagree on.

    Args:
        bundle: Holds a model.
        market: The user's market data.
        table: Its ``daily_pv.h5``; None where no factor needs it.
        histories: Its cuts.
        day: A trading day.

    Returns:
        The stocks, sorted, and by stock what is wrong with it.

    Raises:
        BundleError: ``unknown-market``, ``bad-market-data``, ``unknown-instruments``, ``market-data-mismatch``.
    """
    _, meta = bundle.model
    members = members_on(read_memberships(market.qlib_dir, meta.instruments), day)
    if table is None or histories is None:
        return members, {}
    require_common_stocks(members, table.instruments, table.data)
    position = int(read_calendar(market.qlib_dir).searchsorted(day))
    return members, find_disagreeing(
        read_closes(market.qlib_dir, members, position), closes_on(table, histories.last_day), day
    )
