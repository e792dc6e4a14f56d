"""The commands as people and programs use them: text, ``--json``, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pytest_mock import MockerFixture
from typer.testing import CliRunner, Result

from rdagent_sota_patch import environment
from rdagent_sota_patch._startup import AttachFinder
from rdagent_sota_patch.cli import app
from rdagent_sota_patch.factor_table.provenance import read_provenance
from rdagent_sota_patch.plugin import traits
from rdagent_sota_patch.settings import Settings
from tests.patching.released import LOOP, write_source
from tests.sessions.generated_log import KEY, METRICS, PlannedLoop, generate_log
from tests.stages.conftest import furnish


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """What a command loads from ``.env`` stays in this process: it goes with the test."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of RD-Agent's own classes: accepted, rejected, accepted with two factors, a model."""
    pytest.importorskip("rdagent")
    return generate_log(
        tmp_path_factory.mktemp("project") / "log" / "run",
        [
            PlannedLoop(factors=("Rev5",)),
            PlannedLoop(factors=("Vol10",), accepted=False),
            PlannedLoop(factors=("Gap3", "Mom60")),
            PlannedLoop(kind="model"),
        ],
    )


@pytest.fixture
def log(generated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log in a project of its own, the current folder; its key at hand, no settings."""
    for name in (*Settings.model_fields, "log_trace_path", "artifact_signing_key_path"):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    for name, day in (
        ("TRAIN_START", "2020-01-01"),
        ("TRAIN_END", "2020-01-10"),
        ("VALID_START", "2020-01-11"),
        ("VALID_END", "2020-01-20"),
        ("TEST_START", "2020-01-21"),
        ("TEST_END", "2020-01-31"),
    ):
        monkeypatch.setenv(f"QLIB_MODEL_{name}", day)
    project = tmp_path / "project"
    shutil.copytree(generated.parent.parent, project)
    monkeypatch.chdir(project)
    return project / "log" / "run"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def inspect_json(log: Path) -> dict[str, Any]:
    return dict(json.loads(run("inspect", log, "--json").stdout))


def write_table(folder: Path, names: tuple[str, ...] = ("Rev5", "Gap3", "Mom60")) -> Path:
    """A table of these factors, where the log's SOTA experiment kept its own."""
    index = pd.MultiIndex.from_product(
        [pd.date_range("2020-01-01", "2020-01-31", freq="B"), ["SH600000", "SZ000001"]],
        names=["datetime", "instrument"],
    )
    frame = pd.DataFrame(0.5, index=index, columns=pd.MultiIndex.from_product([["feature"], names]))
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "combined_factors_df.parquet")
    return folder / "combined_factors_df.parquet"


