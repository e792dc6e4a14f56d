"""Whether this bundle and this data can do the day asked for, which stocks can be scored, and what the others lack."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.scoring.market_days import (
    closes_on,
    find_day_problems,
    read_calendar,
    read_closes,
)
from rdagent_sota_patch.scoring.mined import find_starts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.sandbox.market import MarketTable
    from rdagent_sota_patch.scoring.market_days import MarketFiles, Trades
    from rdagent_sota_patch.scoring.mined import Histories, MinedFactor

SAME_PRICE = 1e-4
"""Relative difference up to which two prices are one: stored as float32 on one side, as float64 on the other."""

LEAST_OF_A_DAY = 0.9
"""Share of the stocks traded the day before below which a day counts as not complete: few are halted in one day."""

MOST_OTHER_PRICES = 0.05
"""Share of stocks whose prices may differ between two sources, each then left out; beyond it, they are two markets."""


def require_common_stocks(members: Sequence[str], known: Sequence[str], data: Path) -> None:
    """See that ``daily_pv.h5`` is of the model's market at all; single stocks that it lacks are left out later.

    Args:
        members: The market's stocks on the day, by Qlib's data.
        known: The stocks of ``daily_pv.h5``.
        data: That file, for the message.

    Raises:
        BundleError: ``unknown-instruments`` when it knows fewer than half of them.
    """
    unknown = sorted(set(members) - set(known))
    if len(unknown) * 2 > len(members):
        raise BundleError(
            "unknown-instruments",
            f"{data} knows {len(members) - len(unknown)} of the market's {len(members)} stocks. It has "
            f"{', '.join(sorted(known)[:3])}, and not {', '.join(unknown[:3])}.",
            "Make daily_pv.h5 from the same Qlib data, with the same names.",
        )


def find_partial_day(
    members: Sequence[str], traded: NDArray[np.bool_], source: Path, day: pd.Timestamp
) -> Problem | None:
    """A notice where a source has far fewer of the market's stocks on a day than on the day before.

    Args:
        members: The market's stocks on the day.
        traded: By day and stock, the last two of its trading days; see `market_days.read_traded`.
        source: The file or folder, for the message.
        day: The last of the two.
    """
    before, now = (int(count) for count in traded.sum(axis=1))
    if now >= LEAST_OF_A_DAY * before:
        return None
    return Problem(
        "market-day-partial",
        f"{source} has trades of {now} of the market's {len(members)} stocks on {day:%Y-%m-%d}, and of {before} on the "
        "trading day before: the day seems to be there in part.",
        "Wait until the data are complete and predict again: the best of these stocks need not be the best of all.",
    )


def find_disagreeing(ours: pd.Series, theirs: pd.Series, day: pd.Timestamp) -> dict[str, str]:
    """Stocks whose closing price is another in Qlib's data than in ``daily_pv.h5``, with the reason.

    Mined factors are made of the one and Alpha features of the other: a stock that was split in only one of them
    would be scored on a mixture.

    Args:
        ours: Qlib's closing prices on ``day``, index instrument.
        theirs: Those of ``daily_pv.h5``.
        day: For the message.

    Raises:
        BundleError: ``market-data-mismatch`` when more than a few disagree.
    """
    both = pd.DataFrame({"ours": ours.astype("float64"), "theirs": theirs.astype("float64")}).dropna()
    differing = both[(both["ours"] - both["theirs"]).abs() > SAME_PRICE * both["ours"].abs()]
    reasons = {
        str(name): f"its close is {row.theirs:g} in daily_pv.h5 and {row.ours:g} in Qlib's data"
        for name, row in zip(differing.index, differing.itertuples(), strict=True)
    }
    if len(reasons) > MOST_OTHER_PRICES * len(both):
        name = next(iter(reasons))
        raise BundleError.of(
            [
                Problem(
                    "market-data-mismatch",
                    f"On {day:%Y-%m-%d}, {len(reasons)} of {len(both)} stocks have another price in daily_pv.h5 "
                    f"than in Qlib's data; {name}: {reasons[name]}.",
                    "Make daily_pv.h5 again from the same Qlib data.",
                )
            ]
        )
    return reasons


def find_left_out(
    members: Sequence[str], today: pd.DataFrame, mined: pd.DataFrame, *, complete_rows: bool
) -> dict[str, str]:
    """Stocks that lack data, with the reason.

    That is: no row at all, or not one value of the mined factors, or none of the Alpha features. Who lacks just some is
    scored: the model's processors fill these, as in its back-test.

    Args:
        members: The market's stocks on the day.
        today: Raw features of the day as the model takes them, index instrument.
        mined: The mined factors of the day before the join, index instrument.
        complete_rows: Whether the model knows only stocks that have every mined factor.
    """
    factors = list(mined.columns)
    alpha = [name for name in today.columns if name not in factors]
    present = today.loc[[name for name in members if name in today.index]]
    reasons = {name: "no data in Qlib" for name in members if name not in today.index}
    if alpha:
        for name in present.index[present[alpha].isna().all(axis=1)]:
            reasons[str(name)] = "no Alpha feature has a value"
    if factors:
        for name in present.index[present[factors].isna().all(axis=1)]:
            reasons.setdefault(str(name), _why_without_mined(str(name), mined, complete_rows))
    return reasons


def _why_without_mined(name: str, mined: pd.DataFrame, complete_rows: bool) -> str:
    if name in mined.index and complete_rows:
        lacking = [str(factor) for factor in mined.columns if mined[factor].isna()[name]]
        if len(lacking) < len(mined.columns):
            return f"lacks {', '.join(lacking)}, and the model knows only stocks that have every mined factor"
    return "no mined factor has a value"


def find_incomplete(features: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Stocks that lack some features, with the names of these.

    Args:
        features: Raw values, index instrument.
    """
    missing = features.isna()
    rows = missing[missing.any(axis=1)]
    return {
        str(name): tuple(str(column) for column in rows.columns[row])
        for name, row in zip(rows.index, rows.to_numpy(), strict=True)
    }


