"""The user's data folder while a day is predicted: its trading days and stocks, and what is against a day.

Qlib's calendar and markets are text files and are read as such: no Qlib is needed to find a day missing.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.factor_table.universe import read_trading_days
from rdagent_sota_patch.sandbox.jail import Jail
from rdagent_sota_patch.sandbox.market import read_market

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from rdagent_sota_patch.sandbox.market import MarketTable
    from rdagent_sota_patch.scoring.mined import MinedFactor

_MOST_DAYS = 1_000_000
_MARKET_NAME = re.compile(r"[\w.-]+")


@dataclass(frozen=True, slots=True)
class MarketFiles:
    """The user's market data.

    Attributes:
        data: ``daily_pv.h5``, which the mined factors read; None for a model without any.
        qlib_dir: Qlib's provider folder, for the Alpha features and for which stocks the market has.
    """

    data: Path | None
    qlib_dir: Path


@dataclass(frozen=True, slots=True)
class Membership:
    """When a stock belonged to the market; one of possibly several spans, both ends included."""

    instrument: str
    start: pd.Timestamp
    end: pd.Timestamp


def read_calendar(qlib_dir: Path) -> pd.DatetimeIndex:
    """Qlib's trading days, ascending (``calendars/day.txt``).

    Raises:
        BundleError: ``bad-market-data``.
    """
    path = qlib_dir / "calendars" / "day.txt"
    try:
        days: pd.DatetimeIndex = pd.DatetimeIndex(read_trading_days(qlib_dir)).as_unit("ns")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_market_data(path, f"cannot be read ({error})") from error
    except ValueError as error:
        raise _bad_market_data(path, f"a line is not a day ({error})") from error
    return days


def read_memberships(qlib_dir: Path, market: str) -> tuple[Membership, ...]:
    """Which stocks a market has and had (``instruments/<market>.txt``).

    Raises:
        BundleError: ``bad-market-data``, ``unknown-market``.
    """
    folder = qlib_dir / "instruments"
    path = folder / f"{market.lower()}.txt"
    if not _MARKET_NAME.fullmatch(market) or not path.is_file():
        known = sorted(entry.stem for entry in folder.glob("*.txt"))
        raise BundleError(
            "unknown-market",
            f"The model was trained on the market {market!r}, which Qlib's data in {qlib_dir} does not have"
            f" (it has: {', '.join(known) or 'none'}).",
            "Name the folder of the data that the model was trained on, brought up to date.",
        )
    memberships = []
    for line in _read_lines(path):
        if not line.strip():
            continue
        fields = line.rstrip("\n").split("\t")
        try:
            memberships.append(Membership(fields[0], pd.Timestamp(fields[1]), pd.Timestamp(fields[2])))
        except (IndexError, ValueError) as error:
            raise _bad_market_data(path, f"cannot be read at {line.strip()!r}") from error
    return tuple(memberships)


def members_on(memberships: Sequence[Membership], day: pd.Timestamp) -> tuple[str, ...]:
    """The stocks of the market on ``day``, sorted."""
    return tuple(sorted({each.instrument for each in memberships if each.start <= day <= each.end}))


def read_closes(qlib_dir: Path, instruments: Sequence[str], position: int) -> pd.Series:
    """Qlib's closing prices of one day, index instrument, float32; a stock that has no such value is left out.

    Args:
        qlib_dir: Qlib's provider folder.
        instruments: Whose.
        position: Of the day in `read_calendar`.
    """
    values, present = read_field(qlib_dir, instruments, "close", (position, position))
    closes: pd.Series = pd.Series(values[0], index=list(instruments), dtype=np.float32)[present[0]]
    return closes


def read_field(
    qlib_dir: Path, instruments: Sequence[str], field: str, span: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """One field of Qlib's data.

    A file holds little-endian float32, the first of which is the position of the second
    (``qlib/data/storage/file_storage.py``).

    Args:
        qlib_dir: Qlib's provider folder.
        instruments: Whose.
        field: ``close`` and the like.
        span: First and last position in `read_calendar`; may begin before the calendar.

    Returns:
        By day and stock: the values, NaN where there are none; and which of them the files reach to.

    Raises:
        BundleError: ``bad-market-data``.
    """
    first, last = span
    values = np.full((last - first + 1, len(instruments)), np.nan, dtype=np.float32)
    present = np.zeros(values.shape, dtype=bool)
    for column, instrument in enumerate(instruments):
        path = qlib_dir / "features" / instrument.lower() / f"{field.lower()}.day.bin"
        try:
            with path.open("rb") as file:
                head = np.frombuffer(file.read(4), "<f4")
                if not len(head):
                    continue
                if not 0 <= head[0] < _MOST_DAYS:
                    raise _bad_market_data(path, f"begins at day {head[0]:g} of the calendar")
                begin = int(head[0])
                start = max(first, begin)
                if start > last:
                    continue
                file.seek(4 * (start - begin + 1))
                found = np.frombuffer(file.read(4 * (last - start + 1)), "<f4")
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise _bad_market_data(path, f"cannot be read ({error})") from error
        rows = slice(start - first, start - first + len(found))
        values[rows, column] = found
        present[rows, column] = True
    return values, present


def read_traded(qlib_dir: Path, instruments: Sequence[str], days: int) -> NDArray[np.bool_]:
    """On which trading days Qlib has a price and a volume of some stocks.

    Qlib's own data have NaN in every field but ``factor`` where a stock is halted (its collector blanks days without
    volume, and ``dump_bin.py`` fills the calendar with NaN); other data repeat the last price with a volume of 0.

    Args:
        qlib_dir: Qlib's provider folder.
        instruments: Whose; one that Qlib does not know was never traded.
        days: How many days of `read_calendar`, from its first on.

    Returns:
        By day and stock.
    """
    span = (0, days - 1)
    close, volume = (read_field(qlib_dir, instruments, field, span)[0] for field in ("close", "volume"))
    traded: NDArray[np.bool_] = np.isfinite(close) & ((volume > 0) | ~np.isfinite(volume).any(axis=0))
    return traded


class Trades:
    """On which days up to one Qlib has trades of some stocks; its files are read when first asked for, and once.

    Attributes:
        qlib_dir: Qlib's provider folder.
    """

    def __init__(self, qlib_dir: Path, find: Callable[[], Iterable[str]], day: pd.Timestamp) -> None:
        self.qlib_dir = qlib_dir
        self._find = find
        self._day = day

    @cached_property
    def instruments(self) -> tuple[str, ...]:
        """Which stocks."""
        return tuple(self._find())

    @cached_property
    def days(self) -> pd.DatetimeIndex:
        """Qlib's trading days, up to the day.

        Raises:
            BundleError: ``bad-market-data``.
        """
        calendar = read_calendar(self.qlib_dir)
        until: pd.DatetimeIndex = calendar[calendar <= self._day]
        return until

    @cached_property
    def traded(self) -> NDArray[np.bool_]:
        """By day and stock; see `read_traded`.

        Raises:
            BundleError: ``bad-market-data``.
        """
        return read_traded(self.qlib_dir, self.instruments, len(self.days))


def find_day_problems(
    day: pd.Timestamp,
    days: pd.DatetimeIndex,
    source: Path,
    *,
    needed: int,
    need_of: str,
    calendar: pd.DatetimeIndex | None = None,
) -> list[Problem]:
    """What keeps ``day`` from being computed with market data whose trading days are ``days``.

    Args:
        day: The day asked for.
        days: Ascending.
        source: The file or folder, for the message.
        needed: Trading days of history that are needed, ``day`` itself counted.
        need_of: What needs them, for the message.
        calendar: All trading days, where that is known from elsewhere: a day in it that ``days`` lacks is a gap in the
            data, not a holiday.
    """
    problem = _find_day_problem(day, days, source, calendar) or _find_short_history(
        day, days, source, needed, need_of
    )
    return [] if problem is None else [problem]


def _find_day_problem(
    day: pd.Timestamp, days: pd.DatetimeIndex, source: Path, calendar: pd.DatetimeIndex | None
) -> Problem | None:
    text = f"{day:%Y-%m-%d}"
    if len(days) == 0:
        return Problem("market-data-too-short", f"{source} holds no day at all.", "Check which file it is.")
    if day > days[-1]:
        return Problem(
            "market-data-too-short",
            f"{source} ends on {days[-1]:%Y-%m-%d}, before {text}.",
            "Bring the market data up to date, or name an earlier day.",
        )
    if day in days or day < days[0]:
        return None
    if calendar is not None and day in calendar:
        return Problem(
            "market-data-mismatch",
            f"{source} lacks {text}, which Qlib's calendar has as a trading day.",
            "Make daily_pv.h5 again from the same Qlib data.",
        )
    after = int(days.searchsorted(day))
    return Problem(
        "not-a-trading-day",
        f"{text} is not a trading day in {source}.",
        f"The nearest are {days[after - 1]:%Y-%m-%d} and {days[after]:%Y-%m-%d}.",
    )


def _find_short_history(
    day: pd.Timestamp, days: pd.DatetimeIndex, source: Path, needed: int, need_of: str
) -> Problem | None:
    known = int(days.searchsorted(day, side="right"))
    if known >= max(needed, 1):
        return None
    return Problem(
        "no-history",
        f"{source} begins on {days[0]:%Y-%m-%d} and has {known} trading days up to {day:%Y-%m-%d}; {need_of} needs "
        f"{max(needed, 1)}.",
        "Name a later day, or market data that begins earlier.",
    )


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_market_data(path, f"cannot be read ({error})") from error


def _bad_market_data(path: Path, what: str) -> BundleError:
    return BundleError(
        "bad-market-data",
        f"{path}: {what}.",
        "--qlib-dir is Qlib's provider folder: the one with calendars, instruments and features in it.",
    )


_CLOSE = "$close"


@contextmanager
def open_market(market: MarketFiles, factors: Sequence[MinedFactor]) -> Iterator[MarketTable | None]:
    """Look at the data folder; None where no factor needs it.

    Raises:
        BundleError: ``market-data-needed``, ``market-data-unreadable``.
    """
    if not factors:
        yield None
        return
    path = require_data(market, factors)
    with Jail() as jail:
        yield read_market(path, jail=jail)


def require_data(market: MarketFiles, factors: Sequence[MinedFactor]) -> Path:
    """The folder or file that the factors' code reads.

    Raises:
        BundleError: ``market-data-needed``.
    """
    if market.data is None:
        raise BundleError(
            "market-data-needed",
            f"The model takes {len(factors)} mined factors, whose code reads daily_pv.h5.",
            "Name it, or its folder, with --data.",
        )
    return market.data


def closes_on(table: MarketTable, one_day: Path) -> pd.Series:
    """Closing prices, index instrument.

    Args:
        table: Of the whole file.
        one_day: Its ``daily_pv.h5`` cut to a single day.
    """
    frame = table.frame(one_day)
    if _CLOSE not in frame.columns:
        raise BundleError(
            "market-data-mismatch",
            f"{table.data} has no column {_CLOSE}; it has {', '.join(table.columns)}.",
            "Give the daily_pv.h5 that RD-Agent's factors read.",
        )
    closes: pd.Series = frame[_CLOSE].droplevel("datetime")
    return closes
