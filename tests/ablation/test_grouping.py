"""What says the same is grouped; what only looks alike is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from rdagent_sota_patch.ablation.arrays import Arrays, write_arrays
from rdagent_sota_patch.ablation.grouping import find_dead, find_groups
from tests.ablation.made_worlds import NOISE, REAL, TWINS, make_index, make_world


def make_arrays(folder: Path, **columns: np.ndarray) -> Arrays:
    index = make_index(30, 20)
    return write_arrays(folder, pd.DataFrame(columns, index=index), pd.Series(0.0, index=index))


def test_copies_and_rewrites_are_found(tmp_path: Path) -> None:
    """Near copies, negated ones, and what orders stocks alike though it correlates with 0.9 or less."""
    arrays = make_world(tmp_path, 3, days=60)
    groups = find_groups(arrays, [*REAL, *NOISE, *TWINS], (), 0.99)
    assert [group.members for group in groups if len(group.members) > 1] == list(
        zip(REAL, TWINS, strict=True)
    )
    assert len(groups) == len(REAL) + len(NOISE)


def test_what_an_alpha_feature_says_already(tmp_path: Path) -> None:
    """Such a factor has a group that names the Alpha feature."""
    values = np.random.default_rng(1).normal(size=(3, 600))
    arrays = make_arrays(tmp_path, ALPHA=values[0], copy=values[0] * 3, own=values[1])
    groups = find_groups(arrays, ["copy", "own"], ("ALPHA",), 0.99)
    assert {group.members: group.alpha for group in groups} == {("copy",): "ALPHA", ("own",): None}


def test_no_chain_joins_what_is_not_alike(tmp_path: Path) -> None:
    """The second is like both others, and these are not like each other: each is held against the first of a group."""
    random = np.random.default_rng(2)
    middle = random.normal(size=600)
    left, right = (middle + 0.45 * random.normal(size=600) for _ in range(2))
    arrays = make_arrays(tmp_path, left=left, middle=middle, right=right)
    groups = find_groups(arrays, ["left", "middle", "right"], (), 0.88)
    assert [group.members for group in groups] == [("left", "middle"), ("right",)]


def test_gaps_and_constants(tmp_path: Path) -> None:
    """A gap is left out stock by stock; what never varies is like nothing, and is dead."""
    values = np.random.default_rng(3).normal(size=600)
    with_gaps = np.where(np.arange(600) % 5 == 0, np.nan, values)
    arrays = make_arrays(tmp_path, a=values, b=with_gaps, one=np.ones(600), none=np.full(600, np.nan))
    groups = find_groups(arrays, ["a", "b", "one"], (), 0.99)
    assert [group.members for group in groups] == [("a", "b"), ("one",)]
    assert find_dead(arrays, arrays.names) == ("one", "none")
