"""``rdagent-sota export`` as people and programs use it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_patch.bundle.opening import open_bundle
from rdagent_sota_patch.cli import app
from rdagent_sota_patch.export.export_run import factor_codes
from rdagent_sota_patch.lookahead.kept import keep_audit
from rdagent_sota_patch.lookahead.verdicts import Audit, FactorVerdict, ReadTable, hash_code
from rdagent_sota_patch.sessions.logs import find_log
from tests.export.made_run import ORDER, make_run
from tests.sessions.forged import factor_experiment, feedback, put, saved_loop, workspace


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """What a command loads from ``.env`` stays in this process: it goes with the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's log with a workspace that can be exported, in the current folder's project."""
    run = make_run(tmp_path / "project")
    last = factor_experiment("GapA", "Extra", experiment_workspace=workspace(str(run.workspace)))
    loop = saved_loop(
        (factor_experiment("ZMom"), feedback(True)),
        (factor_experiment("Rejected"), feedback(False)),
        (last, feedback(True)),
    )
    put(run.session.log, 2, "4_record", loop)
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("SOTA_WORKSPACE_ROOT", raising=False)
    return run.session.log


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def call_json(*arguments: object) -> tuple[Any, int]:
    result = call(*arguments, "--json")
    return json.loads(result.stdout), result.exit_code


def test_text_says_what_was_shipped(log: Path, tmp_path: Path) -> None:
    """The features, what mattered to the model, the audit that was not made, and the replay."""
    result = call("export", log, "--out", tmp_path / "bundle")
    assert result.exit_code == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert "Loop 2 of mined, factor stage" in text
    assert "3: 3 mined + 0 Alpha" in text
    assert "ZMom, GapA, Extra" in text
    assert "not audited" in text and "which files the factors read, is not in the bundle" in text
    assert "60 scores on 5 days exactly the back-test's" in text
    assert "%" in text.split("gain", 1)[1]
    open_bundle(tmp_path / "bundle")


def test_json_is_one_object(log: Path, tmp_path: Path) -> None:
    """Everything that a program would ask for."""
    document, code = call_json("export", log, "--out", tmp_path / "bundle")
    assert code == 0
    assert (document["stage"], document["loop"], document["model"]) == ("factor", 2, "lightgbm")
    assert document["factor_order"] == list(ORDER)
    assert document["replay"] == {"rows": 60, "days": 5, "max_difference": 0.0, "rank_correlation": 1.0}
    assert document["audit"] == "not audited"
    assert document["path"] == str(tmp_path / "bundle")
    assert set(document["files"]) == set(open_bundle(tmp_path / "bundle").manifest.files)


def test_evidence_comes_along(log: Path, tmp_path: Path) -> None:
    """What `evidence --json` says of the same log, as a file of the bundle that the manifest hashes; the same twice."""
    documents = [call_json("export", log, "--out", tmp_path / name)[0] for name in ("one", "two")]
    said, _ = call_json("evidence", log)
    for name, document in zip(("one", "two"), documents, strict=True):
        assert document["evidence"] == said
        assert json.loads((tmp_path / name / "evidence.json").read_text()) == said
        bundle = open_bundle(tmp_path / name)
        assert bundle.manifest.diagnostics["evidence"] == {"mode": "written"}
    assert documents[0]["files"]["evidence.json"] == documents[1]["files"]["evidence.json"]
    assert (said["trials"], said["winner"]["loop"]) == (3, 2)


def test_evidence_is_of_what_is_shipped(log: Path, tmp_path: Path) -> None:
    """Of the loop that was asked for, though another one won."""
    document, code = call_json("export", log, "--loop", 0, "--factors-only", "--out", tmp_path / "bundle")
    assert (code, document["loop"], document["evidence"]["winner"]["loop"]) == (0, 0, 0)


def test_without_evidence_the_bundle_says_why(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its libraries are not installed."""
    monkeypatch.setattr("rdagent_sota_patch.cli.evidence.find_missing_libraries", lambda: ["arch"])
    result = call("export", log, "--out", tmp_path / "bundle")
    assert result.exit_code == 0 and "none: arch not installed" in " ".join(result.stdout.split())
    said = open_bundle(tmp_path / "bundle").manifest.diagnostics["evidence"]
    assert said["mode"] == "skipped" and said["reason"].startswith("arch not installed")
    assert not (tmp_path / "bundle" / "evidence.json").exists()


