"""The program of an RD-Agent checkout that asks for results: its requests, one by one, and what it makes of them."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.bundle.made import FACTOR_CODE, FACTOR_DAYS
from tests.results.log_root import CANARY, MODEL_CODE, Project

from .served import Served

FACTORS = ["ZMom", "GapA", "Extra"]
"""Of the run ``accepted``, as its factor table has them."""
ORDER = ["Extra", "GapA", "ZMom"]
"""As its model was trained."""
PER_LOOP = {
    "loop_id",
    "is_sota",
    "annualized_return",
    "max_drawdown",
    "information_ratio",
    "tested_factors",
    "all_factors",
    "tested_count",
    "total_count",
    "hypothesis",
    "feedback",
}


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=300) as answer:
        content: bytes = answer.read()
    return content


def get_json(url: str) -> Any:
    return json.loads(get(url))


def code_of(name: str) -> str:
    return FACTOR_CODE.format(name=name, days=FACTOR_DAYS.get(name, 2))


def test_a_whole_synchronization(served: Served, project: Project, tmp_path: Path) -> None:
    """List, anchor, weights, order, code: all factors arrive, with factor_order.json and the weights."""
    base = served.url
    listed = get_json(f"{base}/tasks/latest?limit=20&offset=0")
    task_id = listed["tasks"][0]["task_id"]
    assert task_id == "accepted"
    anchor = get_json(f"{base}/tasks/{task_id}/sota_factor_anchor")
    assert anchor["ok"] is True
    key = urllib.parse.urlencode({"key": anchor["resolved_model_weight_key"]})
    (tmp_path / "model.pkl").write_bytes(get(f"{base}/tasks/{task_id}/asset_bytes?{key}"))
    preview = get_json(f"{base}/tasks/{task_id}/v2_alignment_preview")
    assert preview["ok"] is True
    assert len(preview["alpha_factors"]) + len(preview["sota_factors"]) == preview["model_feature_count"]
    assets = get_json(f"{base}/tasks/{task_id}/complete_assets")
    assert assets["ok"] is True
    (tmp_path / "factors").mkdir()
    for factor in assets["factor_codes"]:
        (tmp_path / "factors" / f"{factor['factor_name']}.py").write_text(factor["code"])
    (tmp_path / "factor_order.json").write_text(json.dumps({"factor_order": preview["factor_order"]}))

    assert (tmp_path / "model.pkl").read_bytes() == project.weights.read_bytes()
    assert sorted(path.stem for path in (tmp_path / "factors").iterdir()) == sorted(FACTORS)
    for name in FACTORS:
        assert (tmp_path / "factors" / f"{name}.py").read_text() == code_of(name)
    assert json.loads((tmp_path / "factor_order.json").read_text())["factor_order"] == ORDER
    order = get_json(f"{base}/tasks/{task_id}/factor_order")
    assert preview["factor_order"] == order["factor_order"]


def test_the_newest_runs_as_a_list(served: Served) -> None:
    """With limit or offset a list, within the ten seconds that it waits; with neither the manifest, as before."""
    start = time.monotonic()
    listed = get_json(f"{served.url}/tasks/latest?limit=200")
    assert time.monotonic() - start < 10
    assert listed["tasks"] == get_json(f"{served.url}/tasks?limit=200")["tasks"]
    second = get_json(f"{served.url}/tasks/latest?offset=1")
    assert second["tasks"][0] == listed["tasks"][1]
    assert get_json(f"{served.url}/tasks/latest")["task_id"] == "accepted"


def test_every_loop_has_what_it_reads(served: Served) -> None:
    """The eleven fields, beside today's."""
    answer = get_json(f"{served.url}/tasks/accepted/loops")
    assert (answer["ok"], answer["count"]) == (True, 3)
    first, _, last = answer["loops"]
    for loop in answer["loops"]:
        assert loop.keys() >= PER_LOOP | {"loop", "kind", "decision", "factors", "metrics"}
        assert loop["annualized_return"] == loop["metrics"].get(
            "1day.excess_return_with_cost.annualized_return"
        )
        assert loop["max_drawdown"] == loop["metrics"].get("1day.excess_return_with_cost.max_drawdown")
        assert loop["information_ratio"] == loop["metrics"].get(
            "1day.excess_return_with_cost.information_ratio"
        )
    assert [loop["loop_id"] for loop in answer["loops"]] == [0, 1, 2]
    assert [loop["feedback"] for loop in answer["loops"]] == [True, False, True]
    # Which it takes for every loop that was accepted: it looks there for the metrics of each factor.
    assert [loop["is_sota"] for loop in answer["loops"]] == [True, False, True]
    assert [loop["is_last_sota"] for loop in answer["loops"]] == [False, False, True]
    assert (first["exp_type"], first["valid_score"]) == ("QlibFactorExperiment", first["metrics"]["IC"])
    assert (last["all_factors"], last["total_count"]) == (["GapA", "Extra", "Broken"], 3)
    assert (last["tested_factors"], last["tested_count"]) == (["GapA", "Extra"], 2)


