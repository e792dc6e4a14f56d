"""LightGBM's text format: taken from a pickled booster without running it, and what it says about features.

``lightgbm.Booster`` pickles itself as this text, with every number in full, so that a booster made from it
predicts to the last bit what the pickled one does.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from rdagent_sota_patch.bundle.documents import Importance
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.booster_text import take_sound_trees
from rdagent_sota_patch.sessions.inert import Inert
from rdagent_sota_patch.sessions.thaw import Unthawable, describe

if TYPE_CHECKING:
    from collections.abc import Iterator

_BOOSTER = ("lightgbm.basic", "Booster")
_LAST_FEATURE = re.compile(r"^max_feature_idx=([0-9]{1,6})$", re.MULTILINE)
_PER_ROUND = re.compile(r"^num_tree_per_iteration=([0-9]{1,6})$", re.MULTILINE)
_NAMES = re.compile(r"^feature_names=(.*)$", re.MULTILINE)
_MADE_UP = re.compile(r"Column_[0-9]+|feature_[0-9]+|f[0-9]+|[0-9]+")
_TREE = re.compile(r"^Tree=[0-9]+$", re.MULTILINE)


def thaw_booster(booster: object, *, whole: bool = True) -> str:
    """The text of a pickled booster, as many rounds of it as the booster itself would use to predict.

    Args:
        booster: Inert.
        whole: Off, rounds that it would not use may still be in it.

    Raises:
        Unthawable: It is no booster, or one of an unknown form.
        BundleError: ``live-extra-missing``: rounds must be cut off, which needs LightGBM.
    """
    state = booster.attributes if isinstance(booster, Inert) and booster.origin == _BOOSTER else {}
    # LightGBM before 4 wrote ``handle``.
    text = state.get("_handle", state.get("handle"))
    best = state.get("best_iteration", 0)
    if type(text) is not str or not text.startswith("tree\n") or type(best) is not int:
        raise Unthawable(f"a booster in an unknown form: {describe(booster)}")
    if state.get("pandas_categorical") is not None:
        raise Unthawable("a booster with categories of pandas, which Qlib never makes")
    per_round = _PER_ROUND.search(text)
    if per_round is None or _LAST_FEATURE.search(text) is None:
        raise Unthawable("a booster whose text lacks its head")
    rounds = len(_TREE.findall(text)) // max(int(per_round[1]), 1)
    # After early stopping, predict() uses the best rounds alone; Qlib's boosters hold no others.
    return _cut_off(text, best) if whole and 0 < best < rounds else text


def count_features(text: str) -> int:
    """The number of input columns that a booster was trained on.

    Raises:
        BundleError: ``model-input-mismatch`` for a text that does not say.
    """
    found = _LAST_FEATURE.search(text)
    if found is None:
        raise BundleError(
            "model-input-mismatch",
            "The model's text does not say how many columns it was trained on (max_feature_idx).",
            "It is not a whole LightGBM model; export the run again.",
        )
    return int(found[1]) + 1


def read_real_names(text: str) -> tuple[str, ...] | None:
    """The names of a booster's input columns; None where LightGBM made them up, as it does for Qlib's ``LGBModel``."""
    found = _NAMES.search(text)
    names = tuple(found[1].split(" ")) if found is not None else ()
    return None if not names or all(map(_MADE_UP.fullmatch, names)) else names


def read_importance(text: str, columns: tuple[str, ...]) -> tuple[Importance, ...]:
    """Gain and splits of every input column, largest gain first.

    As ``Booster.feature_importance`` counts them: splits with a positive gain. The text has gains with six
    digits; a booster made from it knows no more.

    Args:
        text: LightGBM's text format.
        columns: The input's columns in the order of training.

    Raises:
        BundleError: ``model-input-mismatch``: there are not as many columns, or the text is damaged.
    """
    if count_features(text) != len(columns):
        raise BundleError(
            "model-input-mismatch",
            f"The model was trained on {count_features(text)} columns, not on {len(columns)}.",
            "Weights, task and factor table are not of one experiment; restore the workspace.",
        )
    gains, splits = [0.0] * len(columns), [0] * len(columns)
    try:
        for feature, gain in _splits(text):
            if gain > 0:
                gains[feature] += gain
                splits[feature] += 1
    except (ValueError, IndexError) as error:
        raise BundleError(
            "model-input-mismatch",
            f"The model's text is damaged: {error}.",
            "Export the run again.",
        ) from None
    found = [
        Importance(feature=name, gain=gain, split=split)
        for name, gain, split in zip(columns, gains, splits, strict=True)
    ]
    return tuple(sorted(found, key=lambda importance: (-importance.gain, importance.feature)))


def read_trained_ranges(text: str, columns: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Lowest and highest value that each column had in the training, from ``feature_infos``.

    A column that had one value alone, which LightGBM leaves out of training, is not among them.

    Args:
        text: LightGBM's text format.
        columns: The input's columns in the order of training.
    """
    found = re.search(r"^feature_infos=(.*)$", text, re.MULTILINE)
    infos = found[1].split() if found else []
    ranges = {}
    for name, info in zip(columns, infos, strict=False):
        edges = re.fullmatch(r"\[([^:\]]+):([^:\]]+)\]", info)
        if edges is not None:
            ranges[name] = (float(edges[1]), float(edges[2]))
    return ranges


def _splits(text: str) -> Iterator[tuple[int, float]]:
    """Feature and gain of every split of every tree."""
    for tree in islice(_TREE.split(text), 1, None):
        lines = dict(line.split("=", 1) for line in tree.splitlines() if "=" in line)
        features = lines.get("split_feature", "").split()
        gains = lines.get("split_gain", "").split()
        for feature, gain in zip(features, gains, strict=True):
            # LightGBM holds gains in single precision and adds them in double.
            yield _place(feature), float(np.float32(gain))


def _place(text: str) -> int:
    place = int(text)
    if place < 0:
        raise IndexError("a split on a column before the first")
    return place


def _cut_off(text: str, rounds: int) -> str:
    try:
        import lightgbm
    except ImportError as error:
        raise BundleError(
            "live-extra-missing",
            "This LightGBM model has rounds after its best one, and LightGBM is not installed here to drop them.",
            "Install what bundles need with: pip install 'rdagent-sota-patch[live]'",
        ) from error
    try:
        # Checked first: LightGBM follows whatever numbers it reads.
        sound = take_sound_trees(text)
        cut: str = lightgbm.Booster(model_str=sound).model_to_string(num_iteration=rounds)
    except (ValueError, lightgbm.basic.LightGBMError) as error:
        raise Unthawable(f"a booster that LightGBM cannot read: {error}") from None
    return cut
