"""What a run says of its training, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from rdagent_sota_patch.ablation.recipe import read_recipe
from rdagent_sota_patch.bundle.documents import QLIB_PROCESSORS, ModelMeta, Processor, Weights
from rdagent_sota_patch.errors import BundleError

TEMPLATE: dict[str, Any] = {
    "infer_processors": [
        {
            "class": "RobustZScoreNorm",
            "kwargs": {"fields_group": "feature", "clip_outlier": True, "fit_start_time": "2008-01-01"},
        },
        {"class": "Fillna", "kwargs": {"fields_group": "feature"}},
    ],
    "learn_processors": [
        {"class": "DropnaLabel"},
        {"class": "CSRankNorm", "kwargs": {"fields_group": "label"}},
    ],
}
"""RD-Agent's, of its factor stage."""


def make_meta(
    *, kind: str = "lightgbm", model: dict[str, Any] | None = None, handler: dict[str, Any] | None = None
) -> ModelMeta:
    return ModelMeta(
        schema_version=1,
        kind=kind,  # type: ignore[arg-type]
        model={
            "class": "LGBModel",
            "module_path": "qlib.contrib.model.gbdt",
            "kwargs": {
                "loss": "mse",
                "colsample_bytree": 0.8879,
                "num_threads": 20,
                "seed": 5,
                **(model or {}),
            },
        },
        dataset={"class": "DatasetH", "kwargs": {}},
        handler={"class": "DataHandlerLP", "kwargs": {**TEMPLATE, **(handler or {})}},
        segments={
            "train": ("2008-01-01", "2014-12-31"),
            "valid": ("2015-01-01", "2016-12-31"),
            "test": ("2017-01-01", "2020-08-01"),
        },
        step_len=None,
        label={"LABEL0": "Ref($close, -2)/Ref($close, -1) - 1"},
        alpha=(),
        instruments="csi300",
        processors=tuple(
            Processor(name=name, module=QLIB_PROCESSORS, kwargs={}) for name in ("RobustZScoreNorm", "Fillna")
        ),
        weights=Weights(pickle_relpath="model.pkl"),
        feature_importance=None,
    )


def test_the_template() -> None:
    """Its parameters but threads and seeds, which a trial sets; its processors without the days they were fitted on."""
    recipe = read_recipe(make_meta())
    assert recipe.boosting.params == {"objective": "mse", "verbosity": -1, "colsample_bytree": 0.8879}
    assert (recipe.boosting.rounds, recipe.boosting.patience, recipe.horizon) == (1000, 50, 2)
    assert [step.name for step in recipe.infer] == ["RobustZScoreNorm", "Fillna"]
    assert recipe.infer[0].kwargs == {"fields_group": "feature", "clip_outlier": True}
    assert [step.name for step in recipe.learn] == ["DropnaLabel", "CSRankNorm"]


def test_columns_are_chosen_already() -> None:
    """``FilterCol`` leaves the model's columns, and no others are loaded."""
    filtered = [{"class": "FilterCol", "kwargs": {"col_list": ["A"]}}, *TEMPLATE["infer_processors"]]
    assert len(read_recipe(make_meta(handler={"infer_processors": filtered})).infer) == 2


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"kind": "torch"}, "it is LGBModel .torch."),
        ({"model": {"forcedsplits_filename": "/etc/passwd"}}, "its parameter forcedsplits_filename"),
        ({"model": {"num_machines": 2}}, "its parameter num_machines"),
        ({"model": {"loss": "huber"}}, "its loss is 'huber'"),
        (
            {"handler": {"infer_processors": [{"class": "Evil", "module_path": "evil"}]}},
            "processor Evil of evil",
        ),
        ({"handler": {"learn_processors": [{"class": "TanhProcess"}]}}, "processor TanhProcess"),
        ({"handler": {"infer_processors": []}}, "went through RobustZScoreNorm, Fillna, which its task"),
        ({"handler": {"process_type": "independent"}}, "do not follow"),
    ],
)
def test_what_is_not_known_is_refused(changed: dict[str, Any], why: str) -> None:
    """No other model is taken in its place, and nothing that a stranger's configuration names is imported or read."""
    with pytest.raises(BundleError, match=why) as error:
        read_recipe(make_meta(**changed))
    assert error.value.slug == "model-not-ablated"
