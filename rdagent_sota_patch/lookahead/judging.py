"""One factor judged: does its past change when the future is taken away?"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.lookahead.lookback import measure_lookback
from rdagent_sota_patch.lookahead.panel import (
    EMPTY,
    NEAR,
    NOISE,
    REPEATABLE,
    SHORT,
    Comparison,
    Panel,
    UnusableValues,
    compare,
    compare_ends,
    panel_of,
)
from rdagent_sota_patch.lookahead.verdicts import SEEN, FactorVerdict, Power, ReadTable, hash_code
from rdagent_sota_patch.lookahead.windows import EARLY, choose_own_cuts
from rdagent_sota_patch.sandbox.factors import Run, Trial, run_trials, texts_in
from rdagent_sota_patch.sandbox.outputs import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rdagent_sota_patch.lookahead.market_cuts import AuditMarket
    from rdagent_sota_patch.sandbox.limits import Limits


@dataclass(frozen=True, slots=True)
class Failure:
    """A run without values; ``reason`` goes on from "It fails: "."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Finding:
    """A factor's verdict, and what it rests on.

    Attributes:
        cuts: The past by each cut, rising; empty for a factor that has no values to compare.
    """

    verdict: FactorVerdict
    cuts: tuple[Comparison, ...] = ()


def judge(name: str, code: str, market: AuditMarket, limits: Limits, *, lookback: bool = True) -> Finding:
    """Run a factor on the whole data, on data cut off ever later, and on the whole again.

    A value counts as unchanged when it is the same to the last bit. Rounding can differ honestly, where a
    cut takes away stocks that a sum over all went through; and code may do otherwise for want of rows. So small
    differences alone (`NOISE`), those in little data, and stocks with a short history that have no value left are
    decided by another run: on data of the same shape with another future, where neither has a reason to differ,
    and any difference is the future's doing.

    A factor that the cuts spread over the time do not accuse is cut again: on days that matter to the market and to its
    own values, and in a run for each of `AuditMarket.ends`. What changes there is a suspicion, which a cut on the
    day in question confirms or not.

    Args:
        name: Of the factor.
        code: Text of its ``factor.py``.
        market: What to run it on.
        limits: Of one run.
        lookback: Whether to measure how much history it needs, where it is causal.

    Raises:
        BundleError: ``confinement-failed``.
    """
    verdict = FactorVerdict(
        name=name,
        causal=True,
        changed_share=0.0,
        max_change=0.0,
        lookback_days=None,
        code_sha256=hash_code(code),
    )
    subject = _Subject(code, market, limits)
    try:
        tested = _examine(subject)
    except _CannotJudge as why:
        verdict = verdict.model_copy(update={"reads": _describe_reads(code, subject.asked, market)})
        return _unjudged(verdict, str(why))
    verdict = verdict.model_copy(update={"reads": _describe_reads(code, subject.asked, market)})
    cuts = sorted(subject.cuts, key=lambda cut: cut.last_day)
    if subject.worst is not None:
        return Finding(_accused(verdict, cuts, subject.worst), tuple(cuts))
    verdict = verdict.model_copy(update={"power": _power_of(cuts, tested, market)})
    if lookback:
        days = measure_lookback(code, subject.full, (market, subject.names), limits)
        verdict = verdict.model_copy(update={"lookback_days": days})
    return Finding(verdict, tuple(map(_quiet, cuts)))


class _CannotJudge(Exception):
    """Why a factor gets no verdict."""


