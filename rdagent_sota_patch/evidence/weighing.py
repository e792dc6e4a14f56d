"""How sure the winner is: the trials' returns put together, weighed, and said in a sentence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdagent_sota_patch.errors import Problem, SotaError
from rdagent_sota_patch.evidence.bootstrap import (
    REPETITIONS,
    BestAgainstZero,
    Paths,
    compare_best,
    resample_paths,
)
from rdagent_sota_patch.evidence.information import DailyIc, describe_ic
from rdagent_sota_patch.evidence.seed_band import SeedBand, band_to_plain
from rdagent_sota_patch.evidence.sharpe import (
    Haircut,
    Overfitting,
    SharpeError,
    cross_validate,
    effective_trials,
    expected_best,
    haircuts,
    minimum_track_record,
    probabilistic_sharpe,
    sharpe,
    sharpe_with_error,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from rdagent_sota_patch.evidence.trials import Ledger, Trial

LEAST_DAYS = 30
"""Fewer days of returns are no evidence, whatever they come to."""
CONFIDENCE = 0.95
Verdict = Literal["pass", "fail", "not judged"]


@dataclass(frozen=True, slots=True, eq=False)
class WinnerFigures:
    """The winner's figures; daily, of strategy less benchmark less cost. None: could not be computed.

    Attributes:
        sharpe: With its Newey-West error.
        psr: Probability that the true Sharpe ratio is above 0, with nothing else tried.
        dsr: That it is above what the best of the trials with returns would have without skill (deflated Sharpe ratio).
        dsr_effective: The same with the effective number of trials.
        dsr_all: The same with all trials, also those whose returns are missing.
        track_record: Days that it needs to be above 0 with 95 %.
        ic, rank_ic: Its daily IC and Rank IC.
        haircuts: The Sharpe ratio after corrections for many tests.
        paths: Equity and drawdown, resampled.
    """

    trial: Trial
    sharpe: SharpeError | None = None
    psr: float | None = None
    dsr: float | None = None
    dsr_effective: float | None = None
    dsr_all: float | None = None
    track_record: float | None = None
    ic: DailyIc | None = None
    rank_ic: DailyIc | None = None
    haircuts: tuple[Haircut, ...] = ()
    paths: Paths | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the trials say of the winner.

    Attributes:
        trials: All of them.
        ratios: Daily Sharpe ratio of each trial with returns that vary, in the order of `with_returns`.
        with_returns: Those trials.
        effective: Effective number of them; None without any.
        overfitting: CSCV; None where there are too few trials or days.
        best: Tests of the best trial; None where there are too few days.
        sentence: The verdict in words.
        problems: What is missing or makes the answer smaller.
        seeds: Winner and SOTA trained again, where that was asked for.
    """

    trials: tuple[Trial, ...]
    with_returns: tuple[Trial, ...]
    ratios: NDArray[np.float64]
    days: int
    effective: float | None
    winner: WinnerFigures | None
    overfitting: Overfitting | None
    best: BestAgainstZero | None
    verdict: Verdict
    sentence: str
    problems: tuple[Problem, ...]
    seeds: SeedBand | None = None


def weigh(ledger: Ledger) -> Evidence:
    """The evidence for a ledger's winner.

    Raises:
        SotaError: ``runs-not-comparable``: the trials were back-tested on different days or against different
            benchmarks.
    """
    problems = list(ledger.problems)
    known = [trial for trial in ledger.trials if trial.excess is not None]
    _require_comparable(known)
    varying = []
    for trial in known:
        if np.ptp(_excess(trial)) > 0:
            varying.append(trial)
        else:
            problems.append(
                Problem(
                    "returns-constant",
                    f"{trial.run}, loop {trial.loop}: all its days have the same return, so it has no Sharpe ratio.",
                )
            )
    matrix = np.column_stack([_excess(trial) for trial in varying]) if varying else np.empty((0, 0))
    days = len(matrix)
    enough = days >= LEAST_DAYS
    if varying and not enough:
        problems.append(
            Problem(
                "too-few-days",
                f"The back-tests have {days} days; with fewer than {LEAST_DAYS} nothing is said of chance.",
                "Back-test over a longer test segment.",
            )
        )
    if len(varying) == 1:
        problems.append(
            Problem(
                "single-trial",
                "One trial has returns: nothing can be said of how it was chosen (dsr, pbo).",
                "Name the logs of the runs that led to it, too.",
            )
        )
    ratios = sharpe(matrix) if varying else np.empty(0)
    effective = effective_trials(matrix) if varying else None
    winner = None
    if ledger.winner is None:
        problems.append(
            Problem("no-winner", "The run that was named last accepted nothing.", "Name another run's log.")
        )
    else:
        winner = _figures(ledger, varying, ratios, matrix, effective)
    best = compare_best(matrix) if varying and enough else None
    overfitting = cross_validate(matrix) if enough else None
    counted = all(problem.slug != "source-not-counted" for problem in ledger.problems)
    verdict = _verdict(winner, best, enough, counted)
    return Evidence(
        trials=ledger.trials,
        with_returns=tuple(varying),
        ratios=ratios,
        days=days,
        effective=effective,
        winner=winner,
        overfitting=overfitting,
        best=best,
        verdict=verdict,
        sentence=_sentence(ledger, verdict, winner, varying, ratios),
        problems=tuple(problems),
    )


