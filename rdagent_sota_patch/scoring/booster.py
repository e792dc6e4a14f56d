"""A LightGBM model: from its text, checked before LightGBM reads it, or that text from a pickled booster.

LightGBM trusts the numbers in a model's text: a child that does not exist, or a tree said to be longer than the text,
makes it read memory that is not its own, and a number that is none ends the process. So whatever it would follow as an
index or a length has to be in its bounds here, and whatever it would read as a number has to be one. What follows the
trees, such as the training's parameters, plays no part in a score and is not given to it. Trees on categories and
linear trees, which Qlib's ``LGBModel`` does not make, are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from rdagent_sota_patch.bundle.documents import Importance
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.samples import require_features, require_live
from rdagent_sota_patch.sessions.inert import Inert
from rdagent_sota_patch.sessions.thaw import Unthawable, describe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from rdagent_sota_patch.bundle.opening import Bundle

# Objectives with one output; others would write as many as their own text says.
_OBJECTIVES = frozenset(
    {"regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie"}
    | {"binary", "cross_entropy", "cross_entropy_lambda", "lambdarank", "rank_xendcg"}
)
_ONE_OUTPUT = {"num_class": "1", "num_tree_per_iteration": "1"}

_BY_SPLIT = ("threshold",)
_BY_SPLIT_OPTIONAL = ("split_gain", "internal_value", "internal_weight")
_BY_LEAF_OPTIONAL = ("leaf_weight",)

_INTEGERS = re.compile(r"-?\d{1,9}(?: -?\d{1,9})*", re.ASCII)
_NUMBER = r"-?(?:\d{1,20}(?:\.\d{1,30})?(?:e[-+]?\d{1,3})?|inf|nan)"
_NUMBERS = re.compile(rf"{_NUMBER}(?: {_NUMBER})*", re.ASCII)
_END = "end of trees"


def take_sound_trees(text: str) -> str:
    """The part of a model's text that makes its scores, safe to give to LightGBM.

    Args:
        text: As ``Booster.model_to_string`` writes it.

    Returns:
        The header and the trees.

    Raises:
        ValueError: What is wrong with it.
    """
    header, trees, sound = _split(text)
    for key, wanted in _ONE_OUTPUT.items():
        if header.get(key) != wanted:
            raise ValueError(f"{key} is {header.get(key)!r}, and one output is asked for")
    objective = header.get("objective", "regression").split(" ")[0]
    if objective not in _OBJECTIVES:
        raise ValueError(f"its objective {objective!r} is none of {', '.join(sorted(_OBJECTIVES))}")
    (features,) = _integers(header, "max_feature_idx", 1)
    for number, tree in enumerate(trees):
        try:
            _check_tree(_fields(tree), int(features) + 1)
        except ValueError as error:
            raise ValueError(f"tree {number}: {error}") from None
    return sound


def _split(text: str) -> tuple[dict[str, str], list[str], str]:
    """The header's fields, the trees as LightGBM will cut them, and the text up to their end."""
    if "\r" in text or "\0" in text:
        raise ValueError("it holds a carriage return or a null")
    start = text.find("\nTree=0\n") + 1
    header = _fields(text[:start], of_header=True)
    trees: list[str] = []
    encoded = text.encode("utf-8")
    position = len(text[:start].encode("utf-8"))
    for number, size in enumerate(_integers(header, "tree_sizes", None)):
        tree = encoded[position : position + max(int(size), 0)]
        if not tree.startswith(f"Tree={number}\n".encode()) or tree.count(b"\nTree="):
            raise ValueError(f"tree_sizes does not lead to tree {number}")
        trees.append(tree.decode("utf-8").rstrip("\n"))
        position += int(size)
    if not encoded[position:].startswith(_END.encode()):
        raise ValueError("tree_sizes does not lead to the end of the trees")
    return header, trees, f"{encoded[:position].decode()}{_END}\n"


def _fields(section: str, *, of_header: bool = False) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in section.split("\n"):
        key, equals, value = line.partition("=")
        # Such as `tree` and `average_output`, and empty lines; at one of these, LightGBM leaves off reading a tree.
        if of_header and not equals:
            continue
        if not equals or key in fields:
            raise ValueError(f"the line {line[:60]!r} cannot be read, or comes twice")
        fields[key] = value
    return fields