class _Subject:
    """A factor that is being judged: its code, where it runs, and what is known of it.

    Attributes:
        names: The dated tables that it reads.
        asked: The given files that it asked for on the whole data.
        full: Its values there.
        worst: The cut that shows it to peek; None for as long as none does.
        cuts: All that were compared.
    """

    def __init__(self, code: str, market: AuditMarket, limits: Limits) -> None:
        self.code = code
        self.market = market
        self.names: frozenset[str] = frozenset()
        self.asked: frozenset[str] = frozenset()
        self.full = EMPTY
        self.worst: Comparison | None = None
        self.cuts: list[Comparison] = []
        self._failed: dict[np.datetime64, str] = {}
        self._limits = limits

    @contextmanager
    def run(self, trials: Callable[[frozenset[str]], Sequence[Trial]]) -> Iterator[tuple[Run, ...]]:
        """The runs on data that is made of the tables that the code reads.

        Raises:
            _CannotJudge: It asks for a file that is not there.
        """
        while True:
            with run_trials(self.code, trials(self.names), self._limits, jail=self.market.jail) as runs:
                # On less data it may ask for a table that it did not ask for before.
                more = self.market.needed_by(*runs) - self.names
                missing = sorted({name for run in runs for name in run.missing})
                if missing:
                    self.asked |= runs[0].asked
                    raise _CannotJudge(_not_given(missing))
                if not more:
                    yield runs
                    return
            self.names |= more

    def examine_whole(self) -> None:
        """Its values on all data, and what it reads."""
        with run_trials(self.code, [self.market.whole], self._limits, jail=self.market.jail) as (run,):
            self.names, self.asked = self.market.needed_by(run), run.asked
            full = values_of(run)
        if run.missing:
            raise _CannotJudge(_not_given(run.missing))
        if isinstance(full, Failure):
            raise _CannotJudge(f"It fails on the whole market data: {full.reason}.")
        if not full.any:
            raise _CannotJudge("It has no value at all on the whole market data.")
        self.full = full

    def compare(self, runs: Sequence[Run], days: Sequence[np.datetime64]) -> list[Comparison]:
        """What cuts on these days changed; those left out on which it fails, which `failure` tells of."""
        cuts = []
        for run, day in zip(runs, days, strict=True):
            result = values_of(run)
            if isinstance(result, Panel):
                cuts.append(compare(self.full, result, day))
            # Where it has no value before the cut, it may fail.
            elif not compare(self.full, EMPTY, day).same:
                self._failed[day] = f"It fails when the data ends on {_iso(day)}: {result.reason}."
        self.cuts += cuts
        return cuts

    @property
    def failure(self) -> str:
        """That it fails on a cut for another reason than want of history; empty if it does not.

        For want of history it fails below a number of days, which is no more than a year, and never above.
        """
        first = min((cut.last_day for cut in self.cuts), default=self.market.days[-1])
        year = self.market.days[min(SHORT, len(self.market.days)) - 1]
        if 2 * sum(day in self._failed for day in self.market.cuts) > len(self.market.cuts):
            return next(iter(self._failed.values()))
        return next((reason for day, reason in self._failed.items() if day > min(first, year)), "")

    @contextmanager
    def _altered_after(self, day: np.datetime64) -> Iterator[Run]:
        with self.run(lambda names: [self.market.altered_after(day, names)]) as (run,):
            yield run

    def decide(self, cuts: Sequence[Comparison]) -> bool:
        """Whether these show it to peek; `worst` then says where."""
        changed = sorted((cut for cut in cuts if not cut.same), key=lambda cut: cut.share, reverse=True)
        early = self.market.days[min(EARLY, len(self.market.days)) - 1]
        doubtful = [cut for cut in changed if cut.excess <= NOISE or cut.short or cut.last_day < early]
        if len(doubtful) < len(changed):
            self.worst = next(cut for cut in changed if cut not in doubtful)
            return True
        for cut in _doubted(doubtful):
            with self._altered_after(cut.last_day) as run:
                altered = values_of(run)
            if isinstance(altered, Failure):
                raise _CannotJudge(
                    f"It fails on other numbers after {_iso(cut.last_day)}, which were to tell why values change when "
                    f"the data ends there: {altered.reason}."
                )
            if not compare(self.full, altered, cut.last_day).same:
                self.worst = cut
                return True
        return False


def _doubted(cuts: Sequence[Comparison]) -> list[Comparison]:
    """Those to decide by another run, largest shares first: one for rounding, three for want of rows."""
    rounding = [cut for cut in cuts if cut.excess <= NOISE]
    return [*rounding[:1], *[cut for cut in cuts if cut.excess > NOISE][:3]]


def _examine(subject: _Subject) -> int:
    """Run it on all cuts until one shows that it peeks; at how many stocks' own ends nothing changed."""
    market = subject.market
    subject.examine_whole()
    with subject.run(lambda names: [*market.until(market.cuts, names), market.whole]) as runs:
        cuts = subject.compare(runs[:-1], market.cuts)
        again = values_of(runs[-1])
    repeated = compare(subject.full, EMPTY if isinstance(again, Failure) else again, market.days[-1])
    if repeated.excess > REPEATABLE:
        raise _CannotJudge(
            f"Two runs on the same data differ in {repeated.share:.2%} of the values: nothing can be proven of it."
        )
    if subject.decide(cuts):
        return 0
    tested, suspects = _examine_closely(subject)
    if subject.worst is None and suspects:
        with subject.run(lambda names: [market.own_cut(day, names) for day in suspects]) as runs:
            subject.decide(subject.compare(runs, suspects))
    if subject.worst is None and subject.failure:
        raise _CannotJudge(subject.failure)
    return tested