def test_accepted_loops_of_models(served: Served) -> None:
    """It catalogues every loop whose `exp_type` names a model and that was accepted, by the model's name."""
    accepted, rejected = get_json(f"{served.url}/tasks/model/loops")["loops"]
    for loop, name in ((accepted, "Net"), (rejected, "Worse")):
        assert (loop["exp_type"], loop["model_name"]) == ("QlibModelExperiment", name)
        assert loop["is_last_sota"] is False
        assert (loop["model_type_tag"], loop["model_architecture"]) == ("Tabular", "one layer")
    assert (accepted["is_sota"], rejected["is_sota"]) == (True, False)


def test_code_of_a_model(served: Served) -> None:
    """It asks for each accepted model's, by the loop; one that is not there, or no model's, is a problem."""
    given = get_json(f"{served.url}/tasks/model/loops/0/model_code")
    assert (given["ok"], given["loop_id"]) == (True, 0)
    assert given["model_code"] == MODEL_CODE
    for path, status, slug in (
        ("model/loops/9/model_code", 404, "loop-not-found"),
        ("accepted/loops/0/model_code", 409, "asset-not-available"),
    ):
        answer = served.get(f"/tasks/{path}")
        assert (answer.status, answer.document["slug"]) == (status, slug)


def test_an_inherited_loop_is_another_runs(served: Served) -> None:
    """It is accepted there, and not here."""
    loops = get_json(f"{served.url}/tasks/inheriting/loops")["loops"]
    assert any(loop["decision"] for loop in loops)
    assert not any(loop["is_sota"] for loop in loops if loop["inherited_from"] is not None)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("factor.py", "factor.py"),
        ("model.pkl", "model.pkl"),
        ("assets?relpath=factor_entry.py", "factor_entry.py"),
        ("asset_bytes?key=factor.py", "factor.py"),
        ("assets?relpath=model.pkl", "model.pkl"),
    ],
)
def test_what_a_run_without_accepted_factors_lacks(served: Served, path: str, named: str) -> None:
    """One cause, one answer: the name that was asked for, and why it is not there."""
    answer = served.get(f"/tasks/model/{path}")
    assert (answer.status, answer.document["slug"]) == (409, "asset-not-available")
    assert f"has no {named}: " in answer.document["detail"]
    assert "accepted no factor experiment" in answer.document["detail"]


def test_an_unknown_asset_is_named_as_it_was_asked_for(served: Served) -> None:
    """By its relative path, and not by what that was taken for."""
    answer = served.get("/tasks/accepted/assets?relpath=workspaces%2Fx%2Ffactor_entry.py")
    assert "'workspaces/x/factor_entry.py'" in answer.document["detail"]


def test_the_preview(served: Served, project: Project) -> None:
    """Every field says what the bundle says."""
    assert get_json(f"{served.url}/tasks/accepted/v2_alignment_preview") == {
        "ok": True,
        "task_id": "accepted",
        "error": None,
        "hist_len": 3,
        "last_sota_factor_index": 2,
        "sota_factors": FACTORS,
        "sota_factors_count": 3,
        "sota_source": "parquet_schema",
        "alpha_factors": [],
        "alpha_factors_count": 0,
        "alpha_source": None,
        "model_feature_count": 3,
        "model_source": "fitted processors and lightgbm weights",
        "expected_total_features": 3,
        "is_aligned": True,
        "factor_order": ORDER,
        "has_model_weight": True,
        "has_model_meta": True,
        "workspace_path": str(project.workspace),
    }


def test_complete_assets(served: Served, project: Project) -> None:
    """Weights by their key; every part counted; no path on the server's disk among what is to be fetched."""
    found = get_json(f"{served.url}/tasks/latest/complete_assets")
    weight = found["model_weight"]
    assert (weight["found"], weight["key"], weight["file_path"]) == (True, "model.pkl", None)
    assert weight["size_bytes"] == project.weights.stat().st_size
    assert weight["sha256"] == hashlib.sha256(project.weights.read_bytes()).hexdigest()
    assert found["sota_factors"] == {"count": 3, "factors": FACTORS}
    assert [each["loop_id"] for each in found["factor_codes"]] == [0, 2, 2]
    assert found["feature_sequence"]["factor_order"] == ORDER
    assert found["feature_sequence"]["total_count"] == 3
    assert found["session_info"]["last_sota_factor_loop_id"] == 2
    assert found["validation"]["all_ok"] is True