def _check_tree(tree: Mapping[str, str], features: int) -> None:
    if tree.get("num_cat") != "0" or tree.get("is_linear", "0") != "0":
        raise ValueError("it splits on categories or is linear, which no LGBModel of Qlib does")
    (leaves,) = map(int, _integers(tree, "num_leaves", 1))
    if leaves < 1:
        raise ValueError(f"it has {leaves} leaves")
    _require_numbers(tree, "leaf_value", leaves)
    _require_numbers(tree, "shrinkage", 1)
    if leaves == 1:
        return
    splits = leaves - 1
    for key in (*_BY_SPLIT, *(key for key in _BY_SPLIT_OPTIONAL if key in tree)):
        _require_numbers(tree, key, splits)
    for key in _BY_LEAF_OPTIONAL:
        if key in tree:
            _require_numbers(tree, key, leaves)
    for key, count in (("leaf_count", leaves), ("internal_count", splits)):
        if key in tree:
            _integers(tree, key, count)
    feature = _integers(tree, "split_feature", splits)
    if feature.min() < 0 or feature.max() >= features:
        raise ValueError(f"it splits on feature {feature.max()} of {features}")
    kinds = _integers(tree, "decision_type", splits)
    if kinds.min() < 0 or kinds.max() > 127 or (kinds & 1).any():
        raise ValueError("it has a decision_type that is not a numerical one")
    for key in ("left_child", "right_child"):
        child = _integers(tree, key, splits)
        # LightGBM numbers splits as it makes them: a child split comes after its parent, so there is no circle.
        split_is_later = (child > np.arange(splits)) & (child < splits)
        leaf_exists = (child < 0) & (child >= -leaves)
        if not (split_is_later | leaf_exists).all():
            raise ValueError(f"{key} leads out of it")


def _integers(fields: Mapping[str, str], key: str, count: int | None) -> np.ndarray:
    value = fields.get(key, "")
    if not _INTEGERS.fullmatch(value):
        raise ValueError(f"{key} is missing, or no list of whole numbers")
    numbers = np.array(value.split(" "), dtype=np.int64)
    if count is not None and len(numbers) != count:
        raise ValueError(f"{key} has {len(numbers)} values in place of {count}")
    return numbers


def _require_numbers(tree: Mapping[str, str], key: str, count: int) -> None:
    value = tree.get(key, "")
    if not _NUMBERS.fullmatch(value):
        raise ValueError(f"{key} is missing, or no list of numbers")
    if value.count(" ") + 1 != count:
        raise ValueError(f"{key} has {value.count(' ') + 1} values in place of {count}")


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
        Unthawable: It is not a booster, or one of an unknown form.
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


@dataclass(frozen=True, slots=True)
class BoosterScorer:
    """A ``lightgbm.Booster`` with the number of features that it was trained on."""

    where: Path
    booster: Any
    features: int

    def predict(self, samples: np.ndarray) -> np.ndarray:
        """Scores of processed samples; see `Scorer`.

        Raises:
            BundleError: ``model-input-mismatch``.
        """
        require_features(self.where, samples, self.features)
        if not len(samples):
            return np.empty(0)
        return np.asarray(self.booster.predict(samples))


def load_booster(bundle: Bundle) -> BoosterScorer:
    """The scorer of a LightGBM model.

    Raises:
        BundleError: ``live-extra-missing``, ``model-unreadable``, ``model-input-mismatch``.
    """
    order, meta = bundle.model
    require_live("lightgbm")
    import lightgbm

    if meta.weights.booster_relpath is None:
        raise BundleError("bundle-damaged", f"{bundle.folder} names no model.txt.", "Export the run again.")
    content = bundle.read(meta.weights.booster_relpath)
    try:
        booster = lightgbm.Booster(model_str=take_sound_trees(content.decode("utf-8")))
    except (UnicodeDecodeError, ValueError, lightgbm.basic.LightGBMError) as error:
        raise BundleError(
            "model-unreadable",
            f"{bundle.folder / meta.weights.booster_relpath} is not a LightGBM model: {error}.",
            "Export the run again.",
        ) from error
    features = len(order.factor_order)
    if booster.num_feature() != features:
        raise BundleError(
            "model-input-mismatch",
            f"The model of {bundle.folder} was trained on {booster.num_feature()} features, and {features} are listed.",
            "These weights belong to another model: export the run again.",
        )
    return BoosterScorer(bundle.folder, booster, features)
