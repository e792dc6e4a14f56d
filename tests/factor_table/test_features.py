from __future__ import annotations

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from rdagent_sota_patch.factor_table.combining import FeatureSet, combine_features


def test_both_with_a_shared_name() -> None:
    """The mined factor takes the place of the Alpha factor of its name, and counts once."""
    assert combine_features(("ROC5", "KLEN"), ("Rev5D", "KLEN", "alpha"), use_alpha=True) == FeatureSet(
        alpha=("ROC5",),
        sota=("Rev5D", "KLEN", "alpha"),
        shared=("KLEN",),
        order=("KLEN", "ROC5", "Rev5D", "alpha"),
    )


def test_sota_alone() -> None:
    """Without Alpha there is nothing to share a name with."""
    features = combine_features(("ROC5", "KLEN"), ("KLEN",), use_alpha=False)
    assert features == FeatureSet(alpha=(), sota=("KLEN",), shared=(), order=("KLEN",))
    assert features.count == 1


# A table with any other name is refused (table-column-names).
names = st.text(min_size=1, max_size=4).filter(lambda text: text.strip() and "\0" not in text)


@given(
    alpha=st.lists(names, max_size=6, unique=True),
    sota=st.lists(names, min_size=1, max_size=6, unique=True),
    use_alpha=st.booleans(),
)
def test_order_is_what_qlib_makes_of_it(alpha: list[str], sota: list[str], use_alpha: bool) -> None:
    """The steps of NestedDataLoader.load, run in pandas, end in the same names and order."""
    left = pd.DataFrame(columns=pd.MultiIndex.from_product([["feature"], alpha if use_alpha else []]))
    right = pd.DataFrame(columns=pd.MultiIndex.from_product([["feature"], sota]))
    kept = left.drop(columns=[column for column in right.columns if column in left.columns])
    merged = pd.concat([kept, right], axis=1).sort_index(axis=1)
    features = combine_features(alpha, sota, use_alpha)
    assert list(features.order) == [name for _, name in merged.columns]
    assert features.count == len(merged.columns)
