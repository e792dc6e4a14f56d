"""Open a bundle's sealed days: score them, have Qlib trade on the scores as the run did, and write it down."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rdagent_sota_patch.bundle.documents import MANIFEST_NAME
from rdagent_sota_patch.errors import BundleError, Problem
from rdagent_sota_patch.scoring.days_backtest import Figures, back_test, read_portfolio
from rdagent_sota_patch.scoring.market_days import members_on, read_calendar, read_memberships
from rdagent_sota_patch.scoring.mined import list_mined
from rdagent_sota_patch.scoring.prediction import find_unproven
from rdagent_sota_patch.scoring.recomputation import Range, RecomputeOptions, score_range
from rdagent_sota_patch.sealing.opening_ledger import (
    Opening,
    add_opening,
    count_openings,
    default_ledger,
    read_openings,
)
from rdagent_sota_patch.sealing.seal_record import SEAL_NAME

if TYPE_CHECKING:
    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.scoring.market_days import MarketFiles
    from rdagent_sota_patch.scoring.mined import Report

_LEAST_DAYS = 2
_UNPROVEN_HINT = (
    "Leave it out and train again under the seal; or, where it was not judged, audit again and export."
)
_NAMES = {
    "annualized_return": "1day.excess_return_with_cost.annualized_return",
    "information_ratio": "1day.excess_return_with_cost.information_ratio",
    "max_drawdown": "1day.excess_return_with_cost.max_drawdown",
    "ic": "IC",
    "icir": "ICIR",
    "rank_ic": "Rank IC",
    "rank_icir": "Rank ICIR",
}
"""Ours, and RD-Agent's metrics'."""


@dataclass(frozen=True, slots=True)
class UnsealOptions:
    """How to open sealed days.

    Attributes:
        ledger: Where it is written down.
        scoring: How factor and model code is run.
    """

    ledger: Path = field(default_factory=default_ledger)
    scoring: RecomputeOptions = field(default_factory=RecomputeOptions)


@dataclass(frozen=True, slots=True, eq=False)
class Unsealed:
    """What the sealed days say.

    Attributes:
        opening: As the ledger has it.
        figures: On the sealed days.
        report: Qlib's, by day.
        before: How often these days were opened before, with this very bundle and with any.
        notices: What makes the answer smaller.
    """

    opening: Opening
    figures: Figures
    report: pd.DataFrame
    before: tuple[int, int]
    notices: tuple[Problem, ...]

    def to_plain(self) -> dict[str, Any]:
        """In JSON's types."""
        return {
            **self.opening.model_dump(),
            "opened_before": {"bundle": self.before[0], "days": self.before[1]},
            "problems": [
                {"slug": each.slug, "message": each.message, "hint": each.hint} for each in self.notices
            ],
        }