def test_an_earlier_audit_is_taken_over(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all of these factors, on the data folder that is the default, as it is now; else it says what is not known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    (data / "daily_pv.h5").write_bytes(b"market")
    (data / "flow.parquet").write_bytes(b"flow")
    session = find_log(log, [])
    codes = factor_codes(session, "factor", ())

    def audited(*names: str) -> Audit:
        return Audit(
            audited_at_utc="2026-01-01T00:00:00+00:00",
            data_start="2020-01-01",
            data_end="2020-12-31",
            cuts=("2020-06-01",),
            factors=tuple(
                FactorVerdict(
                    name=name,
                    causal=True,
                    changed_share=0.0,
                    max_change=None,
                    lookback_days=3,
                    code_sha256=hash_code(codes[name]),
                    reads=(
                        ReadTable(name="daily_pv.h5", dated=True),
                        ReadTable(name="flow.parquet", dated=True),
                    ),
                )
                for name in names
            ),
        )

    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", str(data))
    keep_audit(audited("ZMom", "GapA"), data)
    document, _ = call_json("export", log, "--out", tmp_path / "some")
    assert document["audit"] == "not audited"
    keep_audit(audited("ZMom", "GapA", "Extra"), data)
    document, _ = call_json("export", log, "--out", tmp_path / "all")
    assert [factor["name"] for factor in document["audit"]["factors"]] == ["ZMom", "GapA", "Extra"]
    assert document["audit"]["factors"][2]["reads"][1]["name"] == "flow.parquet"
    (data / "flow.parquet").write_bytes(b"other")
    document, _ = call_json("export", log, "--out", tmp_path / "changed")
    assert document["audit"] == "not audited"


def test_latest_is_a_log(log: Path, tmp_path: Path) -> None:
    """The newest run with accepted factors in this project."""
    document, code = call_json("export", "latest", "--out", tmp_path / "bundle")
    assert (code, document["task_id"]) == (0, log.name)


def test_an_existing_bundle_needs_force(log: Path, tmp_path: Path) -> None:
    """And is told apart from success by the exit code."""
    assert call("export", log, "--out", tmp_path / "bundle").exit_code == 0
    document, code = call_json("export", log, "--out", tmp_path / "bundle")
    assert (code, document["problems"][0]["slug"]) == (1, "target-exists")
    assert call("export", log, "--out", tmp_path / "bundle", "--force").exit_code == 0


def test_parts_can_be_left_out(log: Path, tmp_path: Path) -> None:
    """The evidence, or the model."""
    document, _ = call_json("export", log, "--out", tmp_path / "a", "--no-replay")
    assert document["replay"] is None
    document, _ = call_json("export", log, "--out", tmp_path / "b", "--factors-only")
    assert (document["factors_only"], document["model"], document["factor_order"]) == (True, None, None)
    assert "factors alone" in call("export", log, "--out", tmp_path / "c", "--factors-only").stdout


def test_the_notes_layout(log: Path, tmp_path: Path) -> None:
    """A list of factors at the top, in a folder that `verify` takes; together with the model stage it is refused."""
    document, code = call_json("export", log, "--out", tmp_path / "notes", "--layout", "notes")
    assert (code, "model_weights.pkl" in document["files"]) == (0, True)
    factors = json.loads((tmp_path / "notes" / "sota_factors.json").read_text())
    assert [factor["name"] for factor in factors] == ["ZMom", "GapA", "Extra"]
    assert call("verify", tmp_path / "notes").exit_code == 0
    document, code = call_json(
        "export", log, "--out", tmp_path / "b", "--layout", "notes", "--stage", "model"
    )
    assert (code, document["problems"][0]["slug"]) == (1, "notes-of-a-model")


def test_signing(log: Path, tmp_path: Path) -> None:
    """With a key; either option alone is a mistake, found before anything is written."""
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    assert call("export", log, "--out", tmp_path / "a", "--sign", "--key-file", key).exit_code == 0
    assert open_bundle(tmp_path / "a", key=key.read_bytes()).signed
    for half in (["--sign"], ["--key-file", key]):
        document, code = call_json("export", log, "--out", tmp_path / "b", *half)
        assert (code, document["problems"][0]["slug"]) == (1, "bad-key-file")
    assert not (tmp_path / "b").exists()


def test_an_unknown_stage_is_bad_usage(log: Path, tmp_path: Path) -> None:
    """Exit code 2, as for any option that is misspelled."""
    assert call("export", log, "--out", tmp_path / "bundle", "--stage", "both").exit_code == 2


def test_the_other_stage(log: Path, tmp_path: Path) -> None:
    """A factor log has no model of its own."""
    document, code = call_json("export", log, "--out", tmp_path / "bundle", "--stage", "model")
    assert (code, document["problems"][0]["slug"]) == (1, "no-accepted-model")


def test_an_earlier_loop_is_shipped_where_its_workspace_is(log: Path, tmp_path: Path) -> None:
    """``--loop 0`` means the first acceptance, whose workspace is gone: that is said; the last is not taken."""
    document, code = call_json("export", log, "--out", tmp_path / "bundle", "--loop", "0")
    assert code == 1
    assert document["problems"][0]["slug"] == "weights-missing"
    document, code = call_json("export", log, "--out", tmp_path / "bundle", "--loop", "1")
    assert (code, document["problems"][0]["slug"]) == (1, "loop-not-accepted")
    document, code = call_json("export", log, "--out", tmp_path / "bundle", "--loop", "2")
    assert (code, document["loop"]) == (0, 2)
    assert call("export", log, "--out", tmp_path / "b", "--loop", "2", "--best", "IC").exit_code == 2