def cover(members: Sequence[str], today: pd.DataFrame, mined: pd.DataFrame) -> Mapping[str, float]:
    """For each feature, the share of the market's stocks that have a value of it, 0 to 1.

    Args:
        members: The market's stocks on the day.
        today: Raw features of the day as the model takes them, index instrument.
        mined: The mined factors of the day before the join: what a factor itself covers.
    """
    shares = {}
    for name in today.columns:
        values = (mined if name in mined.columns else today)[name]
        known = values[values.notna()].index.intersection(pd.Index(members))
        shares[str(name)] = len(known) / len(members) if members else 0.0
    return shares


LATEST = "latest"
_FORMATS = ("%Y-%m-%d", "%Y%m%d")


@dataclass(frozen=True, slots=True)
class DaysAsked:
    """What ``--date`` names.

    Attributes:
        first: First day; None for the latest that Qlib's data has.
        last: Last day, itself included; likewise.
        is_range: Whether every trading day between the two is meant.
    """

    first: date | None
    last: date | None
    is_range: bool


def parse_days(text: str) -> DaysAsked:
    """``latest``, a day as ``2026-11-20`` or ``20261120``, or two of these with ``..`` (or ``:``) between them.

    Raises:
        ValueError: It is none of these, or a range that ends before it begins.
    """
    ends = re.split(r"\.\.|:", text.strip())
    if not 1 <= len(ends) <= 2:
        raise ValueError(f"{text!r} is not a day and no range")
    first, last = (_parse_asked(end.strip()) for end in (ends[0], ends[-1]))
    if len(ends) == 2 and (first is None or (last is not None and last < first)):
        raise ValueError(f"{text!r} ends before it begins")
    return DaysAsked(first, last, len(ends) == 2)


