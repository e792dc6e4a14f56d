from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.documents import Processor
from rdagent_sota_patch.mlruns.weights import MODULE, choose_columns, plain, thaw_processors
from rdagent_sota_patch.sessions.inert import read_inert
from rdagent_sota_patch.sessions.thaw import Unthawable
from tests.sessions.forged import Made, forge

COLUMNS = pd.MultiIndex.from_tuples([("feature", "A"), ("feature", "B"), ("label", "LABEL0")])


def thaw(*processors: Made, arrays: dict[str, object] | None = None) -> tuple[Processor, ...]:
    """The processors of a handler; arrays are put into the first one's state as numpy and pandas pickle them."""
    handler = read_inert(forge(Made("handler", "H", state={"infer_processors": list(processors)})))
    for name, value in (arrays or {}).items():
        handler.attributes["infer_processors"][0].state[name] = read_inert(pickle.dumps(value, protocol=4))
    return thaw_processors(handler)


def robust(**changed: Any) -> tuple[Processor, ...]:
    arrays = {"cols": COLUMNS, "mean_train": np.array([1, np.nan, 3]), "std_train": np.array([4.0, 5, 6])}
    made = Made(MODULE, "RobustZScoreNorm", state={"fields_group": None, "clip_outlier": True})
    return thaw(made, arrays={**arrays, **changed})


def test_fitted_numbers_of_the_features_alone() -> None:
    """One for all columns was fitted on the label, too; NaN, of a column without values, is null."""
    (processor,) = robust()
    assert (processor.columns, processor.mean, processor.std) == (("A", "B"), (1.0, None), (4.0, 5.0))
    assert processor.kwargs == {"fields_group": None, "clip_outlier": True}


def test_single_precision_comes_back_exactly() -> None:
    numbers = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    (processor,) = robust(mean_train=numbers, std_train=numbers)
    assert np.array(processor.mean, dtype=np.float32).tolist() == numbers[:2].tolist()


@pytest.mark.parametrize(
    "changed",
    [
        {"mean_train": np.array([1.0, 2])},
        {"std_train": np.array([1.0, 2])},
        {"std_train": np.array([1, 2, 3])},
        {"mean_train": np.array([np.inf, 2, 3])},
        {"mean_train": "text"},
        {"cols": pd.Index([1, 2, 3])},
        {"cols": ["A", "B", "C"]},
    ],
    ids=str,
)
def test_numbers_that_do_not_fit_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(Unthawable):
        robust(**changed)


def test_shared_processors_come_first() -> None:
    fill = Made(MODULE, "Fillna", state={"fields_group": "feature", "fill_value": 0})
    rank = Made(MODULE, "CSRankNorm", state={"fields_group": "feature"})
    handler = Made("handler", "H", state={"infer_processors": [fill], "shared_processors": [rank]})
    assert [processor.name for processor in thaw_processors(read_inert(forge(handler)))] == [
        "CSRankNorm",
        "Fillna",
    ]


def test_a_stranger_is_named_and_not_read() -> None:
    (processor,) = thaw(Made("my.processors", "Odd", state={"anything": Made("os", "system", ("touch x",))}))
    assert (processor.module, processor.kwargs) == ("my.processors", {})
    assert "Odd" in processor.name


def test_an_unknown_function_of_a_known_processor_is_refused() -> None:
    with pytest.raises(Unthawable, match="unknown function"):
        thaw(
            Made(
                MODULE, "CSZScoreNorm", state={"fields_group": "feature", "zscore_func": Made("os", "system")}
            )
        )


def made(name: str, **changed: Any) -> Processor:
    return Processor(**{"name": name, "module": MODULE, "kwargs": {}, **changed})


def test_choosing_columns_keeps_the_loaders_order_and_the_numbers() -> None:
    fitted = made("ZScoreNorm", columns=("A", "B", "C"), mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    keep = made("FilterCol", kwargs={"col_list": ["LABEL0", "C", "A"]})
    columns, processors = choose_columns(("C", "B", "A"), (fitted, keep))
    assert columns == ("C", "A")
    (left,) = processors
    assert (left.columns, left.mean, left.std) == (("A", "C"), (1.0, 3.0), (4.0, 6.0))


def test_columns_are_dropped() -> None:
    columns, processors = choose_columns(("A", "B"), (made("DropCol", kwargs={"col_list": ["A"]}),))
    assert (columns, processors) == (("B",), ())


def test_rows_dropped_for_columns_that_go_are_refused() -> None:
    with pytest.raises(Unthawable, match="after DropnaProcessor"):
        choose_columns(("A", "B"), (made("DropnaProcessor"), made("FilterCol", kwargs={"col_list": ["A"]})))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1: "number"}, {1, 2}])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(Unthawable):
        plain(value)