def _examine_closely(subject: _Subject) -> tuple[int, tuple[np.datetime64, ...]]:
    """Run it on further cuts and on each stock's own ends: at how many ends nothing changed, and which days the others
    make suspicious.
    """
    market = subject.market
    known = {*market.cuts, *market.more_cuts}
    chosen = choose_own_cuts(subject.full, market.days, _days_in(subject.code), market.count)
    own = [day for day in chosen if day not in known]
    tested, suspects = 0, []
    with subject.run(
        lambda names: [
            *market.until(market.more_cuts, names),
            *(market.own_cut(day, names) for day in own),
            *market.ended(names),
        ]
    ) as runs:
        days = [*market.more_cuts, *own]
        cuts = subject.compare(runs[: len(days)], days)
        for run, ends in zip(runs[len(days) :], market.ends, strict=True):
            result = values_of(run)
            if isinstance(result, Panel):
                found = compare_ends(subject.full, result, market.by_stock(ends), market.days)
                tested += found.tested
                suspects.append(found.suspects)
    subject.decide(cuts)
    in_turn = [day for turn in zip_longest(*suspects) for day in turn if day is not None]
    unasked = [day for day in dict.fromkeys(in_turn) if day not in known.union(own)]
    return tested, tuple(unasked[: max(4, market.count // 2)])


def _days_in(code: str) -> list[np.datetime64]:
    """Days that are written in the code."""
    found = (re.fullmatch(r"(\d{4})[-/.]?(\d{2})[-/.]?(\d{2})", text) for text in texts_in(code))
    days: list[np.datetime64] = []
    for match in filter(None, found):
        with suppress(ValueError):
            days.append(np.datetime64("-".join(match.groups()), "ns"))
    return days


def _power_of(cuts: Sequence[Comparison], tested: int, market: AuditMarket) -> Power:
    """Only where there is a value shortly before it does a cut test something."""
    rows = []
    for cut in cuts:
        near = cut.days > market.days[max(0, int(np.searchsorted(market.days, cut.last_day)) - NEAR)]
        compared = cut.compared[near]
        if compared.any():
            rows.append(int(compared[np.flatnonzero(compared)[-1]]))
    return Power.of(len(rows), sum(rows) + tested)


def values_of(run: Run) -> Panel | Failure:
    """The values of a run, or why it has none."""
    if run.slug:
        return Failure(run.reason)
    try:
        return panel_of(run.values())
    except (Unreadable, UnusableValues) as error:
        return Failure(str(error))


def _describe_reads(code: str, asked: frozenset[str], market: AuditMarket) -> tuple[ReadTable, ...]:
    texts = texts_in(code)
    reads = []
    for name in sorted(asked):
        table = market.table.tables.get(name)
        columns = () if table is None else table.columns
        named = tuple(column for column in columns if column in texts)
        reads.append(ReadTable(name=name, columns=named or columns, dated=name in market.table.dated))
    return tuple(reads)


def _not_given(missing: Sequence[str]) -> str:
    return (
        f"It asks for {', '.join(missing)}, which the data folder does not have: what it does without it is not the "
        "factor."
    )


def _accused(verdict: FactorVerdict, cuts: Sequence[Comparison], worst: Comparison) -> FactorVerdict:
    changes = [cut.largest for cut in cuts if cut.largest is not None]
    days = [cut.earliest for cut in cuts if cut.earliest is not None]
    return verdict.model_copy(
        update={
            "causal": False,
            "changed_share": worst.share,
            "max_change": max(changes) if changes else None,
            "earliest_day": _iso(min(days)) if days else None,
            "reason": f"{SEEN} {_iso(worst.last_day)}, {worst.share:.2%} of its earlier values are others, from "
            f"{_iso(worst.earliest)} on.",
        }
    )


def _unjudged(verdict: FactorVerdict, reason: str) -> Finding:
    return Finding(verdict.model_copy(update={"causal": None, "max_change": None, "reason": reason}))


def _quiet(cut: Comparison) -> Comparison:
    """Without the rounding that was found to be no more than that."""
    return replace(cut, changed=np.zeros_like(cut.changed), largest=None, excess=0.0)


def _iso(day: np.datetime64 | None) -> str:
    return str(day.astype("datetime64[D]")) if day is not None else ""
