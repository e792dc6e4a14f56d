"""One trial: a model on some of the features, a seed and a window in; how well it predicts out."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdagent_sota_patch.ablation.preparing import load_segment
from rdagent_sota_patch.errors import SotaError
from rdagent_sota_patch.factor_table.metrics import OrderedDays, correlate_days

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rdagent_sota_patch.ablation.preparing import Segment
    from rdagent_sota_patch.ablation.recipe import Boosting
    from rdagent_sota_patch.ablation.walk import Window

_FEWEST_STOCKS = 5
_TOP = 0.2


@dataclass(frozen=True, slots=True)
class Trial:
    """What decides an outcome, all of it.

    Attributes:
        root: Hash of features, label and recipe.
        features: Names, in the model's order.
        seed: LightGBM's; 0 is to give none, as the run did.
        window: With its days.
    """

    root: str
    features: tuple[str, ...]
    seed: int
    window: Window

    @property
    def key(self) -> str:
        """Hash of the trial: the name of its outcome."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial gave.

    Attributes:
        ic, rank_ic: Means over the test's days of the correlation of scores and raw labels across stocks.
        top_excess: Mean label of the top fifth by score, less that of all stocks, a day.
        days: With an IC.
        rounds: Trees of the model.
        seconds: Of the processor.
    """

    key: str
    ic: float
    rank_ic: float
    top_excess: float
    days: int
    rounds: int
    seconds: float


def run_trial(trial: Trial, names: tuple[str, ...], boosting: Boosting, folder: Path) -> Outcome:
    """Train and test a model.

    Args:
        trial: What to do.
        names: The features that the window's arrays have.
        boosting: How to train.
        folder: The prepared window; see `prepare_window`.
    """
    start = time.process_time()
    test = load_segment(folder, "test")
    scores, rounds = np.zeros(len(test.y)), 0
    if trial.features:
        scores, rounds = fit_and_score(trial, names, boosting, folder, test)
    figures = measure(scores, test.y, test.days)
    return Outcome(trial.key, *figures, rounds, time.process_time() - start)


def fit_and_score(
    trial: Trial, names: tuple[str, ...], boosting: Boosting, folder: Path, test: Segment
) -> tuple[NDArray[np.float64], int]:
    """Scores of the test's rows, and the number of trees.

    As ``qlib/contrib/model/gbdt.py`` fits; on one thread, so that sums are made in one order everywhere.

    Raises:
        SotaError: ``training-failed``.
    """
    import lightgbm

    columns = [names.index(name) for name in trial.features]
    params = {**boosting.params, "num_threads": 1, "deterministic": True}
    if trial.seed:
        params["seed"] = trial.seed
    made: list[Any] = []
    try:
        for part in ("train", "valid"):
            segment = load_segment(folder, part)
            reference = made[0] if made else None
            made.append(
                lightgbm.Dataset(segment.x[columns].T, label=segment.y, reference=reference, params=params)
            )
        model = lightgbm.train(
            params,
            made[0],
            num_boost_round=boosting.rounds,
            valid_sets=[made[1]],
            callbacks=[lightgbm.early_stopping(boosting.patience, verbose=False)],
        )
        scores = np.asarray(model.predict(test.x[columns].T, num_threads=1))
    except lightgbm.basic.LightGBMError as error:
        raise SotaError(
            "training-failed",
            f"LightGBM could not train on {', '.join(trial.features)}: {error}",
            "Its parameters are the run's. See whether the LightGBM that is installed is the one that trained.",
        ) from error
    return scores, int(model.best_iteration or model.current_iteration())


def measure(
    scores: NDArray[np.float64], label: NDArray[np.float32], days: NDArray[np.int32]
) -> tuple[float, float, float, int]:
    """Mean IC, mean Rank IC, mean excess of the top fifth, and the number of days.

    A model that gives all stocks of a day one score has an IC of 0 there. Days without five stocks that have a label,
    or whose labels are all equal, are left out.
    """
    predicted, truth = _by_day(scores, label, days)
    has_label = ~np.isnan(truth)
    counts = has_label.sum(axis=1)
    varies = np.fmax.reduce(truth, axis=1, initial=-np.inf) > np.fmin.reduce(truth, axis=1, initial=np.inf)
    told = (counts >= _FEWEST_STOCKS) & varies
    if not told.any():
        return float("nan"), float("nan"), float("nan"), 0
    predicted, truth, has_label, counts = (each[told] for each in (predicted, truth, has_label, counts))
    ranks = OrderedDays(predicted).rank(has_label)
    ics = _correlate(predicted, truth)
    rank_ics = _correlate(ranks, OrderedDays(truth).rank(has_label))
    top = ranks - 1 >= (1 - _TOP) * (counts[:, None] - 1)
    held, mean = top.sum(axis=1), np.nanmean(truth, axis=1)
    gained = np.where(top, truth, 0.0).sum(axis=1) / np.maximum(held, 1)
    # Where all scores are equal there is no top.
    excess = np.where(held > 0, gained - mean, 0.0)
    return float(ics.mean()), float(rank_ics.mean()), float(excess.mean()), len(ics)


def _by_day(
    scores: NDArray[np.float64], label: NDArray[np.float32], days: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores and labels of rows that have a label, shape (days, most stocks of a day); NaN beyond a day's stocks."""
    known = np.isfinite(label)
    scores, label, days = scores[known], label[known], days[known]
    starts = np.flatnonzero(np.diff(days, prepend=-1))
    counts = np.diff(starts, append=len(days))
    day = np.repeat(np.arange(len(starts)), counts)
    place = np.arange(len(days)) - np.repeat(starts, counts)
    predicted, truth = (np.full((len(starts), counts.max(initial=0)), np.nan) for _ in range(2))
    predicted[day, place], truth[day, place] = scores, label
    return predicted, truth


def _correlate(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation on each day; 0 where one does not vary."""
    return np.nan_to_num(correlate_days(left, right, _FEWEST_STOCKS))
