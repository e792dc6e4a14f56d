"""Processors, against Qlib's own: the same numbers to the last bit, on float32, float64 and mixed columns."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.documents import Processor
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.scoring.processing import process

NAMES = ["A", "B", "C", "D"]
MODULE = "qlib.data.dataset.processor"
FIT = {"fit_start_time": "2020-01-01", "fit_end_time": "2020-02-10", "fields_group": "feature"}
TYPES = {"float32": ["f4"] * 4, "float64": ["f8"] * 4, "mixed": ["f4", "f8", "f4", "f8"]}


def make_raw(types: list[str]) -> pd.DataFrame:
    """60 days of 20 stocks, some values missing, one column constant, one with outliers."""
    rng = np.random.default_rng(1)
    index = pd.MultiIndex.from_product(
        [pd.bdate_range("2020-01-01", periods=60), [f"S{number:02d}" for number in range(20)]],
        names=["datetime", "instrument"],
    )
    values = rng.normal(size=(len(index), 4)) * [0.01, 1, 30, 1e-5] + [0.1, 0, 5, 1]
    values[rng.random(values.shape) < 0.05] = np.nan
    values[7, 2] = 1e6
    frame = pd.DataFrame(values, index=index, columns=NAMES)
    return frame.astype(dict(zip(NAMES, types, strict=True)))


def in_qlib(raw: pd.DataFrame, name: str, kwargs: dict[str, Any]) -> tuple[Any, pd.DataFrame]:
    """The fitted processor, and what it makes of the frame, label beside the features."""
    from qlib.data.dataset import processor as qlib_processors

    frame = pd.concat({"feature": raw, "label": raw[["A"]].rename(columns={"A": "LABEL0"})}, axis=1)
    fitted = getattr(qlib_processors, name)(**kwargs)
    fitted.fit(frame)
    with warnings.catch_warnings():
        # Of pandas about Qlib: ZScoreNorm and MinMaxNorm put float64 where float32 was.
        warnings.simplefilter("ignore", FutureWarning)
        return fitted, fitted(frame.copy())["feature"]


def as_document(name: str, kwargs: dict[str, Any], fitted: Any) -> Processor:
    """What the bundle has of it."""
    mean, std = getattr(fitted, "mean_train", None), getattr(fitted, "std_train", None)
    if hasattr(fitted, "min_val"):
        mean, std = fitted.min_val, fitted.max_val - fitted.min_val

    def plain(numbers: Any) -> tuple[float, ...] | None:
        return None if numbers is None else tuple(float(number) for number in numbers)

    columns = None if mean is None else tuple(NAMES)
    return Processor(
        name=name, module=MODULE, kwargs=kwargs, columns=columns, mean=plain(mean), std=plain(std)
    )


@pytest.mark.parametrize("types", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("RobustZScoreNorm", {**FIT, "clip_outlier": True}),
        ("RobustZScoreNorm", {**FIT, "clip_outlier": False}),
        ("RobustZScoreNorm", FIT),
        ("ZScoreNorm", FIT),
        ("MinMaxNorm", FIT),
        ("Fillna", {"fields_group": "feature"}),
        ("Fillna", {"fill_value": 0.1}),
        ("DropnaProcessor", {"fields_group": "feature"}),
        ("CSZScoreNorm", {"fields_group": "feature"}),
        ("CSZScoreNorm", {"fields_group": ["feature"], "method": "robust"}),
        ("CSRankNorm", {"fields_group": "feature"}),
        ("CSZFillna", {"fields_group": "feature"}),
    ],
)
def test_equal_to_qlib(name: str, kwargs: dict[str, Any], types: list[str]) -> None:
    """Values and rows are Qlib's, and so is what the next processor or the model sees of their type."""
    raw = make_raw(types)
    before = raw.copy()
    fitted, expected = in_qlib(raw, name, dict(kwargs))
    processed = process(raw, [as_document(name, kwargs, fitted)])
    assert processed.index.equals(expected.index)
    assert np.array_equal(processed.to_numpy(), expected.to_numpy(), equal_nan=True)
    assert processed.to_numpy().dtype == expected.to_numpy().dtype
    pd.testing.assert_frame_equal(raw, before, check_exact=True)


@pytest.mark.parametrize("types", TYPES.values(), ids=TYPES)
def test_a_few_days_are_as_they_were_among_many(types: list[str]) -> None:
    """RD-Agent's two processors in a row, on one day alone: nothing depends on the other days."""
    raw = make_raw(types)
    from qlib.data.dataset.processor import Fillna, RobustZScoreNorm

    frame = pd.concat({"feature": raw}, axis=1)
    robust = RobustZScoreNorm(**FIT)
    robust.fit(frame)
    expected = Fillna(fields_group="feature")(robust(frame.copy()))["feature"]
    documents = [
        as_document("RobustZScoreNorm", FIT, robust),
        Processor(name="Fillna", module=MODULE, kwargs={"fields_group": "feature"}),
    ]
    day = raw.index[-1][0]
    assert np.array_equal(process(raw.loc[[day]], documents), expected.loc[[day]])


def test_a_column_without_any_value_stays_without() -> None:
    """JSON has no NaN: null stands for it."""
    raw = make_raw(TYPES["float64"])
    numbers = (None, 0.0, 0.0, 0.0)
    document = Processor(
        name="ZScoreNorm", module=MODULE, kwargs=FIT, columns=tuple(NAMES), mean=numbers, std=(1.0,) * 4
    )
    processed = process(raw, [document])
    assert processed["A"].isna().all()
    assert processed["B"].equals(raw["B"])


def test_a_processor_for_the_label_alone_does_nothing() -> None:
    """A new day has no label."""
    raw = make_raw(TYPES["float64"])
    document = Processor(name="CSZScoreNorm", module=MODULE, kwargs={"fields_group": "label"})
    assert process(raw, [document]).equals(raw)


def test_unknown_processors_are_named_together() -> None:
    """No processor is skipped, also not one that only bears a known name."""
    documents = [
        Processor(name="TanhProcess", module=MODULE, kwargs={}),
        Processor(name="Fillna", module="somebody.else", kwargs={}),
    ]
    with pytest.raises(BundleError) as caught:
        process(make_raw(TYPES["float64"]), documents)
    assert caught.value.slug == "processor-unknown"
    assert f"{MODULE}.TanhProcess, somebody.else.Fillna" in str(caught.value)


def test_dropping_rows_by_their_label_is_refused() -> None:
    """Without a group Qlib looks at the label, too."""
    document = Processor(name="DropnaProcessor", module=MODULE, kwargs={})
    with pytest.raises(BundleError) as caught:
        process(make_raw(TYPES["float64"]), [document])
    assert caught.value.slug == "processor-unknown"


@pytest.mark.parametrize(
    ("document", "slug"),
    [
        (Processor(name="ZScoreNorm", module=MODULE, kwargs=FIT), "bundle-damaged"),
        (
            Processor(name="ZScoreNorm", module=MODULE, kwargs=FIT, columns=("E",), mean=(0,), std=(1,)),
            "model-input-mismatch",
        ),
    ],
)
def test_a_processor_without_its_numbers_is_refused(document: Processor, slug: str) -> None:
    """As is one fitted on another column, or with an unknown method."""
    with pytest.raises(BundleError) as caught:
        process(make_raw(TYPES["float64"]), [document])
    assert caught.value.slug == slug