def sota_workspace(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for the SOTA experiment's workspace: found by its name under SOTA_WORKSPACE_ROOT."""
    recorded = Path(inspect_json(log)["sota"]["workspace"])
    monkeypatch.setenv("SOTA_WORKSPACE_ROOT", str(tmp_path / "moved"))
    return tmp_path / "moved" / recorded.name


def test_inspect_for_people(log: Path) -> None:
    """Loops, decisions, factors and the SOTA mark are on the screen."""
    result = run("inspect", log)
    assert result.exit_code == 0
    for text in ("run", "verified", "accepted", "rejected", "SOTA", "Rev5, Gap3, Mom60", "0.0125"):
        assert text in result.stdout


def test_inspect_json(log: Path) -> None:
    """One object, with the documented keys, and the SOTA's factors oldest first."""
    document = inspect_json(log)
    assert (document["task_id"], document["hist_len"], document["signature"]) == ("run", 4, "verified")
    assert [(loop["kind"], loop["decision"]) for loop in document["loops"]] == [
        ("factor", True),
        ("factor", False),
        ("factor", True),
        ("model", True),
    ]
    assert document["sota"]["loop"] == 2
    assert document["sota"]["factors"] == ["Rev5", "Gap3", "Mom60"]
    assert document["loops"][0]["metrics"] == METRICS
    assert set(document["loops"][0]["factors"][0]) >= {"name", "description", "formulation"}


@pytest.mark.parametrize("spelling", ["latest", "log/run", "log/run/__session__"])
def test_every_way_to_name_a_log(log: Path, spelling: str) -> None:
    """``latest``, the folder and its ``__session__`` mean the same run."""
    assert json.loads(run("inspect", spelling, "--json").stdout)["task_id"] == "run"


def test_missing_log_is_one_problem(log: Path) -> None:
    """Exit code 1; text on stderr, or one object with ``--json``."""
    result = run("inspect", "nowhere")
    assert result.exit_code == 1
    assert "Log path does not exist: nowhere" in result.stderr and "log-not-found" in result.stderr
    document = json.loads(run("inspect", "nowhere", "--json").stdout)
    assert document["problems"][0]["slug"] == "log-not-found"


def test_bad_usage_is_two() -> None:
    """A missing argument is exit code 2."""
    assert run("inspect").exit_code == 2
    assert run("save", "log").exit_code == 2


def test_doctor_without_settings(log: Path) -> None:
    """Nothing on: nothing wrong, and the person is told that RD-Agent is as without the plugin."""
    result = run("doctor")
    assert result.exit_code == 0
    assert "as if the plugin were not installed" in result.stdout
    assert json.loads(run("doctor", "--json").stdout)["source"] is None


def test_doctor_announces_seeds(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SOTA_ACCEPT_SEEDS is told, with a notice where a summarizer of the user's own may decide."""
    monkeypatch.setenv("SOTA_ACCEPT_SEEDS", "5")
    said = run("doctor").stdout
    assert "beats the noise of 5 seeds" in said and "as if the plugin were not installed" not in said
    monkeypatch.setenv("QLIB_MODEL_SUMMARIZER", "mine.Summarizer")
    document = json.loads(run("doctor", "--json").stdout)
    assert (document["accept_seeds"], [n["slug"] for n in document["notices"]]) == (
        5,
        [*NEEDS, "own-summarizer"],
    )


def test_doctor_without_the_hook(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the hook is not in Python, or is switched off in ``.env``, a run would go without the plugin."""
    Path(".env").write_text("RDAGENT_SOTA_DISABLE=true\n", encoding="utf-8")
    assert [p["slug"] for p in json.loads(run("doctor", "--json").stdout)["problems"]] == ["not-active"]
    del os.environ["RDAGENT_SOTA_DISABLE"]
    Path(".env").unlink()
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if finder is not AttachFinder])
    document = json.loads(run("doctor", "--json").stdout)
    assert (document["active"], [p["slug"] for p in document["problems"]]) == (False, ["not-active"])


def test_doctor_and_run_agree_on_a_patched_source(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the hook, a patched source activates the plugin for both, and a half patched one for neither."""
    from rdagent_sota_patch.host_source import HostSource
    from rdagent_sota_patch.patching.source import apply_patch, inspect_source
    from rdagent_sota_patch.plugin import activation

    def slugs() -> list[list[str]]:
        """Problems that the doctor tells, and those that a run ends with."""
        doctor = json.loads(run("doctor", "--json").stdout)
        assert doctor["active"] is (not doctor["problems"])
        started = run("run", "--factor-log", "nowhere", "--model-loops", "1", "--json")
        told = doctor["problems"], json.loads(started.stdout)["problems"]
        return [[problem["slug"] for problem in problems] for problems in told]

    (tmp_path / "bin").mkdir()
    furnish(tmp_path / "home", tmp_path / "bin", monkeypatch)
    checkout = tmp_path / "checkout"
    write_source(checkout)
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if finder is not AttachFinder])
    monkeypatch.setattr(activation, "find_host", lambda: HostSource(checkout / "rdagent", ""))
    assert slugs() == [["not-active"], ["not-active"]]
    content = (checkout / LOOP).read_bytes()
    apply_patch(inspect_source(checkout))
    assert slugs() == [[], ["log-not-found"]]
    assert "active (source patch)" in run("doctor").stdout
    (checkout / LOOP).write_bytes(content)
    assert slugs() == [["patch-half-applied"], ["patch-half-applied"]]


def test_doctor_ready(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good source: factors, dates and the feature count, names shared with Alpha counted once."""
    workspace = sota_workspace(log, tmp_path, monkeypatch)
    write_table(workspace, ("Rev5", "Gap3", "KLEN"))
    monkeypatch.setenv("LOAD_SOTA_FROM_LOG", "true")
    monkeypatch.setenv("SOTA_LOG_PATH", "latest")
    monkeypatch.setenv("USE_ALPHA_FACTORS", "true")
    result = run("doctor")
    assert result.exit_code == 0, result.stderr
    assert "3 SOTA + 20 Alpha, 1 name shared → 22 features, 2020-01-01…2020-01-31, ready" in result.stdout
    document = json.loads(run("doctor", "--json").stdout)
    assert (document["alpha_factors"], document["num_features"], document["problems"]) == (20, 22, [])
    source = document["source"]
    assert (source["kind"], source["loop"], source["rows"]) == ("log", 2, 46)
    assert source["workspace"] == str(workspace)
    assert source["fingerprint"].startswith("sha256:")


def test_doctor_asks_for_an_audit(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With SOTA_REQUIRE_CAUSAL the doctor names each factor that nobody audited, and still all it found."""
    write_table(sota_workspace(log, tmp_path, monkeypatch), ("Rev5", "Gap3"))
    monkeypatch.setenv("LOAD_SOTA_FROM_LOG", "true")
    monkeypatch.setenv("SOTA_LOG_PATH", "latest")
    monkeypatch.setenv("SOTA_REQUIRE_CAUSAL", "true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = run("doctor", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["num_features"]) == (1, 2)
    assert [problem["slug"] for problem in document["problems"]] == ["factor-not-audited"] * 2
    assert all("rdagent-sota audit" in problem["hint"] for problem in document["problems"])


NEEDS = ("environment-missing", "llm-key-missing", "qlib-data-missing")
"""Of RD-Agent itself, and not there in these tests: `run` stops for them, and `doctor` says so."""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No conda, no key and no Qlib data, whatever the machine has."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if "API_KEY" in name or "API_BASE" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", "conda")


def test_doctor_tells_every_problem(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wish that cannot be met and a broken table are reported together, with exit code 1."""
    workspace = tmp_path / "w"
    workspace.mkdir()
    (workspace / "combined_factors_df.parquet").write_bytes(b"no parquet")
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", str(workspace))
    monkeypatch.setenv("SOTA_INHERIT_TRACE", "true")
    monkeypatch.setenv("SOTA_LOG_PATH", "latest")
    result = run("doctor", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [problem["slug"] for problem in document["problems"]] == [
        "inherit-without-log",
        "table-unreadable",
    ]
    assert [notice["slug"] for notice in document["notices"]] == [*NEEDS, "path-without-switch"]


def test_doctor_reads_dotenv(log: Path, tmp_path: Path) -> None:
    """Settings, and RD-Agent's dates with them, may stand in ``.env``."""
    write_table(tmp_path / "w")
    Path(".env").write_text(
        f"LOAD_SOTA_FROM_WORKSPACE=yes\nSOTA_WORKSPACE_PATH={tmp_path / 'w'}\n", encoding="utf-8"
    )
    assert json.loads(run("doctor", "--json").stdout)["source"]["kind"] == "workspace"


@pytest.mark.parametrize(("overrides", "alpha"), [(False, 0), (True, 20)])
def test_doctor_says_where_a_value_comes_from(
    overrides: bool,
    alpha: int,
    log: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mocker: MockerFixture,
) -> None:
    """Environment and ``.env`` differ: the host's own order decides, and both values are told."""
    mocker.patch.dict(os.environ)
    for module in (environment, traits):
        mocker.patch.object(module, "find_override", return_value="app/cli.py:13" if overrides else None)
    write_table(tmp_path / "w")
    Path(".env").write_text("USE_ALPHA_FACTORS=true\nOPENAI_API_KEY=secret\n", encoding="utf-8")
    monkeypatch.setenv("OPENAI_API_KEY", "another secret")
    monkeypatch.setenv("USE_ALPHA_FACTORS", "false")
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", str(tmp_path / "w"))
    result = run("doctor", "--json")
    document = json.loads(result.stdout)
    assert document["alpha_factors"] == alpha
    assert document["settings"] == [
        {
            "name": "USE_ALPHA_FACTORS",
            "environment": "false",
            "env_file": "true",
            "in_force": "env_file" if overrides else "environment",
        }
    ]
    (notice,) = [notice for notice in document["notices"] if notice["slug"] == "two-values"]
    assert "'false' in the environment and 'true' in .env" in notice["message"]
    assert ("the file's value" in notice["message"]) is overrides
    assert "secret" not in result.stdout
    monkeypatch.setenv("USE_ALPHA_FACTORS", "false")
    told = run("doctor")
    assert "two-values" in told.stdout + told.stderr


def test_dotenv_of_another_encoding_is_told(log: Path) -> None:
    """A ``.env`` that is not UTF-8 is a problem with a next step, not a traceback."""
    Path(".env").write_text("USE_ALPHA_FACTORS=true\n", encoding="utf-16")
    result = run("doctor")
    assert result.exit_code == 1
    assert "is not UTF-8" in result.stderr and "[bad-setting]" in result.stderr


def test_doctor_on_a_table_of_other_dates(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors that have no day of a segment are a problem before the run, not after it."""
    write_table(tmp_path / "w")
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", str(tmp_path / "w"))
    monkeypatch.setenv("QLIB_MODEL_TEST_START", "2023-01-01")
    monkeypatch.setenv("QLIB_MODEL_TEST_END", "2023-12-31")
    assert [p["slug"] for p in json.loads(run("doctor", "--json").stdout)["problems"]] == ["table-dates"]


def test_doctor_on_a_foreign_market(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors of instruments that the market does not have are a problem."""
    write_table(tmp_path / "w")
    instruments = tmp_path / "home" / ".qlib" / "qlib_data" / "cn_data" / "instruments"
    instruments.mkdir(parents=True)
    (instruments / "csi300.txt").write_text("SZ300750\t2010-01-01\t2030-01-01\n", encoding="utf-8")
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", str(tmp_path / "w"))
    assert [p["slug"] for p in json.loads(run("doctor", "--json").stdout)["problems"]] == [
        "table-instruments"
    ]


def test_doctor_announces_a_rebuild(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is gone can be rebuilt when there is market data, and not when there is none."""
    monkeypatch.setenv("LOAD_SOTA_FROM_LOG", "true")
    monkeypatch.setenv("SOTA_LOG_PATH", "log/run")
    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", str(tmp_path / "nowhere"))
    document = json.loads(run("doctor", "--json").stdout)
    assert [problem["slug"] for problem in document["problems"]] == ["no-market-data"]
    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", str(tmp_path))
    document = json.loads(run("doctor", "--json").stdout)
    assert [notice["slug"] for notice in document["notices"]] == [*NEEDS, "table-rebuild"]
    assert document["source"]["factors"] == ["Rev5", "Gap3", "Mom60"]
    assert document["num_features"] == 3


def test_save_writes_factors_with_their_origin(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file holds the table and, in its footer, every factor's formula, code and loop."""
    write_table(sota_workspace(log, tmp_path, monkeypatch))
    target = tmp_path / "out.parquet"
    result = run("save", log, "--out", target, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["names"] == ["Rev5", "Gap3", "Mom60"]
    provenance = read_provenance(target)
    assert provenance is not None
    assert [(factor.name, factor.loop) for factor in provenance.factors] == [
        ("Rev5", 0),
        ("Gap3", 2),
        ("Mom60", 2),
    ]
    assert all(factor.code for factor in provenance.factors)
    assert provenance.metrics == METRICS


def test_save_keeps_the_old_file_when_it_fails(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken table leaves the file that was there before untouched."""
    table = write_table(sota_workspace(log, tmp_path, monkeypatch))
    table.write_bytes(table.read_bytes()[:100])
    target = tmp_path / "out.parquet"
    target.write_bytes(b"precious")
    assert run("save", log, "--out", target).exit_code == 1
    assert target.read_bytes() == b"precious"


def test_save_refuses_another_format(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called CSV would be parquet: nothing is written; parquet loads again equal."""
    table = write_table(sota_workspace(log, tmp_path, monkeypatch))
    for name in ("out.csv", "out.H5", "out.pkl"):
        document = json.loads(run("save", log, "--out", tmp_path / name, "--json").stdout)
        assert document["problems"][0]["slug"] == "unknown-format"
        assert "out.parquet" in document["problems"][0]["hint"]
        assert not (tmp_path / name).exists()
    assert run("save", log, "--out", tmp_path / "out.pq").exit_code == 0
    saved = pd.read_parquet(tmp_path / "out.pq")
    pd.testing.assert_frame_equal(saved, pd.read_parquet(table), check_freq=False)


def test_hostile_names_do_not_reach_the_terminal(log: Path) -> None:
    """Control characters and lone surrogates of a stranger's log are shown as escapes."""
    from rdagent_sota_patch.cli.output import clean

    assert clean("a\x1b[2Jb\ud800\r因子 x") == "a\\x1b[2Jb\\ud800\\r因子 x"