def _parse_asked(text: str) -> date | None:
    if text == LATEST:
        return None
    for form in _FORMATS:
        # `strptime` takes one digit for two, too.
        if len(text) == len(datetime(2000, 1, 1).strftime(form)):
            try:
                return datetime.strptime(text, form).date()
            except ValueError:
                continue
    raise ValueError(f"{text!r} is not a day: write 2026-11-20, 20261120 or {LATEST}")


def days_of(asked: DaysAsked, qlib_dir: Path) -> tuple[date, ...]:
    """The trading days that are meant, ascending; a single day is given back as it is.

    Raises:
        BundleError: ``bad-market-data``; of a range ``market-data-too-short`` and ``not-a-trading-day``.
    """
    if not asked.is_range and asked.last is not None:
        return (asked.last,)
    calendar = read_calendar(qlib_dir)
    newest = calendar[-1].date()
    last = asked.last or newest
    if not asked.is_range:
        return (newest,)
    if last > newest:
        raise BundleError(
            "market-data-too-short",
            f"The range goes to {last}, and Qlib's data in {qlib_dir} ends on {newest}.",
            f"Bring the data up to date, or end the range with {newest} or {LATEST}.",
        )
    assert asked.first is not None
    found = calendar[(calendar >= pd.Timestamp(asked.first)) & (calendar <= pd.Timestamp(last))]
    if not len(found):
        raise BundleError(
            "not-a-trading-day",
            f"No day from {asked.first} to {last} is a trading day in Qlib's data in {qlib_dir}.",
            "Name a longer range.",
        )
    return tuple(day.date() for day in found)


def day_before(day: date, qlib_dir: Path) -> date | None:
    """The trading day before ``day``; None where the data begins with it."""
    calendar = read_calendar(qlib_dir)
    place = int(calendar.searchsorted(pd.Timestamp(day)))
    return calendar[place - 1].date() if place > 0 else None


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
            f"{bundle.folder}: it does not say when its back-test ended: {str(written)[:40]!r} is not a day.",
            "Fetch the bundle again, or export it again; do not use this one.",
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
    *,
    trades: Trades,
    whole: bool,
) -> tuple[pd.DatetimeIndex, list[Problem]]:
    """The trading days that a sample of the model takes, and everything that is against computing them.

    Args:
        bundle: Holds a model.
        market: The user's market data.
        table: Its ``daily_pv.h5``; None where no factor needs it.
        factors: The mined factors that the model takes.
        day: The day asked for, which is the last of the sample.
        trades: Qlib's, of the market's stocks on the day.
        whole: Whether the factors are given the whole history, and not what they need of it.

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
    position = int(calendar.searchsorted(day))
    days: pd.DatetimeIndex = calendar[max(0, position - steps + 1) : position + 1]
    if table is not None and not problems:
        start = 0 if whole else min(find_starts(factors, table, days).values(), default=0)
        read = table.days[start:]
        problems += find_gaps(table, calendar, read[read < day], day)
        if not problems:
            problems += find_rows_of_one(table, trades, start, day)
    return days, problems


def find_gaps(
    table: MarketTable, calendar: pd.DatetimeIndex, ours: pd.DatetimeIndex, day: pd.Timestamp
) -> list[Problem]:
    """Earlier trading days that one of the two sources lacks, among those that factors read: history would shift.

    Args:
        table: ``daily_pv.h5``.
        calendar: Qlib's trading days.
        ours: The days before ``day`` that factors read of the table.
        day: The last day that is computed.
    """
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
                    "Make daily_pv.h5 again from the same Qlib data.",
                )
            )
    return problems


def find_rows_of_one(
    table: MarketTable,
    trades: Trades,
    start: int,
    day: pd.Timestamp,
) -> list[Problem]:
    """Stocks that were traded on days before ``day`` by one source alone, between other days that the other has.

    A stock that is halted has no price, or no volume, in either; see `read_traded`. A source that begins later with a
    stock, or has ended with it, is not meant: that stock has a shorter history, or is left out.

    Args:
        table: ``daily_pv.h5``.
        trades: Qlib's, up to ``day``.
        start: The first of the table's days that factors read.
        day: The last day that is computed.
    """
    names = sorted(set(trades.instruments) & set(table.instruments))
    end = int(table.days.searchsorted(day, side="right"))
    places = trades.days.get_indexer(table.days[:end])
    ours = table.presence.traded[:end, pd.Index(table.instruments).get_indexer(names)][places >= 0]
    theirs = trades.traded[:, pd.Index(trades.instruments).get_indexer(names)][places[places >= 0]]
    days = table.days[:end][places >= 0]
    read = (days >= table.days[start])[:, None]
    found = (
        (theirs & ~ours & _inside(ours) & read, table.data, "Qlib's data have"),
        (ours & ~theirs & _inside(theirs) & read, trades.qlib_dir, f"{table.data} has"),
    )
    return [_of_one(lacking, names, days, who, other) for lacking, who, other in found if lacking.any()]


def _inside(traded: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """By day and stock, whether the day is between a stock's first and last."""
    since = np.logical_or.accumulate(traded)
    until: NDArray[np.bool_] = np.logical_or.accumulate(traded[::-1])[::-1]
    return since & until


