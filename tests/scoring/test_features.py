"""Joining mined and Alpha features as they were joined for the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.documents import FACTORS_NAME, MANIFEST_NAME
from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.features import drops_incomplete_rows, join_features, order_columns
from tests.bundle.made import edit_document, make_bundle

DAYS = pd.to_datetime(["2024-01-02", "2024-01-03"])


def frame(columns: dict[str, list[float]], stocks: str = "AB") -> pd.DataFrame:
    index = pd.MultiIndex.from_product([DAYS, list(stocks)], names=["datetime", "instrument"])
    return pd.DataFrame(columns, index=index)


def test_rows_are_qlibs_and_mined_factors_take_over_names() -> None:
    """As `NestedDataLoader` joins: left, and the later loader's column stays."""
    alpha = frame({"Shared": [1, 2, 3, 4], "KLEN": [5, 6, 7, 8]})
    mined = frame({"Shared": [10, 20, 30, 40]}, stocks="BC")
    joined = join_features(alpha, mined, complete_rows=False)
    assert joined.index.equals(alpha.index)
    assert joined["KLEN"].tolist() == [5, 6, 7, 8]
    np.testing.assert_array_equal(joined["Shared"], [np.nan, 10, np.nan, 30])


@pytest.mark.parametrize("complete", [True, False])
def test_rows_that_lack_a_factor(complete: bool) -> None:
    """Where RD-Agent dropped such rows, the model knew none of their factors."""
    mined = frame({"Gap": [1, 2, 3, 4], "Mom": [1, np.nan, 3, 4]})
    joined = join_features(frame({"KLEN": [5, 6, 7, 8]}), mined, complete_rows=complete)
    np.testing.assert_array_equal(joined["Gap"], [1, np.nan if complete else 2, 3, 4])
    assert joined["KLEN"].notna().all()


def test_orders_as_the_model_takes_them() -> None:
    """Any order in, the model's order out; a feature too many or too few is an error that names it."""
    features = frame({"B": [1, 2, 3, 4], "A": [5, 6, 7, 8]})
    assert list(order_columns(features, ("A", "B")).columns) == ["A", "B"]
    with pytest.raises(BundleError, match="lacking C; not the model's: A") as raised:
        order_columns(features, ("B", "C"))
    assert raised.value.slug == "model-input-mismatch"


@pytest.mark.parametrize(
    ("stage", "provenance", "loops", "gaps", "drops"),
    [
        ("factor", None, (0, 1), None, True),
        ("factor", None, (0, 0), None, False),
        ("model", {"source": {}}, (0, 1), False, True),
        ("model", None, (0, 1), None, False),
        ("factor", None, (0, 1), True, False),
    ],
)
def test_when_the_training_dropped_rows(
    tmp_path: Path,
    stage: str,
    provenance: dict[str, Any] | None,
    loops: tuple[int, int],
    gaps: bool | None,
    drops: bool,
) -> None:
    """`factor_runner` drops them once two experiments' factors are joined, `model_runner` does not; gaps are proof."""
    folder = make_bundle(tmp_path / "bundle").folder

    def set_loops(document: dict[str, Any]) -> None:
        for factor, loop in zip(document["factors"], loops, strict=True):
            factor["loop"] = loop

    def set_manifest(document: dict[str, Any]) -> None:
        document.update(stage=stage, provenance=provenance, diagnostics={"table_has_gaps": gaps})

    edit_document(folder, FACTORS_NAME, set_loops)
    edit_document(folder, MANIFEST_NAME, set_manifest)
    assert drops_incomplete_rows(open_bundle(folder)) is drops
