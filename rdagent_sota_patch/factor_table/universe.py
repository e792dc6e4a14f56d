"""Qlib's trading days and instruments, from the text files of its data folder, and how an instrument may be spelled."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_EXCHANGES = {
    "SH": "SH", "SHSE": "SH", "SSE": "SH", "XSHG": "SH", "SS": "SH",
    "SZ": "SZ", "SZSE": "SZ", "XSHE": "SZ",
    "BJ": "BJ", "BSE": "BJ", "XBSE": "BJ",
}  # fmt: skip
_ALWAYS = ("1677-09-22", "2262-04-11")
_CODE = re.compile(r"([A-Z]*)[._-]?([0-9]{6})[._-]?([A-Z]*)")


@dataclass(frozen=True, slots=True, eq=False)
class Universe:
    """What Qlib's data holds, as far as a factor table has to fit it.

    Attributes:
        market: The market's name, such as ``csi300``.
        days: Trading days, rising, as days since 1970-01-01, shape (days,); empty where there is no calendar.
        members: The market's instruments with the spans in which each belongs to it, first and last day as in ``days``.
        known: Every instrument of any of Qlib's markets.
    """

    market: str
    days: NDArray[np.int64]
    members: Mapping[str, tuple[tuple[int, int], ...]]
    known: frozenset[str]


def read_universe(folder: Path, market: str) -> Universe | None:
    """Read Qlib's ``calendars/day.txt`` and ``instruments/*.txt``; None where the market's list cannot be read.

    Args:
        folder: Qlib's provider folder.
        market: The market that a run trades.
    """
    lists = folder / "instruments"
    try:
        members = _read_spans(lists / f"{market}.txt")
        known = {name for file in lists.glob("*.txt") for name in _read_spans(file)}
    except (OSError, ValueError):
        return None
    return Universe(market, _days_or_none(folder), members, frozenset(known))


def suggest_spellings(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """For unknown instruments the known one that is probably meant: 000001.SZ, sz000001 and SZ000001 are one stock."""
    by_code: dict[tuple[str, str], str] = {}
    by_digits: dict[str, set[str]] = defaultdict(set)
    by_letters: dict[str, str] = {}
    for name in known:
        by_letters[name.casefold()] = name
        exchange, digits = _take_apart(name)
        if digits:
            by_code[exchange, digits] = name
            by_digits[digits].add(name)
    found = {}
    for name in names:
        exchange, digits = _take_apart(name)
        meant = by_letters.get(name.strip().casefold()) or by_code.get((exchange, digits))
        if meant is None and not exchange and len(by_digits.get(digits, ())) == 1:
            (meant,) = by_digits[digits]
        if meant is not None:
            found[name] = meant
    return found


def _take_apart(name: str) -> tuple[str, str]:
    """Exchange and digits; both empty for a name of another form."""
    match = _CODE.fullmatch(name.strip().upper())
    if match is None or (match[1] and match[3]):
        return "", ""
    letters = match[1] or match[3]
    if letters and letters not in _EXCHANGES:
        return "", ""
    return _EXCHANGES.get(letters, ""), match[2]


def read_trading_days(folder: Path) -> NDArray[np.datetime64]:
    """Qlib's trading days, rising, each once, ``datetime64[D]`` (``calendars/day.txt``).

    Args:
        folder: Qlib's provider folder.

    Raises:
        OSError: It cannot be read.
        ValueError: A line is not a day.
    """
    lines = (folder / "calendars" / "day.txt").read_text(encoding="utf-8").splitlines()
    days = np.array([line.strip() for line in lines if line.strip()], dtype="datetime64[s]")
    return np.unique(days.astype("datetime64[D]"))


def _days_or_none(folder: Path) -> NDArray[np.int64]:
    try:
        return read_trading_days(folder).astype(np.int64)
    except (OSError, ValueError):
        return np.empty(0, dtype=np.int64)


def _read_spans(file: Path) -> dict[str, tuple[tuple[int, int], ...]]:
    """Tab-separated lines of instrument, first and last day; one of an instrument alone means always."""
    lines = [
        line.strip().split("\t") for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    starts = np.array([line[1][:10] if len(line) > 2 else _ALWAYS[0] for line in lines], "datetime64[D]")
    ends = np.array([line[2][:10] if len(line) > 2 else _ALWAYS[1] for line in lines], "datetime64[D]")
    spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for line, *span in zip(
        lines, starts.astype(np.int64).tolist(), ends.astype(np.int64).tolist(), strict=True
    ):
        spans[line[0]].append((span[0], span[1]))
    return {name: tuple(several) for name, several in spans.items()}
