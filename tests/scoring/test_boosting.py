from __future__ import annotations

import pickle
import re
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.booster import (
    count_features,
    read_importance,
    read_real_names,
    thaw_booster,
)
from rdagent_sota_patch.sessions.inert import Inert, read_inert
from rdagent_sota_patch.sessions.thaw import Unthawable

COLUMNS = ("a", "b", "c", "d")
SAMPLES = np.random.default_rng(1).normal(size=(300, 4))
TARGET = SAMPLES[:, 0] * SAMPLES[:, 2] + SAMPLES[:, 1]


def make_booster(rounds: int = 20, **parameters: object) -> lightgbm.Booster:
    options: dict[str, Any] = {"verbosity": -1, "num_leaves": 6, "num_threads": 1, **parameters}
    target = (TARGET > 0).astype(int) if parameters.get("objective") == "binary" else TARGET
    return lightgbm.train(options, lightgbm.Dataset(SAMPLES, label=target), num_boost_round=rounds)


def inert(booster: lightgbm.Booster) -> Inert:
    read: Inert = read_inert(pickle.dumps(booster))
    return read


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"objective": "binary"},
        {"linear_tree": True},
        {"boosting": "dart"},
        {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
    ],
    ids=["plain", "binary", "linear", "dart", "forest"],
)
def test_predictions_are_the_pickled_boosters_to_the_bit(parameters: dict[str, object]) -> None:
    booster = make_booster(**parameters)
    text = thaw_booster(inert(booster))
    wanted = pickle.loads(pickle.dumps(booster)).predict(SAMPLES)
    np.testing.assert_array_equal(lightgbm.Booster(model_str=text).predict(SAMPLES), wanted)


def test_rounds_after_the_best_are_cut_off() -> None:
    """As predict() would leave them out; a booster made from text has forgotten which was best."""
    booster = make_booster()
    booster.best_iteration = 7
    text = thaw_booster(inert(booster))
    made = lightgbm.Booster(model_str=text)
    assert made.num_trees() == 7
    np.testing.assert_array_equal(made.predict(SAMPLES), booster.predict(SAMPLES))


@pytest.mark.parametrize("kind", ["gain", "split"])
def test_importance_is_lightgbms(kind: str) -> None:
    booster = make_booster()
    text = thaw_booster(inert(booster))
    importance = {entry.feature: entry for entry in read_importance(text, COLUMNS)}
    wanted = lightgbm.Booster(model_str=text).feature_importance(kind)
    assert [getattr(importance[name], kind) for name in COLUMNS] == wanted.tolist()


def test_a_column_never_split_on_has_none() -> None:
    booster = make_booster(rounds=1, num_leaves=2)
    found = read_importance(thaw_booster(inert(booster)), COLUMNS)
    assert [entry.split for entry in found] == [1, 0, 0, 0]
    assert found[0].gain > 0


def test_a_split_without_gain_does_not_count() -> None:
    """As LightGBM has it, in both kinds of importance."""
    text = thaw_booster(inert(make_booster(rounds=1, num_leaves=3)))
    gains = re.search(r"^split_gain=(.*)$", text, re.MULTILINE)
    assert gains is not None
    first, second = gains[1].split()
    text = text.replace(f"split_gain={first} {second}", f"split_gain={first} 0")
    found = {entry.feature: entry for entry in read_importance(text, COLUMNS)}
    made = lightgbm.Booster(model_str=text)
    for kind in ("gain", "split"):
        assert [getattr(found[name], kind) for name in COLUMNS] == made.feature_importance(kind).tolist()
    assert sum(entry.split for entry in found.values()) == 1


def test_a_damaged_booster_is_not_given_to_lightgbm() -> None:
    """Also where rounds have to be cut off: a child that does not exist would end the process."""
    booster = make_booster(rounds=7)
    stopped = inert(booster)
    stopped.state["best_iteration"] = 3
    text = stopped.state.get("_handle", "")
    assert lightgbm.Booster(model_str=thaw_booster(stopped)).num_trees() == 3
    # As long as before, or the trees' sizes would tell.
    stopped.state["_handle"] = re.sub(r"^left_child=\d ", "left_child=9 ", text, count=1, flags=re.MULTILINE)
    assert stopped.state["_handle"] != text
    with pytest.raises(Unthawable, match="left_child leads out of it"):
        thaw_booster(stopped)


def test_the_number_of_columns_is_checked() -> None:
    text = thaw_booster(inert(make_booster(rounds=1)))
    assert count_features(text) == 4
    with pytest.raises(BundleError) as caught:
        read_importance(text, COLUMNS[:3])
    assert caught.value.slug == "model-input-mismatch"


@pytest.mark.parametrize(
    "changed", ["split_feature=9 ", "split_feature=-1 ", "split_feature=x ", "split_feature="]
)
def test_a_damaged_text_is_an_error(changed: str) -> None:
    text = thaw_booster(inert(make_booster(rounds=1)))
    with pytest.raises(BundleError) as caught:
        read_importance(
            text.replace("split_feature=", changed, 1).replace("split_gain=", "split_gain=1 ", 1)
            if changed != "split_feature="
            else text.replace("split_gain=", "split_gain=1 ", 1),
            COLUMNS,
        )
    assert caught.value.slug == "model-input-mismatch"


@pytest.mark.parametrize("value", [None, "tree\n", {"_handle": "tree\n"}, 7])
def test_what_is_no_booster_is_refused(value: object) -> None:
    with pytest.raises(Unthawable):
        thaw_booster(value)


def test_a_booster_in_another_form_is_refused() -> None:
    for key, changed in (("_handle", "forest\n"), ("best_iteration", "7"), ("pandas_categorical", [["x"]])):
        booster = inert(make_booster(rounds=1))
        booster.state[key] = changed
        with pytest.raises(Unthawable):
            thaw_booster(booster)


def test_names_that_lightgbm_made_up_are_none() -> None:
    """Qlib hands over plain arrays; only a frame's columns are names of features."""
    samples = np.random.default_rng(1).normal(size=(60, 3))
    frame = pd.DataFrame(samples, columns=["GapA", "KLEN", "a b"])
    texts = [
        lightgbm.train({"verbosity": -1}, lightgbm.Dataset(data, label=samples[:, 0]), 2).model_to_string()
        for data in (samples, frame)
    ]
    assert read_real_names(texts[0]) is None
    assert read_real_names(texts[1]) == ("GapA", "KLEN", "a_b")
