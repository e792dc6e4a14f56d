"""How an unknown data loader made a model's input: each way that its configuration allows is tried on the back-test.

A wrong order of columns raises no error and gives scores that mean nothing. So where the loader's class is unknown, no
order is believed: the one that gives the back-test's own scores is taken; where none does, or several do, none is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rdagent_sota_patch.bundle.documents import TriedOrder
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.mlruns.trained import find_contradictions
from rdagent_sota_patch.scoring.replay import TORCH_LIMIT, compare_scores
from rdagent_sota_patch.scoring.scoring import score_days

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from rdagent_sota_patch.bundle.opening import Bundle
    from rdagent_sota_patch.export.market_slice import BackTest, Evidence
    from rdagent_sota_patch.mlruns.trained import TrainedModel
    from rdagent_sota_patch.scoring.scoring import Scorer

FAR = 100 * TORCH_LIMIT
"""How far off the other ways must be where scores are not equal to the last bit."""

_ORDERS = {
    "alpha_then_table": "Alpha features as configured, then the table's",
    "table_then_alpha": "the table's, then Alpha features as configured",
    "sorted": "sorted by name",
    "told_by_model": "as processors or weights name them",
}
_SHARED = {
    "first": "the first of two columns of one name",
    "last": "the last of two columns of one name",
    "replaced": "the last of two columns of one name in the first one's place",
}
_ROWS = {"left": "Alpha's", "right": "the table's", "inner": "both's", "outer": "either's"}
_ACROSS_STOCKS = frozenset({"CSZScoreNorm", "CSRankNorm", "CSZFillna"})


@dataclass(frozen=True, slots=True)
class _Trial:
    """One way that was tried.

    Attributes:
        difference: From the back-test's scores; infinite where rows or columns differ.
        limit: Up to which it is none.
        outcome: In words.
    """

    candidate: TrainedModel
    difference: float
    limit: float
    outcome: str

    @property
    def within(self) -> bool:
        return self.difference <= self.limit

    def describe(self, *, taken: bool = False) -> TriedOrder:
        arrangement = self.candidate.arrangement
        return TriedOrder(
            order=arrangement.order,
            shared=arrangement.shared if self.candidate.shares_names else None,
            join=arrangement.join,
            taken=taken,
            max_difference=self.difference if math.isfinite(self.difference) else None,
            outcome=self.outcome,
        )

    def __str__(self) -> str:
        arrangement = self.candidate.arrangement
        shared = f", {_SHARED[arrangement.shared]}" if self.candidate.shares_names else ""
        rows = (
            "" if self.candidate.table is None else f"; {_ROWS[arrangement.join]} rows ({arrangement.join})"
        )
        return f"{_ORDERS[arrangement.order]}{shared}{rows}: {self.outcome}"


def first_possible(trained: TrainedModel) -> TrainedModel:
    """The first of a model's candidates that its fitted processors and weights do not contradict.

    Raises:
        BundleError: ``input-order-unproven``: there is none.
    """
    trials = []
    for candidate in trained.candidates:
        problems = find_contradictions(candidate)
        if not problems:
            return candidate
        trials.append(_Trial(candidate, math.inf, 0.0, "; ".join(problems)))
    why = "the model's own weights and processors contradict each of them"
    if trained.shares_names:
        why += "; an input that has two columns of one name cannot be told to a bundle"
    raise _unproven(trained, trials, why)


def prove_order(
    trained: TrainedModel,
    back_test: BackTest,
    as_bundle: Callable[[TrainedModel], Bundle],
    load: Callable[[Bundle], Scorer],
) -> tuple[TrainedModel, Evidence]:
    """The one of a model's candidates that gives the back-test's scores, and a few days of what shows it.

    All are tried on a few days, and the one that is left on the whole back-test.

    Args:
        trained: Of an unknown loader.
        back_test: With every Alpha feature and factor.
        as_bundle: A bundle of a candidate; its documents and weights are enough.
        load: Makes a bundle's model ready.

    Raises:
        BundleError: ``input-order-unproven``: none gives them, or more than one does; ``trust-needed`` and what else
            `load` raises.
    """
    trials = []
    evidence = back_test.evidence()
    scorer: Scorer | None = None
    for candidate in trained.candidates:
        problems = find_contradictions(candidate)
        if problems:
            trials.append(_Trial(candidate, math.inf, 0.0, "; ".join(problems)))
            continue
        bundle = as_bundle(candidate)
        if scorer is None or candidate.kind == "other":
            scorer = load(bundle)
        trials.append(_try(candidate, bundle, scorer, evidence))
    within = [trial for trial in trials if trial.within]
    if not within:
        raise _unproven(trained, trials, "none of them gives the back-test's scores")
    taken = within[0]
    for other in trials:
        if _is_another_input(other, taken) and other.difference <= (FAR if taken.limit else 0.0):
            raise _unproven(trained, trials, "more than one of them gives the back-test's scores")
    if len(within) > 1 and _sees_other_rows(taken.candidate):
        raise _unproven(
            trained,
            trials,
            "the back-test does not show whose rows were kept, on which this model's scores depend",
        )
    bundle = as_bundle(taken.candidate)
    scorer = load(bundle)
    for piece in back_test.pieces():
        whole = _try(taken.candidate, bundle, scorer, piece)
        if not whole.within:
            worse = [whole if trial is taken else trial for trial in trials]
            raise _unproven(trained, worse, "none of them gives the back-test's scores on all of its days")
    tried = tuple(trial.describe(taken=trial is taken) for trial in trials)
    return replace(taken.candidate, tried=tried), evidence


def _try(candidate: TrainedModel, bundle: Bundle, scorer: Scorer, evidence: Evidence) -> _Trial:
    _, meta = bundle.model
    shipped = evidence.shipped
    scored: pd.Series = score_days(bundle, scorer, evidence.input_of(candidate), list(evidence.compared))
    compared = compare_scores(scored, shipped, meta)
    added = len(scored.index.difference(shipped.index))
    missing = len(shipped.index.difference(scored.index))
    if added or missing:
        outcome = f"{added} rows that were not scored, and {missing} too few"
    elif compared.max_difference == 0.0:
        outcome = "every score exactly"
    else:
        outcome = f"largest difference {compared.max_difference:.3g}"
    return _Trial(candidate, compared.max_difference, compared.limit, outcome)


def _is_another_input(trial: _Trial, taken: _Trial) -> bool:
    """Whether two ways mean other columns; rows that are the same on all days are no such difference."""
    ours, theirs = trial.candidate, taken.candidate
    return (ours.columns, ours.mined) != (theirs.columns, theirs.mined)


def _sees_other_rows(candidate: TrainedModel) -> bool:
    """Whether a stock's score depends on which others have rows, or on which days it has one."""
    return candidate.step_len is not None or any(
        processor.name in _ACROSS_STOCKS for processor in candidate.processors
    )


def _unproven(trained: TrainedModel, trials: Sequence[_Trial], why: str) -> BundleError:
    tried = "\n".join(f"    {trial}" for trial in trials)
    return BundleError(
        "input-order-unproven",
        f"{trained.recorder.folder}: how {trained.unknown_loader} made the model's input cannot be told: {why}. Tried "
        f"were:\n{tried}",
        "If Qlib's data changed since the training, name the data of then with --qlib-dir. --factors-only exports the "
        "factors alone.",
    )