def to_plain(evidence: Evidence) -> dict[str, Any]:
    """The evidence in JSON's types; docs/evidence.md says what each figure is."""
    winner, best = evidence.winner, evidence.best
    return {
        "trials": len(evidence.trials),
        "trials_with_returns": len(evidence.with_returns),
        "effective_trials": evidence.effective,
        "days": evidence.days,
        "winner": None if winner is None else _winner_to_plain(winner),
        "pbo": evidence.overfitting.probability if evidence.overfitting else None,
        "spa_p": best.spa_p if best else None,
        "reality_check_p": best.reality_check_p if best else None,
        "seed_band": band_to_plain(evidence.seeds) if evidence.seeds else None,
        "verdict": evidence.verdict,
        "sentence": evidence.sentence,
        "ledger": [
            {
                "run": trial.run,
                "loop": trial.loop,
                "kind": trial.kind,
                "status": trial.status,
                "accepted": trial.accepted,
                "name": trial.name,
                "sharpe_daily": next(
                    (
                        float(ratio)
                        for each, ratio in zip(evidence.with_returns, evidence.ratios, strict=True)
                        if each is trial
                    ),
                    None,
                ),
                "without_returns": trial.why_without_returns,
                "seed_test": dict(trial.seed_test) if trial.seed_test else None,
            }
            for trial in evidence.trials
        ],
        "problems": [
            {"slug": each.slug, "message": each.message, "hint": each.hint} for each in evidence.problems
        ],
    }


def _winner_to_plain(winner: WinnerFigures) -> dict[str, Any]:
    ratio, ic, rank_ic, paths = winner.sharpe, winner.ic, winner.rank_ic, winner.paths
    return {
        "run": winner.trial.run,
        "loop": winner.trial.loop,
        "kind": winner.trial.kind,
        "name": winner.trial.name,
        "sharpe_daily": ratio.value if ratio else None,
        "sharpe_error": ratio.error if ratio else None,
        "psr": winner.psr,
        "dsr": winner.dsr,
        "dsr_effective": winner.dsr_effective,
        "dsr_all": winner.dsr_all,
        "minimum_track_record_days": winner.track_record,
        "haircuts": [asdict(each) for each in winner.haircuts],
        "ic_mean": ic.mean if ic else None,
        "ic_t": ic.t if ic else None,
        "ic_t_newey_west": ic.t_newey_west if ic else None,
        "ic_half_life_days": ic.half_life if ic else None,
        "ic_by_year": dict(ic.by_year) if ic else None,
        "ic_by_month": dict(ic.by_month) if ic else None,
        "rank_ic_mean": rank_ic.mean if rank_ic else None,
        "rank_ic_t": rank_ic.t if rank_ic else None,
        "drawdown": paths.drawdown if paths else None,
        "drawdown_95": float(np.quantile(paths.drawdowns, 0.95)) if paths else None,
    }


def _excess(trial: Trial) -> NDArray[np.float64]:
    assert trial.excess is not None
    return trial.excess.to_numpy(dtype=np.float64)


def _require_comparable(trials: Sequence[Trial]) -> None:
    if not trials:
        return
    first = trials[0]
    for trial in trials[1:]:
        reason = _difference(first, trial)
        if reason:
            raise SotaError(
                "runs-not-comparable",
                f"The trials cannot be put together: {first.run}, loop {first.loop}, and {trial.run}, loop "
                f"{trial.loop}, {reason}.",
                "Name runs of the same test segment, market and benchmark.",
            )


