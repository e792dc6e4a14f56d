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

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rdagent_sota_patch.ablation.preparing import Segment
    from rdagent_sota_patch.ablation.recipe import Boosting
    from rdagent_sota_patch.ablation.walk import Window

_FEWEST_STOCKS = 5
_TOP = 0.2
_NO_SPREAD = 1e-12


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
    known = np.isfinite(label)
    scores, truth, days = scores[known], label[known].astype(np.float64), days[known]
    starts = np.flatnonzero(np.diff(days, prepend=-1))
    counts = np.diff(starts, append=len(days))
    spread = (
        np.maximum.reduceat(truth, starts) > np.minimum.reduceat(truth, starts) if len(starts) else counts > 0
    )
    told = np.repeat((counts >= _FEWEST_STOCKS) & spread, counts)
    if not told.any():
        return float("nan"), float("nan"), float("nan"), 0
    scores, truth, days = scores[told], truth[told], days[told]
    starts = np.flatnonzero(np.diff(days, prepend=-1))
    ics = _correlate(scores, truth, starts)
    rank_ics = _correlate(_rank(scores, starts), _rank(truth, starts), starts)
    return float(ics.mean()), float(rank_ics.mean()), float(_excess(scores, truth, starts).mean()), len(ics)


def _correlate(
    left: NDArray[np.float64], right: NDArray[np.float64], starts: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Correlation on each day; 0 where one does not vary. Rows of a day begin at ``starts``."""
    counts = np.diff(starts, append=len(left))
    left, right = (each - np.repeat(np.add.reduceat(each, starts) / counts, counts) for each in (left, right))
    both, ours, theirs = (np.add.reduceat(product, starts) for product in (left * right, left**2, right**2))
    size = np.sqrt(ours * theirs)
    # Rounding leaves a remainder of what does not vary.
    varies = size > _NO_SPREAD
    result: NDArray[np.float64] = np.where(varies, both / np.where(varies, size, 1), 0.0)
    return result


def _rank(values: NDArray[np.float64], starts: NDArray[np.intp]) -> NDArray[np.float64]:
    """Ranks on each day; what is equal has the mean of its ranks, which are many where trees give scores."""
    day = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(values)))
    order = np.lexsort((values, day))
    first = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)
    first = np.union1d(first, starts)
    sizes = np.diff(first, append=len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(first + (sizes - 1) / 2, sizes)
    return ranks - np.repeat(starts, np.diff(starts, append=len(values)))


def _excess(
    scores: NDArray[np.float64], truth: NDArray[np.float64], starts: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Mean label of the stocks in each day's top fifth, less the day's mean; 0 where all are equal."""
    counts = np.diff(starts, append=len(truth))
    top = _rank(scores, starts) >= np.repeat((1 - _TOP) * (counts - 1), counts)
    held = np.add.reduceat(top.astype(np.float64), starts)
    gained = np.add.reduceat(np.where(top, truth, 0.0), starts)
    mean = np.add.reduceat(truth, starts) / counts
    result: NDArray[np.float64] = np.where(held > 0, gained / np.maximum(held, 1), mean) - mean
    return result
