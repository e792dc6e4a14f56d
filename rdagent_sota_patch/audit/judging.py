"""One factor judged: does its past change when the future is taken away?"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.audit.comparison import NOISE, REPEATABLE, Comparison, compare
from rdagent_sota_patch.audit.lookback import measure_lookback
from rdagent_sota_patch.audit.panel import EMPTY, Panel, UnusableValues, panel_of
from rdagent_sota_patch.audit.verdicts import SEEN, FactorVerdict, ReadTable, hash_code
from rdagent_sota_patch.confinement.factors import Run, run_trials, texts_in
from rdagent_sota_patch.confinement.frames import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rdagent_sota_patch.audit.market import AuditMarket
    from rdagent_sota_patch.confinement.limits import Limits


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
    cut takes away stocks that a sum over all went through; so small differences alone (`NOISE`) are decided by
    another run: on data of the same shape with another future, where rounding has no reason to differ, and any
    difference is the future's doing.

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
    with run_trials(code, [market.whole], limits, jail=market.jail) as (run,):
        names, asked = market.needed_by(run), run.asked
        full = values_of(run)
    verdict = verdict.model_copy(update={"reads": _describe_reads(code, asked, market)})
    if run.missing:
        return _unjudged(verdict, _not_given(run.missing))
    if isinstance(full, Failure):
        return _unjudged(verdict, f"It fails on the whole market data: {full.reason}.")
    if not full.any:
        return _unjudged(verdict, "It has no value at all on the whole market data.")
    return _judge_cuts(verdict, (code, full), (market, names), limits, lookback=lookback)


def _judge_cuts(
    verdict: FactorVerdict,
    factor: tuple[str, Panel],
    given: tuple[AuditMarket, frozenset[str]],
    limits: Limits,
    *,
    lookback: bool,
) -> Finding:
    (code, full), (market, names) = factor, given
    failures: list[str] = []
    cuts: list[Comparison] = []
    with _run_all(code, market, names, limits) as (runs, names):
        if missing := sorted({name for run in runs for name in run.missing}):
            return _unjudged(verdict, _not_given(missing))
        for run, day in zip(runs, market.cuts, strict=False):
            result = values_of(run)
            if isinstance(result, Panel):
                cuts.append(compare(full, result, day))
            # Where it has no value before the cut, it may fail for want of history.
            elif not compare(full, EMPTY, day).same:
                failures.append(f"It fails when the data ends on {_iso(day)}: {result.reason}.")
        again = values_of(runs[-1])
    again = EMPTY if isinstance(again, Failure) else again
    repeated = compare(full, again, market.days[-1])
    if repeated.excess > REPEATABLE:
        return _unjudged(
            verdict,
            f"Two runs on the same data differ in {repeated.share:.2%} of the values: nothing can be proven of it.",
        )
    worst = max(cuts, key=lambda cut: cut.share, default=None)
    if worst is not None and not worst.same:
        surely = max(cut.excess for cut in cuts) > NOISE
        if surely or not _is_rounding(code, full, worst.last_day, (market, names), limits):
            return Finding(_accused(verdict, cuts, worst), tuple(cuts))
    if failures:
        return _unjudged(verdict, failures[0])
    if lookback:
        days = measure_lookback(code, full, (market, names), limits)
        verdict = verdict.model_copy(update={"lookback_days": days})
    return Finding(verdict, tuple(map(_quiet, cuts)))


@contextmanager
def _run_all(
    code: str, market: AuditMarket, names: frozenset[str], limits: Limits
) -> Iterator[tuple[tuple[Run, ...], frozenset[str]]]:
    """The runs on the data up to each cut, and once more on the whole; and which tables they were given."""
    while True:
        trials = [*market.until(market.cuts, names), market.whole]
        with run_trials(code, trials, limits, jail=market.jail) as runs:
            # On less data it may ask for a table that it did not ask for before.
            more = market.needed_by(*runs) - names
            if not more:
                yield runs, names
                return
        names |= more


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


def _is_rounding(
    code: str,
    full: Panel,
    day: np.datetime64,
    given: tuple[AuditMarket, frozenset[str]],
    limits: Limits,
) -> bool:
    market, names = given
    with run_trials(code, [market.altered_after(day, names)], limits, jail=market.jail) as (run,):
        altered = values_of(run)
    return isinstance(altered, Panel) and compare(full, altered, day).same


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
