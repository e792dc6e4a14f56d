"""One day's scores from market data: what live selection asks for. Back-test data is not looked at."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rdagent_sota_patch.bundle.documents import NOT_AUDITED
from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.lookahead.verdicts import not_judged
from rdagent_sota_patch.sandbox.limits import Limits
from rdagent_sota_patch.scoring.features import compute_features, drops_incomplete_rows
from rdagent_sota_patch.scoring.market_days import Trades, members_on, open_market, read_memberships
from rdagent_sota_patch.scoring.mined import cut_histories, find_missing_data, list_mined
from rdagent_sota_patch.scoring.requested_day import (
    cover,
    end_of_backtest,
    find_days,
    find_incomplete,
    find_left_out,
    find_partial,
    look_at_stocks,
)
from rdagent_sota_patch.scoring.scoring import load_scorer, score_days

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.scoring.market_days import MarketFiles
    from rdagent_sota_patch.scoring.mined import MinedFactor, Report

_OWN_COLUMNS = ("instrument", "score", "rank", "date", "name", "industry")
"""Of a written list; the last three where several days or a file of names were asked for."""
_SHOWN = 5
"""Of the written result."""


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What to predict, and how.

    Attributes:
        day: The trading day whose data the scores are made of.
        top: How many of the best stocks to give; None for all.
        explain: Whether to give the raw feature values, too.
        allow_lookahead: Whether to go on with factors that see the future, or that could not be judged.
        trust: Whether the bundle's own code may run and its weights be unpickled in this process.
        limits: For each factor's code.
        jobs: Factors at a time, and Qlib's processes.
    """

    day: date
    top: int | None = None
    explain: bool = False
    allow_lookahead: bool = False
    trust: bool = False
    limits: Limits = field(default_factory=Limits)
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """One day's scores.

    Attributes:
        day: The day predicted.
        scores: Index instrument, columns score and rank (1 is best), best first; all stocks that were scored.
        features: Raw feature values of these stocks, likewise ordered; columns in the model's input order.
        top: How many of the best `frame` gives; None for all.
        explain: Whether `frame` gives the feature values, too.
        left_out: Stocks of the market that were not scored, with the reason.
        incomplete: Stocks that were scored and lack some features, which the model's processors fill as in its
            back-test, with the names of these.
        coverage: Feature to the share of the market's stocks that have a value of it, 0 to 1.
        notices: What a user of the scores should know.
        alpha_by_qlib: The Alpha features that Qlib computed; the others were computed on arrays of all stocks.
        seconds: ``factors`` and ``alpha``: spent on the factors' code and on Alpha features; ``all``.
    """

    day: pd.Timestamp
    scores: pd.DataFrame
    features: pd.DataFrame
    top: int | None
    explain: bool
    left_out: Mapping[str, str]
    incomplete: Mapping[str, tuple[str, ...]]
    coverage: Mapping[str, float]
    notices: tuple[Problem, ...]
    alpha_by_qlib: tuple[str, ...]
    seconds: Mapping[str, float]

    @property
    def frame(self) -> pd.DataFrame:
        """The result as it is written: columns instrument, score, rank, and the features if wanted; best first.

        A feature that is called as a column of a list is ``feature_`` and its name.
        """
        whole = self.scores
        if self.explain:
            whole = whole.join(self.features.set_axis(_column_names(list(self.features.columns)), axis=1))
        best = whole.head(len(whole) if self.top is None else self.top)
        frame: pd.DataFrame = best.rename_axis("instrument").reset_index()
        return frame


def _column_names(features: Sequence[str]) -> list[str]:
    """Features under names that no other column has."""
    taken = {*_OWN_COLUMNS, *features}
    names = []
    for feature in features:
        name = feature
        if name in _OWN_COLUMNS:
            while name in taken:
                name = f"feature_{name}"
            taken.add(name)
        names.append(name)
    return names


