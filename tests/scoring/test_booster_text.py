"""LightGBM's text: real models pass, and text that would lead LightGBM out of its memory does not."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from rdagent_sota_patch.scoring.booster import take_sound_trees

LIGHTGBM = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 3}


def train(rounds: int = 3, **settings: Any) -> str:
    import lightgbm

    samples = np.random.default_rng(2).normal(size=(200, 4))
    target = samples[:, 0] + samples[:, 1] * samples[:, 2]
    if settings.get("objective") in {"binary", "cross_entropy"}:
        target = (target > 0).astype(float)
    if settings.get("objective") in {"poisson", "gamma", "tweedie"}:
        target = np.abs(target) + 0.1
    booster = lightgbm.train({**LIGHTGBM, **settings}, lightgbm.Dataset(samples, target), rounds)
    return str(booster.model_to_string())


@pytest.fixture(scope="module")
def text() -> str:
    return train(num_leaves=5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_leaves": 2},
        {"min_data_in_leaf": 150},
        {"boosting": "dart"},
        {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
        {"monotone_constraints": [1, 0, 0, -1]},
        *({"objective": name} for name in ("mae", "huber", "quantile", "poisson", "binary", "cross_entropy")),
    ],
    ids=str,
)
def test_real_models_pass(settings: dict[str, Any]) -> None:
    """Whatever LGBModel's arguments make LightGBM do; what is taken scores as the whole."""
    import lightgbm

    text = train(**settings)
    samples = np.random.default_rng(3).normal(size=(50, 4))
    whole, taken = (lightgbm.Booster(model_str=one) for one in (text, take_sound_trees(text)))
    assert np.array_equal(whole.predict(samples), taken.predict(samples))


def test_what_follows_the_trees_is_left_out(text: str) -> None:
    """LightGBM crashes on parameters that are none."""
    taken = take_sound_trees(text)
    assert text.startswith(taken) and taken.endswith("end of trees\n")


def replace(text: str, key: str, value: str) -> str:
    """The first line of that key, with another value of the same length if that is possible."""
    changed, times = re.subn(rf"^{key}=.*$", f"{key}={value}", text, count=1, flags=re.MULTILINE)
    assert times == 1
    return with_sizes(changed)


def with_sizes(text: str) -> str:
    """``tree_sizes`` as they have to be, so that something else is what is wrong."""
    start, end = text.index("\nTree=0\n") + 1, text.index("end of trees")
    trees = re.split(r"(?=^Tree=)", text[start:end], flags=re.MULTILINE)[1:]
    sizes = " ".join(str(len(tree)) for tree in trees)
    return re.sub(r"^tree_sizes=.*$", f"tree_sizes={sizes}", text, count=1, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("split_feature", "0 0 0 4"),
        ("split_feature", "0 -1 0 0"),
        ("split_feature", "0 0 0"),
        ("split_feature", "0 0 0 x"),
        ("split_feature", "0 0 0 99999999999999999999"),
        ("left_child", "0 -1 -2 -4"),
        ("left_child", "1 -1 -2 4"),
        ("left_child", "1 -1 -2 -6"),
        ("right_child", "2 -3 1 -5"),
        ("decision_type", "1 2 2 2"),
        ("decision_type", "2 2 2 -2"),
        ("leaf_value", "0.1 0.2"),
        ("leaf_value", ""),
        ("threshold", "0.1 0.2 0.3 0.4 0.5"),
        ("threshold", "0.1 0.2 0.T 0.4"),
        ("internal_value", "0.1 0.2 0.3 x"),
        ("shrinkage", "."),
        ("internal_count", "1"),
        ("num_leaves", "1000000"),
        ("num_leaves", "0"),
        ("num_leaves", "-3"),
        ("num_cat", "1"),
        ("is_linear", "1"),
        ("max_feature_idx", "-1"),
        ("num_class", "3"),
        ("num_tree_per_iteration", "2"),
        ("objective", "multiclass num_class:5"),
        ("objective", "none of all"),
    ],
)
def test_what_leads_out_of_a_tree_is_refused(text: str, key: str, value: str) -> None:
    """Each number that LightGBM would follow, out of its bounds."""
    with pytest.raises(ValueError, match=r"."):
        take_sound_trees(replace(text, key, value))


@pytest.mark.parametrize("sizes", ["", "1 2 3", "100000000 1 1", "-5 1 1", "x"])
def test_wrong_tree_sizes_are_refused(text: str, sizes: str) -> None:
    """LightGBM jumps by them."""
    with pytest.raises(ValueError, match=r"tree"):
        take_sound_trees(re.sub(r"^tree_sizes=.*$", f"tree_sizes={sizes}", text, flags=re.MULTILINE))


def test_another_text_is_refused(text: str) -> None:
    """No model, half a model, and a model with a line that comes twice."""
    gap = with_sizes(text.replace("num_cat=0\n", "num_cat=0\n\n"))
    twice = with_sizes(text.replace("num_cat=0\n", "num_cat=0\nnum_cat=0\n"))
    for other in ("", "tree", text[: len(text) // 3], text.replace("\n", "\r\n"), twice, gap, "\0" + text):
        with pytest.raises(ValueError, match=r"."):
            take_sound_trees(other)
