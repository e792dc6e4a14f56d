"""LightGBM's text format, checked before LightGBM reads it.

LightGBM trusts the numbers in a model's text: a child that does not exist, or a tree said to be longer than the text,
makes it read memory that is not its own, and a number that is none ends the process. So whatever it would follow as an
index or a length is held to its bounds here, and whatever it would read as a number has to be one. What follows the
trees, such as the training's parameters, plays no part in a score and is not given to it. Trees on categories and
linear trees, which Qlib's ``LGBModel`` does not make, are refused.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        raise ValueError("it has a decision_type that is no numerical one")
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
