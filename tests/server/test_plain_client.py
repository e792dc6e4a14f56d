"""A user's own client, as it is written down for such an API: the standard library, no headers, no retries."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.bundle.made import FACTOR_CODE, FACTOR_DAYS
from tests.results.log_root import EMBEDDED, Project

from .served import Served


def get(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        content: bytes = answer.read()
    return content


def get_json(url: str) -> Any:
    return json.loads(get(url))


def asset_bytes(base: str, task_id: str, key: str) -> bytes:
    return get(f"{base}/tasks/{task_id}/asset_bytes?{urllib.parse.urlencode({'key': key})}")


@pytest.mark.parametrize("asked", ["accepted", "latest"])
def test_anchor_then_weights_and_code(served: Served, project: Project, tmp_path: Path, asked: str) -> None:
    """Anchor, the source held to be the experiment's own, weights, entry code, code of what it is based on."""
    base = served.url
    anchor = get_json(f"{base}/tasks/{asked}/sota_factor_anchor")
    assert anchor["ok"] is True
    assert anchor["resolved_model_weight_source"] == "factor_exp"
    assert anchor["resolved_model_weight_key"] in ["model.pkl", "params.pkl"]
    task_id = anchor["task_id"]

    weights = asset_bytes(base, task_id, anchor["resolved_model_weight_key"])
    model = tmp_path / "model_weights.pkl"
    model.write_bytes(weights)
    entry = tmp_path / "factor_entry.py"
    entry.write_bytes(asset_bytes(base, task_id, anchor["resolved_factor_entry_key"]))
    for based in anchor["based_factor_entries"]:
        folder = tmp_path / f"based_factor_{based['based_index']}"
        folder.mkdir()
        for key in based["resolved_factor_entry_keys"]:
            (folder / key.rpartition("/")[2]).write_bytes(asset_bytes(base, task_id, key))

    assert model.read_bytes() == project.weights.read_bytes()
    assert hashlib.sha256(weights).hexdigest() == anchor["resolved_model_weight_sha256"]
    assert entry.read_text() == code_of("GapA")
    assert (tmp_path / "based_factor_0" / "factor.py").read_text() == code_of("ZMom")
    compile(entry.read_bytes(), str(entry), "exec")


def code_of(name: str) -> str:
    return FACTOR_CODE.format(name=name, days=FACTOR_DAYS.get(name, 2))


def test_keys_as_they_are_guessed(served: Served) -> None:
    """Both names of the weights give the same bytes; a key may be pasted into the address as it is."""
    base = served.url
    weights = get(f"{base}/tasks/accepted/asset_bytes?key=model.pkl")
    assert get(f"{base}/tasks/accepted/asset_bytes?key=params.pkl") == weights
    code = get(f"{base}/tasks/accepted/asset_bytes?key=based_factor_0/factor.py")
    assert code == get(f"{base}/tasks/accepted/asset_bytes?key=based_factor_0%2Ffactor.py")
    assert code.decode() == code_of("ZMom")


def test_weights_that_the_log_alone_has(served: Served) -> None:
    """Where the session holds them, no workspace is needed."""
    anchor = get_json(f"{served.url}/tasks/embedded/sota_factor_anchor")
    assert anchor["resolved_model_weight_key"] in ["model.pkl", "params.pkl"]
    assert asset_bytes(served.url, "embedded", anchor["resolved_model_weight_key"]) == EMBEDDED


def test_the_factors_of_the_sota(served: Served) -> None:
    """Names and formulas of the factors, those it is based on first; the one that was not implemented says so."""
    sota = get_json(f"{served.url}/tasks/accepted/summary")["sota"]
    assert [factor["name"] for factor in sota["factors"]] == ["ZMom", "GapA", "Extra", "Broken"]
    assert [factor["implemented"] for factor in sota["factors"]] == [True, True, True, False]
    assert all(factor["formulation"] for factor in sota["factors"])


def test_which_session_was_chosen(served: Served) -> None:
    """The snapshot with the longest history, as the client would have chosen it."""
    session = get_json(f"{served.url}/tasks/accepted/session_anchor")
    assert session["ok"] is True
    assert session["chosen_session_file"] == "__session__/2/4_record"
    assert (session["source_session_dir_id"], session["hist_len"]) == (2, 3)


@pytest.mark.parametrize("task", ["rejected", "inheriting", "model"])
def test_a_run_without_sota(served: Served, task: str) -> None:
    """The anchor says so in its fields, and the client's own check ends it before it asks for any weights."""
    anchor = get_json(f"{served.url}/tasks/{task}/sota_factor_anchor")
    assert anchor["ok"] is False
    assert anchor["resolved_model_weight_source"] is None
    assert anchor["resolved_model_weight_key"] is None
    assert anchor["last_sota_factor_index_error"]
    with pytest.raises(urllib.error.HTTPError) as caught:
        asset_bytes(served.url, task, "model.pkl")
    with caught.value as answer:
        assert answer.code == 409
        assert json.load(answer)["hint"]


def test_weights_are_never_a_models(served: Served) -> None:
    """The weights of the last accepted factor experiment, or none: those of a model experiment never stand in."""
    anchor = get_json(f"{served.url}/tasks/gone/sota_factor_anchor")
    assert anchor["last_sota_factor_index"] == 0
    assert anchor["resolved_model_weight_key"] is None
    assert "is gone" in anchor["resolved_model_weight_key_error"]
