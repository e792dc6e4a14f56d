"""The bundles that other tests are made of: valid, and what their documents say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.documents import (
    META_NAME,
    ORDER_NAME,
    PREDICTIONS_NAME,
    SLICE_NAME,
    FactorOrder,
    Manifest,
    ModelMeta,
)
from tests.bundle.made import Kind, make_bundle


@pytest.mark.parametrize("kind", ["lightgbm", "tabular", "time_series"])
def test_a_made_bundle_reads_back(tmp_path: Path, kind: Kind) -> None:
    """Its documents are the format's own, and its frames come back to the last bit."""
    made = make_bundle(tmp_path / "bundle", kind)
    manifest = Manifest.model_validate_json((made.folder / "manifest.json").read_bytes())
    on_disk = {
        path.relative_to(made.folder).as_posix(): path.stat().st_size
        for path in made.folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert {name: file.size for name, file in manifest.files.items()} == on_disk
    ModelMeta.model_validate_json((made.folder / META_NAME).read_bytes())
    order = FactorOrder.model_validate_json((made.folder / ORDER_NAME).read_bytes())
    raw = pd.read_parquet(made.folder / SLICE_NAME)
    assert tuple(raw.columns) == order.factor_order
    pd.testing.assert_frame_equal(raw, made.raw, check_exact=True, check_freq=False)
    predictions = pd.read_parquet(made.folder / PREDICTIONS_NAME)
    assert np.array_equal(predictions["score"], made.predictions["score"])
    assert predictions["score"].nunique() > 10


def test_factors_only(tmp_path: Path) -> None:
    """A bundle without a model has neither weights nor order."""
    made = make_bundle(tmp_path / "bundle", factors_only=True)
    assert set(made.manifest.files) == {
        "sota_factors.json",
        "extract_report.json",
        "factors/factor_1_ZMom.py",
        "factors/factor_2_GapA.py",
    }
