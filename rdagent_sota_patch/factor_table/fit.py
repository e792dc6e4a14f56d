"""Whether a factor table fits Qlib's data: its days, its instruments, and how much of what a run uses it covers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from rdagent_sota_patch.errors import Problem, TableError
from rdagent_sota_patch.factor_table.checks import WARM_UP, Findings
from rdagent_sota_patch.factor_table.reading import open_parquet
from rdagent_sota_patch.factor_table.rows import read_rows
from rdagent_sota_patch.factor_table.schema import parse_schema
from rdagent_sota_patch.factor_table.universe import suggest_spellings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from rdagent_sota_patch.factor_table.rows import RowIndex
    from rdagent_sota_patch.factor_table.segments import Segments
    from rdagent_sota_patch.factor_table.table import FactorTable
    from rdagent_sota_patch.factor_table.universe import Universe

NEXT_TO_NOTHING = 0.1
"""A smaller share than this of a segment's days, of the market, or of a factor's values stops a run."""

# Stocks are suspended and some factors need long windows: what lacks less is not mentioned.
_NEARLY_ALL = 0.9
_EPOCH = date(1970, 1, 1)
_SHOWN = 5


@dataclass(frozen=True, slots=True, eq=False)
class _Span:
    """The trading days of one segment on which a table ought to have rows, shape (days,)."""

    title: str
    days: NDArray[np.int64]


def check_fit(table: FactorTable, segments: Segments, universe: Universe) -> Findings:
    """Hold a table against Qlib's calendar and the market that a run trades.

    Errors: days that are no trading days; under half of the instruments known to Qlib; less than a tenth covered of a
    segment's days, of the market, or of a factor's rows. Notices: any day that is missing between the first and the
    last, any unknown instrument, and what is covered to less than nine tenths. Without a calendar nothing is said of
    days.

    Raises:
        TableError: The file cannot be read any more.
    """
    with open_parquet(table.path) as file:
        schema = parse_schema(file, table.path)
    if schema.datetime is None or schema.instrument is None:
        raise TableError.of(schema.problems)
    index = read_rows(table.path, schema)
    findings = _check_instruments(table, index.instruments, universe)
    if len(universe.days):
        days = np.unique(index.days)
        spans = list(_spans(table, segments, universe))
        findings += _check_days(table, days, universe)
        findings += _check_segment_days(table, days, spans)
        findings += _check_factors(table, spans)
        if not findings.errors:
            findings += _check_market(table, index, spans, universe)
    return findings


def _check_instruments(table: FactorTable, names: Sequence[str], universe: Universe) -> Findings:
    unknown = [name for name in names if name not in universe.known]
    if not unknown:
        return Findings()
    message = (
        f"{table.path}: Qlib's data has {len(names) - len(unknown)} of its {len(names)} instruments; unknown are "
        f"{_listed(unknown)}."
    )
    hint = _spelling_hint(unknown, universe)
    if 2 * len(unknown) > len(names):
        return Findings(errors=(Problem("table-instruments", message, hint),))
    return Findings(notices=(Problem("table-instruments-partial", message, hint),))


def _spelling_hint(unknown: list[str], universe: Universe) -> str:
    meant = suggest_spellings(unknown, universe.known)
    if not meant:
        example = f" such as {min(universe.members)}" if universe.members else ""
        return f"Write the instruments as Qlib's data does{example}, or drop these rows."
    if all(name.upper() == spelled for name, spelled in meant.items()):
        return (
            "They differ in case only: convert them with "
            "df.rename(index=str.upper, level='instrument') before saving."
        )
    pairs = ", ".join(f"'{name}': '{meant[name]}'" for name in list(meant)[:_SHOWN])
    more = ", …" if len(meant) > _SHOWN else ""
    return (
        f"Qlib spells them otherwise: df.rename(index={{{pairs}{more}}}, level='instrument') before saving."
    )


def _check_days(table: FactorTable, days: NDArray[Any], universe: Universe) -> Findings:
    calendar = universe.days
    # Before and after the calendar nothing is known.
    judged = days[(days >= calendar[0]) & (days <= calendar[-1])]
    foreign = judged[~np.isin(judged, calendar)]
    if not len(foreign):
        return Findings()
    hint = "Keep trading days only; Qlib never uses the other rows."
    for shift, where in ((1, "later"), (-1, "earlier")):
        if np.isin(judged + shift, calendar).all():
            hint = (
                f"Each of its days is a trading day if it is taken one day {where}: a time zone was dropped before the "
                "times were converted. Write the table again from the original, with "
                "tz_convert('Asia/Shanghai') before tz_localize(None) and normalize()."
            )
    first = _to_date(foreign[0])
    problem = Problem(
        "table-not-trading-days",
        f"{table.path}: {len(foreign)} of its {len(days)} days are no trading days of Qlib's calendar, the first of "
        f"them {first:%Y-%m-%d}, a {first:%A}.",
        hint,
    )
    return Findings(errors=(problem,))


def _spans(table: FactorTable, segments: Segments, universe: Universe) -> Iterator[_Span]:
    """Of the first segment without its warm-up, of one without an end as far as the table goes."""
    for name, start, end in segments.spans():
        warm_up = max(timedelta(0), min(table.start - start, WARM_UP)) if name == "train" else timedelta(0)
        first, last = _to_day(start) + warm_up.days, _to_day(end if end is not None else table.end)
        days = universe.days[(universe.days >= first) & (universe.days <= last)]
        if len(days):
            span = f"{start} to {end}" if end is not None else f"{start} onwards"
            yield _Span(f"{name} segment {span}", days)


def _check_segment_days(table: FactorTable, days: NDArray[Any], spans: list[_Span]) -> Findings:
    findings = Findings()
    for span in spans:
        present = np.isin(span.days, days)
        count = int(present.sum())
        # A segment without any day is `check_segments`' to report.
        if count and count < len(present):
            start, end, length = _longest_gap(span.days, present)
            findings += _rate(
                count / len(present),
                f"{table.path} covers {count} of the {len(present)} trading days of the {span.title} "
                f"({_percent(count, len(present))}); the longest gap is {start} to {end}, {length} trading days.",
                "Compute the factors for these days as well, or narrow the dates of the run.",
            )
    return findings


def _check_factors(table: FactorTable, spans: list[_Span]) -> Findings:
    findings = Findings()
    coverage = table.coverage
    if coverage is None:
        return findings
    for span in spans:
        chosen = np.isin(coverage.days, span.days)
        rows = int(coverage.rows[chosen].sum())
        if not rows:
            continue
        values = {name: rows - int(missing[chosen].sum()) for name, missing in coverage.missing.items()}
        for few in (True, False):
            named = [
                f"{name} ({_percent(count, rows)})"
                for name, count in values.items()
                if count < _NEARLY_ALL * rows and (count < NEXT_TO_NOTHING * rows) is few
            ]
            if named:
                findings += _rate(
                    0 if few else 1,
                    f"{table.path}: on the trading days of the {span.title} these factors have values in a part of "
                    f"the {rows} rows only: {_listed(named)}.",
                    "Correct the code that computes them, leave them out, or narrow the dates of the run.",
                )
    return findings


def _check_market(table: FactorTable, index: RowIndex, spans: list[_Span], universe: Universe) -> Findings:
    days = np.concatenate([span.days for span in spans]) if spans else universe.days[:0]
    days = np.unique(days)
    names = sorted(universe.members)
    expected = np.zeros((len(names), len(days)), dtype=bool)
    for place, name in enumerate(names):
        for start, end in universe.members[name]:
            expected[place, np.searchsorted(days, start) : np.searchsorted(days, end, "right")] = True
    present = np.zeros_like(expected)
    places = {name: place for place, name in enumerate(names)}
    rows = np.array([places.get(name, -1) for name in index.instruments], dtype=np.int64)[index.codes]
    columns = np.searchsorted(days, index.days)
    columns[columns == len(days)] = 0
    used = (rows >= 0) & (days[columns] == index.days) if len(days) else np.zeros(len(rows), dtype=bool)
    present[rows[used], columns[used]] = True
    wanted = expected.sum(axis=1)
    there = (expected & present).sum(axis=1)
    if not wanted.any():
        return Findings()
    lacking = [name for name, n, all_ in zip(names, there, wanted, strict=True) if n < _NEARLY_ALL * all_]
    if not lacking:
        return Findings()
    absent = int(((there == 0) & (wanted > 0)).sum())
    are = "is" if absent == 1 else "are"
    absence = f", {absent} of which {are} not in it at all" if absent else ""
    return _rate(
        there.sum() / wanted.sum(),
        f"{table.path} covers {_percent(int(there.sum()), int(wanted.sum()))} of the days on which the "
        f"{int((wanted > 0).sum())} instruments of {universe.market} were traded in the run's segments; it lacks "
        f"more than a tenth of the days of {_listed(lacking)}{absence}.",
        "The model sees no factor values there. Compute the factors for the whole market that the run trades; an index "
        "among the stocks (`market: all` with the benchmark in it) needs none.",
    )


def _rate(share: float, message: str, hint: str) -> Findings:
    if share < NEXT_TO_NOTHING:
        return Findings(errors=(Problem("table-coverage", message, hint),))
    return Findings(notices=(Problem("table-coverage-partial", message, hint),))


def _longest_gap(days: NDArray[np.int64], present: NDArray[np.bool_]) -> tuple[date, date, int]:
    """First and last missing day of the longest run of them, and its length."""
    edges = np.flatnonzero(np.diff(np.concatenate(([True], present, [True])).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    start, end = int(starts[longest]), int(ends[longest])
    return _to_date(days[start]), _to_date(days[end - 1]), end - start


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def _to_day(day: date) -> int:
    return (day - _EPOCH).days


def _to_date(day: Any) -> date:
    return _EPOCH + timedelta(days=int(day))