def _difference(first: Trial, second: Trial) -> str | None:
    one, other = first.backtest.benchmark, second.backtest.benchmark
    assert one is not None
    assert other is not None
    if not one.index.equals(other.index):
        spans = [
            f"{each.index[0]:%Y-%m-%d}…{each.index[-1]:%Y-%m-%d} ({len(each)} days)" for each in (one, other)
        ]
        return f"were back-tested on different days: {spans[0]} and {spans[1]}"
    if not np.allclose(one.to_numpy(), other.to_numpy(), rtol=0, atol=1e-6, equal_nan=True):
        return "have different benchmarks"
    return None


def _figures(
    ledger: Ledger,
    varying: Sequence[Trial],
    ratios: NDArray[np.float64],
    matrix: NDArray[np.float64],
    effective: float | None,
) -> WinnerFigures:
    trial = ledger.winner
    assert trial is not None
    ic, rank_ic = (
        None if daily is None else describe_ic(daily) for daily in (trial.backtest.ic, trial.backtest.rank_ic)
    )
    place = next((number for number, each in enumerate(varying) if each is trial), None)
    if place is None or len(matrix) < 3:
        return WinnerFigures(trial, ic=ic, rank_ic=rank_ic)
    returns = matrix[:, place]
    deflated: dict[str, float | None] = {"dsr": None, "dsr_effective": None, "dsr_all": None}
    if len(varying) > 1 and effective is not None:
        variance = float(ratios.var(ddof=1))
        counts = {"dsr": len(varying), "dsr_effective": effective, "dsr_all": len(ledger.trials)}
        deflated = {
            name: probabilistic_sharpe(returns, expected_best(variance, count))
            for name, count in counts.items()
        }
    enough = len(returns) >= LEAST_DAYS
    return WinnerFigures(
        trial,
        sharpe=sharpe_with_error(returns),
        psr=probabilistic_sharpe(returns),
        **deflated,
        track_record=minimum_track_record(returns),
        ic=ic,
        rank_ic=rank_ic,
        haircuts=haircuts(ratios, place, len(returns)),
        paths=resample_paths(returns) if enough else None,
    )


def _verdict(
    winner: WinnerFigures | None, best: BestAgainstZero | None, enough: bool, counted: bool
) -> Verdict:
    """``pass`` only where both ways of counting the trials say so with 95 %, and no trials are known to be left out."""
    if winner is None or winner.dsr is None or winner.dsr_all is None or best is None or not enough:
        return "not judged"
    passes = min(winner.dsr, winner.dsr_all) >= CONFIDENCE and best.spa_p <= 1 - CONFIDENCE
    if passes and not counted:
        return "not judged"
    return "pass" if passes else "fail"


def _sentence(
    ledger: Ledger,
    verdict: Verdict,
    winner: WinnerFigures | None,
    varying: Sequence[Trial],
    ratios: NDArray[np.float64],
) -> str:
    count = len(ledger.trials)
    tried = f"{count} trial{'s' if count != 1 else ''}"
    if winner is None:
        return f"Of {tried} none was accepted last: there is no winner to weigh."
    place = next((number for number, each in enumerate(varying) if each is winner.trial), None)
    which = "The winner"
    if place is not None:
        better = int((ratios > ratios[place]).sum())
        which = f"The best of {tried}" if not better else f"Number {better + 1} by Sharpe ratio of {tried}"
    if winner.dsr_all is None:
        return (
            f"{which} cannot be weighed: its returns, or those of the other trials, are missing or too few."
        )
    chance = (
        f"after counting them, the chance that its Sharpe ratio is above zero is {percent(winner.dsr_all)}"
    )
    meaning = {
        "pass": "It is likely real.",
        "fail": "That it is real is not shown.",
        "not judged": "What is missing does not let it be judged.",
    }[verdict]
    return f"{which}; {chance}. {meaning}"


def percent(share: float) -> str:
    """A probability as a person reads it: never rounded to certainty."""
    rounded = round(100 * share)
    if rounded == 100:
        return "over 99 %"
    return f"{rounded} %" if rounded else "under 1 %"


def p_value(p: float) -> str:
    """A p value of `bootstrap.REPETITIONS` resamplings: none of them is not never."""
    return f"{p:.3f}" if p else f"under {1 / REPETITIONS:g}"