def predict_day(bundle: Bundle, market: MarketFiles, options: PredictOptions, report: Report) -> Prediction:
    """Score the stocks of the model's market on one day.

    A day inside the model's back-test is computed as it was there, from the whole history before it; a later one
    from as much history as the factors need. Nothing after the day is looked at.

    Raises:
        BundleError: Before anything is run, all of: ``factor-not-causal``, ``factor-not-judged``,
            ``factor-file-missing``, ``market-data-too-short``, ``not-a-trading-day``, ``no-history``,
            ``market-data-mismatch``; then what `load_scorer` and `compute_features` raise; ``nothing-to-score``.
    """
    began = time.perf_counter()
    factors = list_mined(bundle)
    unproven = [problem for factor in factors if (problem := find_unproven(factor)) is not None]
    day = pd.Timestamp(options.day)
    backtested = day <= end_of_backtest(bundle)
    _, meta = bundle.model
    trades = Trades(
        market.qlib_dir, lambda: members_on(read_memberships(market.qlib_dir, meta.instruments), day), day
    )
    with open_market(market, factors) as table:
        days, problems = find_days(bundle, market, table, factors, day, trades=trades, whole=backtested)
        found = () if table is None else table.find_notices()
        problems += [] if table is None else find_missing_data(factors, table, day)
        if not options.allow_lookahead:
            problems = [*unproven, *problems]
        if problems:
            raise BundleError.of(problems)
        if backtested:
            factors = tuple(replace(factor, lookback=None) for factor in factors)
        report("market", 0, 1)
        with ThreadPoolExecutor(1, "model") as pool:  # The market is cut by a process of its own meanwhile.
            loading = pool.submit(load_scorer, bundle, trust=options.trust, limits=options.limits)
            histories = None if table is None else cut_histories(factors, table, days)
            members, disagreeing = look_at_stocks(trades, table, histories, day)
            partial = find_partial(trades, table, day)
            scorer = loading.result()
        report("market", 1, 1)
        computed = compute_features(
            bundle,
            market,
            {} if histories is None else histories.files,
            days,
            as_trained=backtested,
            limits=options.limits,
            jobs=options.jobs,
            report=report,
            trust=options.trust,
        )
    report("scores", 0, 1)
    scored = _on(score_days(bundle, scorer, computed.frame, [day]), day)
    report("scores", 1, 1)
    today, mined = _on(computed.frame, day), _on(computed.mined, day)
    no_data = find_left_out(members, today, mined, complete_rows=drops_incomplete_rows(bundle))
    left_out = {
        **{name: "the model's processors drop it" for name in members if name not in scored.index},
        **{str(name): "the model gives no number" for name in scored.index[scored.isna()]},
        **no_data,
        **disagreeing,
    }
    kept = [name for name in members if name not in left_out]
    if not kept:
        raise BundleError(
            "nothing-to-score",
            f"No stock of the model's market has the data that it needs on {day:%Y-%m-%d}.",
            "Check that daily_pv.h5 and Qlib's data are of the same market and reach that day.",
        )
    scores = rank_scores(scored.loc[kept])
    return Prediction(
        day=day,
        scores=scores,
        features=today.loc[scores.index],
        top=options.top,
        explain=options.explain,
        left_out=dict(sorted(left_out.items())),
        incomplete=find_incomplete(today.loc[scores.index]),
        coverage=cover(members, today, mined),
        notices=(
            *partial,
            *_audit_notices(bundle, factors),
            *unproven,
            *found,
            *_filled_notices([name for name in no_data if name in scored.index and scored.notna()[name]]),
        ),
        alpha_by_qlib=computed.alpha_by_qlib,
        seconds={
            "factors": computed.factor_seconds,
            "alpha": computed.alpha_seconds,
            "all": time.perf_counter() - began,
        },
    )


def rank_scores(scores: pd.Series) -> pd.DataFrame:
    """Scores with their ranks, best first; equal scores in the order of their names.

    Args:
        scores: Index instrument.

    Returns:
        Index instrument, columns score and rank, which counts from 1.
    """
    ordered = scores.sort_index().sort_values(ascending=False, kind="stable")
    ranks = np.arange(1, len(ordered) + 1, dtype=np.int64)
    ranked: pd.DataFrame = pd.DataFrame({"score": ordered, "rank": ranks}, index=ordered.index)
    return ranked


def find_unproven(factor: MinedFactor) -> Problem | None:
    """Why a factor's values of a new day are not what its back-test had; None where nothing is known against it."""
    if factor.verdict is None or factor.verdict.causal:
        return None
    if factor.verdict.causal is None:
        problem = not_judged(factor.name, factor.verdict)
        return replace(problem, hint=f"{problem.hint} Or --allow-lookahead, to score with it as it is.")
    return Problem(
        "factor-not-causal",
        f"{factor.name} sees the future: its audit found values that change once later days are known. The back-test's "
        "results cannot be had with it.",
        "Leave it out and train again; or --allow-lookahead, to score with values that the back-test did not have.",
    )


def _audit_notices(bundle: Bundle, factors: Sequence[MinedFactor]) -> list[Problem]:
    unknown = [factor.name for factor in factors if factor.verdict is None]
    if not unknown:
        return []
    which = (
        "The factors were"
        if bundle.manifest.audit == NOT_AUDITED
        else f"{', '.join(unknown)}: factors that were"
    )
    return [
        Problem(
            "factors-not-audited",
            f"{which} never audited for values that see the future.",
            "rdagent-sota audit, or export with --data.",
        )
    ]


def _filled_notices(names: Sequence[str]) -> list[Problem]:
    """Of stocks that lack all mined factors, or all Alpha features, and have a score of the model all the same."""
    if not names:
        return []
    shown = ", ".join(names[:_SHOWN]) + (" and more" if len(names) > _SHOWN else "")
    which = "A stock is" if len(names) == 1 else f"{len(names)} stocks are"
    return [
        Problem(
            "back-test-scores-more",
            f"{which} left out that a back-test of this model scores: {shown}. There, the "
            "model's processors fill what is missing.",
            "An index among the stocks (`market: all` with the benchmark in it) is rightly left out; for a stock, "
            "bring daily_pv.h5 and Qlib's data up to the same market.",
        )
    ]


def _on(values: Any, day: pd.Timestamp) -> Any:
    """The rows of one day, by instrument."""
    return values[values.index.get_level_values("datetime") == day].droplevel("datetime")