def test_aligned_factors(served: Served) -> None:
    """Each factor with code, formula and the metrics of its loop."""
    found = get_json(f"{served.url}/api/extractors/sota_factors/v2/accepted/aligned")
    assert (found["success"], found["factor_names"], found["factor_count"]) == (True, FACTORS, 3)
    assert (found["last_sota_hist_index"], found["based_experiments_count"]) == (2, 1)
    for name in FACTORS:
        factor = found["aligned_factors"][name]
        assert factor["source_code"] == code_of(name)
        assert factor["source_code_length"] == len(code_of(name))
        assert factor["factor_formulation"] == r"\frac{a}{b}"
        assert factor["metrics"]["IC"] is not None
    assert found["aligned_factors"]["ZMom"]["source_from"] == "loop 0"


def test_files_by_their_own_paths(served: Served, project: Project) -> None:
    """``factor.py`` and ``model.pkl`` as files, and all assets by relative path, as workspaces have them."""
    task = f"{served.url}/tasks/accepted"
    code, weights = code_of("GapA").encode(), project.weights.read_bytes()
    assert get(f"{task}/factor.py") == code
    assert get(f"{task}/model.pkl") == weights
    place = f"workspaces/{project.workspace.name}"
    for relpath, content in {
        "factor_entry.py": code,
        "factor.py": code,
        "model.pkl": weights,
        "/model.pkl": weights,
        f"{place}/factor_entry.py": code,
        f"{place}/model.pkl": weights,
        f"{place}/model.pkl".replace("/", "\\"): weights,
        "based_factor_0/factor.py": code_of("ZMom").encode(),
    }.items():
        assert get(f"{task}/assets?{urllib.parse.urlencode({'relpath': relpath})}") == content, relpath
    listed = get_json(f"{task}/assets?relpath=factor_order.json")
    assert listed["factor_order"] == ORDER


@pytest.mark.parametrize(
    "relpath",
    [
        "../../canary.txt",
        "..%2f..%2fcanary.txt",
        "workspaces/../../canary.txt",
        "workspaces/{place}/../../../canary.txt",
        "workspaces/{place}/mlruns",
        "workspaces/{place}/combined_factors_df.parquet",
        "workspaces/other/model.pkl",
        "{root}/canary.txt",
        "//canary.txt",
        "..\\..\\canary.txt",
        "C:\\canary.txt",
        "factor_entry.py/../../canary.txt",
        "model.pkl\0",
        "a" * 512,
        "workspaces/",
    ],
)
def test_a_relative_path_is_looked_up_and_never_opened(
    served: Served, project: Project, relpath: str
) -> None:
    """What is not a listed asset is not found, whatever lies at that path."""
    relpath = relpath.format(place=project.workspace.name, root=project.folder)
    answer = served.get(f"/tasks/accepted/assets?relpath={quote(relpath, safe='')}")
    assert (answer.status, answer.document["slug"]) == (404, "asset-not-found")
    assert CANARY.encode() not in answer.body


def test_workspaces(served: Served, project: Project) -> None:
    """Where each is, and its size; one that is gone is listed with that."""
    for quick in ("true", "false"):
        found = get_json(f"{served.url}/tasks/accepted/workspaces?quick={quick}")
        by_name = {each["name"]: each for each in found["workspaces"]}
        own = by_name[project.workspace.name]
        assert own["path"] == str(project.workspace)
        size = sum(path.stat().st_size for path in project.workspace.rglob("*") if path.is_file())
        assert own["size_mb"] == round(size / 2**20, 2)
        assert found["total_size_mb"] == own["size_mb"]
        assert found["task_dir"] == str(project.log / "accepted")
    (gone,) = get_json(f"{served.url}/tasks/gone/workspaces?quick=true")["workspaces"]
    assert (gone["size_mb"], gone["path"]) == (None, "/nowhere/at/all")


def test_each_based_factor_has_its_entry(served: Served) -> None:
    """The singular key, too, beside the list."""
    anchor = get_json(f"{served.url}/tasks/accepted/sota_factor_anchor")
    (entry,) = anchor["based_factor_entries"]
    assert entry["resolved_factor_entry_key"] == "based_factor_0/factor.py"
    key = quote(entry["resolved_factor_entry_key"], safe="")
    assert get(f"{served.url}/tasks/accepted/asset_bytes?key={key}") == code_of("ZMom").encode()