def unseal(bundle: Bundle, market: MarketFiles, options: UnsealOptions, report: Report) -> Unsealed:
    """Score the days that the bundle's run was sealed from, and trade on them; nothing is told before it is recorded.

    Factor code runs on all of the data at once, as RD-Agent ran it. So a factor that sees the future would profit: one
    that is known to, or could not be judged, is refused.

    Args:
        bundle: Of a sealed run.
        market: Data that go beyond the seal.
        options: How.
        report: Told how far it is.

    Raises:
        BundleError: ``bundle-not-sealed``, ``sealed-days-missing``, ``factor-not-causal``, ``factor-not-judged``,
            ``backtest-unknown``, ``backtest-failed``, and what `score_range` raises.
        SotaError: ``ledger-unreadable``, ``cannot-write``.
    """
    sealed_from, metrics = read_bundle_seal(bundle)
    # Before hours of scoring; it is read again when the opening is added.
    read_openings(options.ledger)
    _, meta = bundle.model
    portfolio = read_portfolio(bundle)
    factors = list_mined(bundle)
    if unproven := [problem for factor in factors if (problem := find_unproven(factor)) is not None]:
        raise BundleError.of([replace(problem, hint=_UNPROVEN_HINT) for problem in unproven])
    days = _sealed_days(market, sealed_from)
    stocks = members_on(read_memberships(market.qlib_dir, meta.instruments), days[-1])
    notices: list[Problem] = []
    if unknown := [factor.name for factor in factors if factor.verdict is None]:
        notices.append(
            Problem(
                "factors-not-audited",
                f"{', '.join(unknown)}: never audited for values that see the future, from which these figures would "
                "profit as well.",
                "rdagent-sota audit, or export with --data.",
            )
        )
    scores = score_range(
        bundle, market, Range(days, stocks), report=report, options=options.scoring, tell=notices.append
    )
    scores = scores[scores.index.get_level_values("datetime").isin(days)]
    figures, by_day = back_test(bundle, portfolio, scores, market.qlib_dir, days)
    opening = Opening(
        opened_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        bundle=str(bundle.folder.resolve()),
        manifest_sha256=hashlib.sha256((bundle.folder / MANIFEST_NAME).read_bytes()).hexdigest(),
        task_id=bundle.manifest.task_id,
        loop=bundle.manifest.loop,
        sealed_from=str(sealed_from),
        first_day=f"{days[0]:%Y-%m-%d}",
        last_day=f"{days[-1]:%Y-%m-%d}",
        days=len(days),
        market=meta.instruments,
        benchmark=str(portfolio.backtest.get("benchmark")),
        figures=figures.to_plain(),
        backtest={ours: metrics[theirs] for ours, theirs in _NAMES.items() if theirs in metrics},
    )
    before = count_openings(add_opening(options.ledger, opening), opening)
    if before[1]:
        notices.insert(0, _not_the_first(before, options.ledger))
    return Unsealed(opening, figures, by_day, before, tuple(notices))


def read_bundle_seal(bundle: Bundle) -> tuple[date, dict[str, float]]:
    """The first day that a bundle's run did not see, and the metrics of its back-test.

    Raises:
        BundleError: ``bundle-not-sealed``.
    """
    if SEAL_NAME not in bundle.manifest.files:
        raise BundleError(
            "bundle-not-sealed",
            f"{bundle.folder} is of a run without a seal: no days were kept from it.",
            "Run both stages with SOTA_SEAL_FROM, and export again.",
        )
    try:
        held = json.loads(bundle.read(SEAL_NAME))
        day = date.fromisoformat(held["sealed_from"])
        metrics = {str(name): float(value) for name, value in held["metrics"].items() if value is not None}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(
            "bundle-altered",
            f"{bundle.folder / SEAL_NAME} does not say from which day on the run was sealed ({error}).",
            "Export the run again.",
        ) from error
    return day, metrics


def _sealed_days(market: MarketFiles, sealed_from: date) -> pd.DatetimeIndex:
    """The trading days to score; Qlib's executor looks one past the last."""
    calendar = read_calendar(market.qlib_dir)
    days: pd.DatetimeIndex = calendar[calendar >= pd.Timestamp(sealed_from)][:-1]
    if len(days) < _LEAST_DAYS:
        raise BundleError(
            "sealed-days-missing",
            f"Qlib's data in {market.qlib_dir} end on {calendar[-1]:%Y-%m-%d}: of the days from {sealed_from} on, "
            f"fewer than {_LEAST_DAYS} can be traded (one more is needed behind the last). Nothing was opened.",
            "Name data that go further: --qlib-dir and --data.",
        )
    return days


def _not_the_first(before: tuple[int, int], ledger: Path) -> Problem:
    own, all_of_them = before
    return Problem(
        "seal-opened-before",
        f"NOT THE FIRST OPENING: days among these were opened {all_of_them} "
        f"{'time' if all_of_them == 1 else 'times'} before, {own} of them with this very bundle ({ledger}). What was "
        "chosen after a look at them is not proven by them.",
        "Take the first opening's figures as the proof, and days that are still sealed for the next one.",
    )
