from __future__ import annotations

import hashlib
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest

from rdagent_sota_patch.bundle.documents import AlphaFeature, Processor
from rdagent_sota_patch.errors import BundleError
from rdagent_sota_patch.export.description import describe_model
from rdagent_sota_patch.mlruns.recorder import find_recorder
from rdagent_sota_patch.mlruns.trained import (
    TrainedModel,
    read_trained,
    trained_alpha,
    trained_columns,
    trained_importance,
)
from rdagent_sota_patch.mlruns.weights import Network
from tests.mlruns.trained_runs import ALPHA, COLUMNS, FILTERED, MINED, STEP_LEN, make_runs

ALL = ["boosted", "filtered", "tabular", "time_series"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    make_runs(folder)
    return folder


@pytest.fixture
def workspace(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a made workspace, to be damaged."""
    return lambda name: Path(shutil.copytree(runs / name, tmp_path / name))


def read(workspace: Path) -> TrainedModel:
    return read_trained(find_recorder(workspace))


def expected(runs: Path, name: str) -> dict[str, Any]:
    with np.load(runs / name / "expected.npz") as file:
        return dict(file)


def rewrite(workspace: Path, name: str, change: Callable[[Any], None]) -> None:
    path = find_recorder(workspace).artifacts / name
    value = pickle.loads(path.read_bytes())
    change(value)
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("name", ALL)
def test_the_columns_are_in_the_order_of_training(runs: Path, name: str) -> None:
    """Sorted over Alpha and mined together; in the loader's order where 0.8.0 does not sort."""
    trained = read(runs / name)
    assert trained_columns(trained) == (FILTERED if name == "filtered" else COLUMNS)
    assert trained.mined == (() if name == "filtered" else MINED)


def test_a_mined_factor_replaces_an_alpha_feature_of_its_name(runs: Path) -> None:
    trained = read(runs / "boosted")
    assert [feature.name for feature in trained.alpha] == list(ALPHA)
    assert trained_alpha(trained) == tuple(
        AlphaFeature(name=name, expression=ALPHA[name]) for name in ("KLEN", "ROC5")
    )


@pytest.mark.parametrize("name", ["boosted", "filtered"])
def test_the_boosters_text_predicts_to_the_bit(runs: Path, name: str) -> None:
    trained = read(runs / name)
    assert trained.kind == "lightgbm"
    booster = lightgbm.Booster(model_str=trained.booster_text)
    wanted = expected(runs, name)
    np.testing.assert_array_equal(booster.predict(wanted["samples"]), wanted["scores"])


def test_importance_is_the_boosters_own(runs: Path) -> None:
    importance = trained_importance(read(runs / "boosted"))
    assert importance is not None
    wanted = expected(runs, "boosted")
    by_name = {entry.feature: entry for entry in importance}
    assert [by_name[name].gain for name in COLUMNS] == wanted["gain"].tolist()
    assert [by_name[name].split for name in COLUMNS] == wanted["split"].tolist()
    assert [entry.gain for entry in importance] == sorted(wanted["gain"], reverse=True)


@pytest.mark.parametrize("name", ["tabular", "time_series"])
def test_the_tensors_are_the_networks_state_dict(runs: Path, name: str) -> None:
    trained = read(runs / name)
    wanted = expected(runs, name)
    assert trained.kind == "torch"
    assert trained.tensors is not None
    assert list(trained.tensors) == wanted["names"].tolist()
    assert "passing" not in trained.tensors
    for key, tensor in trained.tensors.items():
        np.testing.assert_array_equal(tensor, wanted[f"tensor {key}"], strict=True)
    steps = {"num_timesteps": STEP_LEN} if name == "time_series" else {}
    assert trained.network == Network("model.model_cls", {"num_features": len(COLUMNS), **steps}, 64)
    assert trained.step_len == (STEP_LEN if name == "time_series" else None)
    assert trained_importance(trained) is None


@pytest.mark.parametrize("name", ["tabular", "filtered", "time_series"])
def test_the_processors_have_their_fitted_numbers(runs: Path, name: str) -> None:
    trained, wanted = read(runs / name), expected(runs, name)
    names = [processor.name for processor in trained.processors]
    fitted = {processor.name: processor for processor in trained.processors}
    assert (
        names
        == {
            "tabular": ["RobustZScoreNorm", "Fillna"],
            "filtered": ["ZScoreNorm", "CSZScoreNorm"],
            "time_series": ["MinMaxNorm", "RobustZScoreNorm", "Fillna"],
        }[name]
    )
    scored = fitted["ZScoreNorm" if name == "filtered" else "RobustZScoreNorm"]
    assert scored.columns == trained_columns(trained)
    assert list(scored.mean or ()) == wanted["mean_train"].tolist()
    assert list(scored.std or ()) == wanted["std_train"].tolist()
    if name == "time_series":
        assert list(fitted["MinMaxNorm"].mean or ()) == wanted["min_val"].tolist()
        assert list(fitted["MinMaxNorm"].std or ()) == (wanted["max_val"] - wanted["min_val"]).tolist()
    if name == "filtered":
        assert fitted["CSZScoreNorm"].kwargs == {"fields_group": ["feature"], "method": "zscore"}
    if name == "tabular":
        assert scored.kwargs["fit_start_time"] == "2024-01-01"
        assert scored.kwargs["clip_outlier"] is True


def test_the_configuration_is_plain_and_dated_in_text(runs: Path) -> None:
    trained = read(runs / "time_series")
    assert trained.segments == {
        "train": ("2020-01-01", "2021-12-31"),
        "valid": ("2022-01-01", "2022-12-31"),
        "test": ("2023-01-01", None),
    }
    assert trained.label == {"LABEL0": "Ref($close, -2)/Ref($close, -1) - 1"}
    assert trained.instruments == "csi300"
    assert trained.model["class"] == "GeneralPTNN"
    assert trained.handler["kwargs"]["start_time"] == "2020-01-01"
    assert "handler" not in trained.dataset["kwargs"]
    assert trained.table == runs / "time_series" / "combined_factors_df.parquet"


def test_nothing_of_qlib_or_torch_is_imported(runs: Path) -> None:
    """Nor the module that the network was defined in: everything is read from stand-ins."""
    before = set(sys.modules)
    for name in ALL:
        read(runs / name)
    imported = {module.partition(".")[0] for module in set(sys.modules) - before}
    assert imported & {"qlib", "torch", "mlflow", "model"} == set()


def test_weights_that_were_kept_elsewhere(runs: Path, workspace: Callable[[str], Path]) -> None:
    place = workspace("boosted")
    recorder = find_recorder(place)
    content = recorder.weights.read_bytes()
    recorder.weights.write_bytes(b"gone")
    assert read_trained(recorder, weights=content).booster_text == read(runs / "boosted").booster_text
    with pytest.raises(BundleError) as caught:
        read_trained(recorder, weights=content[:100])
    assert caught.value.slug == "artifact-unreadable"


def test_a_table_that_is_elsewhere(workspace: Callable[[str], Path], tmp_path: Path) -> None:
    place = workspace("boosted")
    table = (place / "combined_factors_df.parquet").rename(tmp_path / "moved.parquet")
    with pytest.raises(BundleError) as caught:
        read(place)
    assert caught.value.slug == "model-table-missing"
    trained = read_trained(find_recorder(place), table=table)
    assert trained_columns(trained) == COLUMNS


@pytest.mark.parametrize("name", ["boosted", "tabular"])
def test_a_table_of_another_experiment_is_caught(workspace: Callable[[str], Path], name: str) -> None:
    """By the booster's number of columns, or by those that the processors were fitted on."""
    place = workspace(name)
    index = pd.MultiIndex.from_tuples(
        [(pd.Timestamp("2024-01-02"), "SH600000")], names=["datetime", "instrument"]
    )
    columns = pd.MultiIndex.from_product([["feature"], [*MINED, "Late"]])
    pd.DataFrame(0.5, index=index, columns=columns).to_parquet(place / "combined_factors_df.parquet")
    with pytest.raises(BundleError) as caught:
        trained_columns(read(place))
    assert {problem.slug for problem in caught.value.problems} == {"model-input-mismatch"}


def test_weights_of_another_experiment_are_caught(workspace: Callable[[str], Path], runs: Path) -> None:
    boosted, network = workspace("boosted"), workspace("time_series")
    shutil.copy(find_recorder(runs / "filtered").weights, find_recorder(boosted).weights)
    with pytest.raises(BundleError, match="the weights are for 2 columns, and there are 5"):
        trained_columns(read(boosted))
    shutil.copy(find_recorder(runs / "tabular").weights, find_recorder(network).weights)
    with pytest.raises(BundleError, match="the task asks for"):
        trained_columns(read(network))


def test_columns_in_another_order_are_caught(runs: Path) -> None:
    trained = read(runs / "tabular")
    turned = replace(trained, columns=trained.columns[::-1])
    with pytest.raises(BundleError, match="the same in another order") as caught:
        trained_columns(turned)
    assert caught.value.slug == "model-input-mismatch"


def test_every_disagreement_is_named_at_once(runs: Path) -> None:
    trained = read(runs / "tabular")
    assert trained.network is not None
    wrong = replace(trained, columns=("GapA",), network=replace(trained.network, kwargs={"num_features": 9}))
    with pytest.raises(BundleError) as caught:
        trained_columns(wrong)
    assert len(caught.value.problems) == 3


def _absolute(task: Any) -> None:
    _static(task)["config"] = "/etc/table.parquet"


def _upwards(task: Any) -> None:
    _static(task)["config"] = "../other/table.parquet"


def _static(task: Any) -> Any:
    return task["dataset"]["kwargs"]["handler"]["kwargs"]["data_loader"]["kwargs"]["dataloader_l"][1][
        "kwargs"
    ]


def _no_segments(task: Any) -> None:
    del task["dataset"]["kwargs"]["segments"]["test"]


def _no_model(task: Any) -> None:
    del task["model"]


def _set_of_things(task: Any) -> None:
    task["model"]["kwargs"]["odd"] = {1, 2}


@pytest.mark.parametrize("change", [_absolute, _upwards, _no_segments, _no_model, _set_of_things])
def test_a_task_in_another_form_is_refused(
    workspace: Callable[[str], Path], change: Callable[[Any], None]
) -> None:
    place = workspace("boosted")
    rewrite(place, "task", change)
    with pytest.raises(BundleError) as caught:
        read(place)
    assert caught.value.slug == "model-form-unknown"


@pytest.mark.parametrize(
    ("config", "region"),
    [
        (None, "cn"),
        ({"qlib_init": {"region": "us", "provider_uri": "/data"}}, "us"),
        ({"qlib_init": {"provider_uri": "/data"}}, "cn"),
        ({"task": {}}, "cn"),
    ],
)
def test_the_region_is_the_trainings(
    workspace: Callable[[str], Path], config: dict[str, Any] | None, region: str
) -> None:
    """What names none was trained with Qlib's default."""
    place = workspace("boosted")
    path = find_recorder(place).artifacts / "config"
    path.unlink(missing_ok=True)
    if config is not None:
        path.write_bytes(pickle.dumps(config))
    trained = read(place)
    assert trained.region == region
    assert describe_model(trained, has_code=False).region == region


def test_a_region_that_qlib_does_not_have_is_refused(workspace: Callable[[str], Path]) -> None:
    place = workspace("boosted")
    (find_recorder(place).artifacts / "config").write_bytes(pickle.dumps({"qlib_init": {"region": "mars"}}))
    with pytest.raises(BundleError, match="mars") as caught:
        read(place)
    assert caught.value.slug == "model-form-unknown"


def test_a_model_of_another_class_is_of_kind_other(workspace: Callable[[str], Path]) -> None:
    place = workspace("tabular")
    find_recorder(place).weights.write_bytes(pickle.dumps({"weights": hashlib.sha256}))
    trained = read(place)
    assert (trained.kind, trained.booster_text, trained.tensors, trained.network) == (
        "other",
        None,
        None,
        None,
    )
    assert trained_columns(trained) == COLUMNS


def test_processors_are_documents(runs: Path) -> None:
    for processor in read(runs / "time_series").processors:
        assert Processor.model_validate_json(processor.model_dump_json()) == processor