@pytest.mark.parametrize("task", ["rejected", "model", "inheriting", "gone"])
def test_what_cannot_be_had_is_never_ok(served: Served, task: str) -> None:
    """Without accepted factors, or with the model gone, each answer says so and why, and no order is invented."""
    base = served.url
    preview = get_json(f"{base}/tasks/{task}/v2_alignment_preview")
    assert (preview["ok"], preview["is_aligned"], preview["factor_order"]) == (False, False, [])
    assert (preview["model_feature_count"], preview["has_model_meta"]) == (None, False)
    assert preview["error"]
    assets = get_json(f"{base}/tasks/{task}/complete_assets")
    assert (assets["ok"], assets["model_weight"]["found"]) == (False, False)
    assert assets["error"] and assets["validation"]["errors"]
    aligned = get_json(f"{base}/api/extractors/sota_factors/v2/{task}/aligned")
    assert aligned["success"] is False and aligned["error"]
    assert aligned["factor_names"] == (["ZMom"] if task == "gone" else [])
    assert get_json(f"{base}/tasks/{task}/sota_factor_anchor")["ok"] is False


def test_alpha_features(served: Served) -> None:
    """Of the newest accepted run; this one's model has none."""
    found = get_json(f"{served.url}/alpha158/meta")
    assert (found["task_id"], found["count"], found["factors"]) == ("accepted", 0, [])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/tasks/accepted", 405),
        ("DELETE", "/tasks/latest", 405),
        ("POST", "/ops/sync-confirm", 404),
        ("POST", "/ops/materialize-and-refresh", 404),
        ("GET", "/ops/anything", 404),
        ("POST", "/api/extractors/sota_factors/v2/accepted/aligned", 405),
    ],
)
def test_nothing_is_changed_on_request(served: Served, method: str, path: str, status: int) -> None:
    """The server reads; it neither deletes nor works on demand."""
    answer = served.get(path, method)
    assert answer.status == status
    assert served.get("/tasks/accepted").status == 200


FIGURES = {
    "ic_mean", "ic_std", "icir", "ic_t", "rank_ic_mean", "rank_ic_std", "rank_icir", "rank_ic_t", "rank_ic_1d",
    "rank_ic_5d", "rank_ic_10d", "rank_ic_20d", "turnover", "autocorrelation", "coverage", "quantile_returns",
    "quantile_spread",
}  # fmt: skip
STORED = {
    "ic_mean", "ic_std", "rank_ic_mean", "rank_ic_std", "icir", "rank_icir", "ic_positive_ratio", "top_annual_return",
    "top_excess_annual_return", "top_sharpe", "top_max_drawdown", "top_excess_sharpe", "benchmark_annual_return",
    "group_return_monotonicity", "turnover", "ic_decay_half_life", "rank_ic_1d", "rank_ic_5d", "rank_ic_10d",
    "rank_ic_20d", "coverage", "n_trading_days",
}  # fmt: skip


def test_figures_of_single_factors(served: Served) -> None:
    """Of the SOTA and of a loop: every figure that the program stores, for every factor, with the day of its data."""
    path = f"{served.url}/api/extractors/sota_factors/v2/accepted"
    found = get_json(f"{path}/factor_metrics")
    assert (found["success"], found["factor_count"], found["metrics_count"]) == (True, 3, 3)
    assert [each["factor_name"] for each in found["metrics"]] == FACTORS
    for item in found["metrics"]:
        assert item.keys() >= FIGURES | STORED
        assert item["calculated_at"] and item["eval_window"] == "full"
        assert (item["data_start"], item["data_end"]) == ("2020-10-05", "2020-10-16")
        assert {name for name in FIGURES if item[name] is None} == {
            "rank_ic_5d",
            "rank_ic_10d",
            "rank_ic_20d",
        }
    assert found["metrics"][0]["ic_mean"] > 0.4
    assert [each["status"] for each in found["factor_reports"]] == ["ok"] * 3
    assert found["calc_batch_id"]
    assert get_json(f"{path}/loops/2/factor_metrics") == found


@pytest.mark.parametrize(
    ("path", "slug"),
    [
        ("accepted/loops/99/factor_metrics", "loop-not-found"),
        ("accepted/loops/1/factor_metrics", "table-not-found"),
        ("gone/factor_metrics", "table-not-found"),
        ("rejected/factor_metrics", "no-accepted-factors"),
    ],
)
def test_figures_that_there_are_not(served: Served, path: str, slug: str) -> None:
    """A problem with its reason, as the program records it."""
    answer = served.get(f"/api/extractors/sota_factors/v2/{path}")
    assert answer.document["slug"] == slug
    assert answer.status == (404 if slug == "loop-not-found" else 409)