def _of_one(
    lacking: NDArray[np.bool_], names: Sequence[str], days: pd.DatetimeIndex, who: Path, other: str
) -> Problem:
    stocks = np.flatnonzero(lacking.any(axis=0))
    shown = "; ".join(
        f"{names[at]} on {', '.join(f'{one:%Y-%m-%d}' for one in days[lacking[:, at]][:3])}"
        + (f" and {int(lacking[:, at].sum()) - 3} more days" if lacking[:, at].sum() > 3 else "")
        for at in stocks[:3]
    )
    return Problem(
        "market-data-mismatch",
        f"{who} lacks trades of {len(stocks)} stocks on days for which {other} them: {shown}"
        f"{f'; and of {len(stocks) - 3} more stocks' if len(stocks) > 3 else ''}. The history of every factor would be "
        "shifted.",
        "Make daily_pv.h5 again from the same Qlib data. A halted stock has no price, or no volume, in both.",
    )


def find_partial(trades: Trades, table: MarketTable | None, day: pd.Timestamp) -> list[Problem]:
    """Notices of sources that have the day in part."""
    members = trades.instruments
    found = []
    if len(trades.days) > 1:
        found.append(find_partial_day(members, trades.traded[-2:], trades.qlib_dir, day))
    place = 0 if table is None else int(table.days.searchsorted(day))
    if table is not None and place > 0:
        columns = pd.Index(table.instruments).get_indexer(pd.Index(members))
        traded = table.presence.traded[place - 1 : place + 1][:, columns[columns >= 0]]
        found.append(find_partial_day(members, traded, table.data, day))
    return [notice for notice in found if notice is not None]


def look_at_stocks(
    trades: Trades,
    table: MarketTable | None,
    histories: Histories | None,
    day: pd.Timestamp,
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The market's stocks on a day, and those of them whose prices the two sources of market data disagree on.

    Args:
        trades: Qlib's, of the market's stocks on the day.
        table: Its ``daily_pv.h5``; None where no factor needs it.
        histories: Its cuts.
        day: A trading day.

    Returns:
        The stocks, sorted, and by stock what is wrong with it.

    Raises:
        BundleError: ``unknown-market``, ``bad-market-data``, ``unknown-instruments``, ``market-data-mismatch``.
    """
    members = trades.instruments
    if table is None or histories is None:
        return members, {}
    require_common_stocks(members, table.instruments, table.data)
    return members, find_disagreeing(
        read_closes(trades.qlib_dir, members, len(trades.days) - 1), closes_on(table, histories.last_day), day
    )
