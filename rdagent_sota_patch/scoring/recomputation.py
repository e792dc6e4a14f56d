"""A bundle's whole back-test computed again from market data, factor code included, against its own predictions."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.scoring.features import compute_features
from rdagent_sota_patch.scoring.market_days import Trades, find_day_problems, open_market, read_calendar
from rdagent_sota_patch.scoring.mined import find_missing_data, list_mined
from rdagent_sota_patch.scoring.replay import Replayed, compare_scores, read_shipped_scores
from rdagent_sota_patch.scoring.requested_day import find_gaps, find_rows_of_one
from rdagent_sota_patch.scoring.scoring import load_scorer, score_days

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.errors import Problem
    from rdagent_sota_patch.scoring.market_days import MarketFiles
    from rdagent_sota_patch.scoring.mined import Report


@dataclass(frozen=True, slots=True)
class RecomputeOptions:
    """How to compute a back-test again.

    Attributes:
        trust: Whether the bundle's own code may run and its weights be unpickled in this process.
        limits: For each factor's code.
        jobs: Factors at a time, and Qlib's processes.
    """

    trust: bool = False
    limits: Limits = field(default_factory=Limits)
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)


def recompute(
    bundle: Bundle,
    market: MarketFiles,
    report: Report,
    options: RecomputeOptions | None = None,
    tell: Callable[[Problem], None] = lambda _: None,
) -> Replayed:
    """Compute all predictions of the back-test again and compare them with those that the bundle brings.

    Factor code runs on the whole data folder, as RD-Agent ran it, and Alpha features from the day on which the
    training's data began. So the data must be what RD-Agent had, or the same brought up to date.

    Args:
        bundle: With its predictions.
        market: What the factors' code and Qlib read.
        report: Told how far it is.
        options: How.
        tell: Told what is odd about the files of the data folder.

    Raises:
        BundleError: ``no-replay`` for a bundle without predictions, ``market-data-too-short``,
            ``factor-file-missing``, ``market-data-mismatch`` and what `find_day_problems` finds besides; what
            `load_scorer`, `compute_features` and `compare_scores` raise.
    """
    _, meta = bundle.model
    shipped = read_shipped_scores(bundle)
    days = pd.DatetimeIndex(shipped.index.get_level_values("datetime").unique()).sort_values()
    # The back-test may have been made on just these rows: its scores decide.
    stocks = shipped.index.get_level_values("instrument").unique()
    return compare_scores(
        score_range(bundle, market, Range(days, stocks), report=report, options=options, tell=tell),
        shipped,
        meta,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Range:
    """What to score.

    Attributes:
        days: Trading days, in order.
        stocks: Those whose rows are looked at for what is odd.
    """

    days: pd.DatetimeIndex
    stocks: pd.Index | tuple[str, ...]


def score_range(
    bundle: Bundle,
    market: MarketFiles,
    wanted: Range,
    *,
    report: Report,
    options: RecomputeOptions | None = None,
    tell: Callable[[Problem], None] = lambda _: None,
) -> pd.Series:
    """The scores of many days, computed as a back-test computes them: factor code runs once, on all of the data.

    Args:
        bundle: With a model.
        market: What the factors' code and Qlib read.
        wanted: The days.
        report: Told how far it is.
        options: How.
        tell: Told what is odd about the files of the data folder.

    Returns:
        Index (datetime, instrument); what `score_days` gives.

    Raises:
        BundleError: As `recompute`, but for predictions.
    """
    chosen, days = options or RecomputeOptions(), wanted.days
    _, meta = bundle.model
    factors = list_mined(bundle)
    calendar = read_calendar(market.qlib_dir)
    steps = meta.step_len or 1
    with open_market(market, factors) as table:
        problems = []
        for day, needed in ((days[0], steps), (days[-1], 1)):
            problems += find_day_problems(
                day,
                calendar,
                market.qlib_dir,
                needed=needed,
                need_of=f"the model, which looks at {steps} days,",
            )
            if table is not None:
                problems += find_day_problems(
                    day, table.days, table.data, needed=needed, need_of="the model", calendar=calendar
                )
        if table is not None:
            problems += find_missing_data(factors, table, days[-1])
        if table is not None and not problems:
            problems += find_gaps(table, calendar, table.days[table.days < days[-1]], days[-1])
        if problems:
            raise BundleError.of(problems)
        if table is not None:
            for notice in (
                *table.find_notices(),
                *find_rows_of_one(
                    table, Trades(market.qlib_dir, lambda: wanted.stocks, days[-1]), 0, days[-1]
                ),
            ):
                tell(notice)
        first = int(calendar.searchsorted(days[0])) - steps + 1
        scorer = load_scorer(bundle, trust=chosen.trust, limits=chosen.limits)
        computed = compute_features(
            bundle,
            market,
            {} if table is None else dict.fromkeys(factors, table.as_one()),
            calendar[first : int(calendar.searchsorted(days[-1])) + 1],
            as_trained=True,
            limits=chosen.limits,
            jobs=chosen.jobs,
            report=report,
            trust=chosen.trust,
        )
    report("scores", 0, 1)
    scored = score_days(bundle, scorer, computed.frame, list(days))
    report("scores", 1, 1)
    return scored
