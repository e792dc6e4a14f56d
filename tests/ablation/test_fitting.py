"""One trial: a pure function of features, seed and window; figures as pandas and scipy have them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from rdagent_sota_patch.ablation.arrays import Arrays
from rdagent_sota_patch.ablation.fitting import Trial, measure, run_trial
from rdagent_sota_patch.ablation.preparing import prepare_window
from rdagent_sota_patch.ablation.recipe import Boosting
from rdagent_sota_patch.ablation.walk import Window
from rdagent_sota_patch.errors import SotaError
from tests.ablation.made_worlds import REAL, RECIPE, make_world

WINDOW = Window((0, 60), (62, 80), (82, 120))


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    folder = tmp_path_factory.mktemp("world")
    made = make_world(folder, 1, days=120, stocks=30)
    prepare_window(made, WINDOW, RECIPE, folder / "window")
    return made


def run(arrays: Arrays, features: tuple[str, ...], seed: int = 0) -> tuple[float, int]:
    trial = Trial("root", features, seed, WINDOW)
    params = {**RECIPE.boosting.params, "feature_fraction": 0.5}
    boosting = type(RECIPE.boosting)(params, RECIPE.boosting.rounds, RECIPE.boosting.patience)
    outcome = run_trial(trial, arrays.names, boosting, arrays.folder / "window")
    assert outcome.key == trial.key
    return outcome.ic, outcome.rounds


def test_the_same_trial_gives_the_same(arrays: Arrays) -> None:
    """To the last bit; another seed or other features give another result."""
    assert run(arrays, REAL) == run(arrays, REAL)
    assert len({run(arrays, REAL, seed)[0] for seed in range(3)}) == 3
    assert run(arrays, REAL)[0] > run(arrays, REAL[:1])[0]


def test_without_features_nothing_is_predicted(arrays: Arrays) -> None:
    """What one factor alone is held against."""
    assert run(arrays, ()) == (0.0, 0)


def test_parameters_that_lightgbm_refuses(arrays: Arrays) -> None:
    """A stranger's configuration may hold any; the error says which model it was."""
    with pytest.raises(SotaError, match="could not train on real0") as error:
        run_trial(
            Trial("root", REAL[:1], 0, WINDOW),
            arrays.names,
            Boosting({**RECIPE.boosting.params, "num_leaves": 0}),
            arrays.folder / "window",
        )
    assert error.value.slug == "training-failed"


def test_every_part_of_a_trial_is_in_its_key() -> None:
    trials = [
        Trial("root", ("a", "b"), 0, WINDOW),
        Trial("other", ("a", "b"), 0, WINDOW),
        Trial("root", ("b", "a"), 0, WINDOW),
        Trial("root", ("a", "b"), 1, WINDOW),
        Trial("root", ("a", "b"), 0, Window((0, 60), (62, 80), (82, 121))),
    ]
    assert len({trial.key for trial in trials}) == len(trials)


def test_figures_are_numpys_and_scipys() -> None:
    """With ties, a day of equal scores, a day with too few labels, and a stock without one."""
    random = np.random.default_rng(0)
    days = np.repeat(np.arange(12), 20).astype(np.int32)
    scores, label = np.round(random.normal(size=240), 1), random.normal(size=240).astype(np.float32)
    label[5] = np.nan
    label[20:37] = np.nan
    scores[40:60] = 1.5
    ics, ranks = [], []
    for day in set(range(12)) - {1}:
        rows = (days == day) & np.isfinite(label)
        ours, real = scores[rows], label[rows].astype(float)
        flat = np.ptp(ours) == 0
        ics.append(0.0 if flat else np.corrcoef(ours, real)[0, 1])
        ranks.append(0.0 if flat else spearmanr(ours, real).statistic)
    ic, rank_ic, _, count = measure(scores, label, days)
    assert count == 11
    assert ic == pytest.approx(np.mean(ics), abs=1e-12)
    assert rank_ic == pytest.approx(np.mean(ranks), abs=1e-12)


def test_the_top_fifth() -> None:
    """Of ten stocks the best two; their mean label less that of all."""
    label = np.arange(10, dtype=np.float32) / 100
    days = np.zeros(10, dtype=np.int32)
    assert measure(np.arange(10.0), label, days)[2] == pytest.approx(0.085 - 0.045)
    assert measure(np.zeros(10), label, days)[2] == 0.0


def test_no_day_can_be_judged() -> None:
    figures = measure(np.arange(4.0), np.arange(4, dtype=np.float32), np.zeros(4, dtype=np.int32))
    assert np.isnan(figures[0])
    assert figures[3] == 0
    assert measure(np.zeros(0), np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int32))[3] == 0
